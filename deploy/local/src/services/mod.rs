//! The API calls of each AWS service: operations and their errors.

pub mod autoscaling;
pub mod cloudmap;
pub mod codebuild;
pub mod ecr;
pub mod ecs;
pub mod iam;
pub mod logs;
pub mod s3;
pub mod sts;

use serde_json::Value;

use crate::model::Cloud;
use crate::protocol::api_error::Reply;
use crate::protocol::aws_service::AwsService;

/// Runs an operation of any service except S3, which answers no JSON documents.
pub fn run(cloud: &mut Cloud, service: AwsService, operation: &str, input: &Value) -> Reply {
    match service {
        AwsService::AutoScaling => autoscaling::run(cloud, operation, input),
        AwsService::CloudMap => cloudmap::run(cloud, operation, input),
        AwsService::CodeBuild => codebuild::run(cloud, operation, input),
        AwsService::Ecr => ecr::run(cloud, operation, input),
        AwsService::Ecs => ecs::run(cloud, operation, input),
        AwsService::Iam => iam::run(cloud, operation, input),
        AwsService::Logs => logs::run(cloud, operation, input),
        AwsService::Sts => sts::run(cloud, operation, input),
        AwsService::S3 => Err(service.unknown(operation)),
    }
}
