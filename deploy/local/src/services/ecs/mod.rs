//! ECS: clusters, task definitions, services and tasks.

mod cluster;
mod common;
pub mod scheduler;
pub mod service;
pub mod task;
pub mod task_definition;

use serde_json::{Value, json};

use crate::model::Cloud;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, Tags, lower_tags};
use crate::protocol::tags;
use common::{PAGE, arns};

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreateCluster" => cluster::create(cloud, input),
        "DescribeClusters" => Ok(cluster::describe(cloud, input)),
        "ListClusters" => {
            let all = cloud.ecs.clusters.values().map(|cluster| (cluster.arn.clone(), cluster.arn.as_str().into()));
            arns(input, "clusterArns", all.collect(), PAGE)
        }
        "RegisterTaskDefinition" => task_definition::register(cloud, input),
        "DescribeTaskDefinition" => task_definition::describe(cloud, input),
        "ListTaskDefinitions" => task_definition::list(cloud, input),
        "ListTaskDefinitionFamilies" => task_definition::list_families(cloud, input),
        "DeregisterTaskDefinition" => task_definition::deregister(cloud, input),
        "DeleteTaskDefinitions" => task_definition::delete(cloud, input),
        "CreateService" => service::create(cloud, input),
        "UpdateService" => service::update(cloud, input),
        "DeleteService" => service::delete(cloud, input),
        "DescribeServices" => service::describe(cloud, input),
        "ListServices" => service::list(cloud, input),
        "ListServiceDeployments" => service::list_deployments(cloud, input),
        "DescribeServiceRevisions" => service::describe_revisions(cloud, input),
        "RunTask" => task::run(cloud, input),
        "StopTask" => task::stop_by_user(cloud, input),
        "ListTasks" => task::list(cloud, input),
        "DescribeTasks" => task::describe(cloud, input),
        "TagResource" => {
            let added = input.tags("tags");
            tags::add(AwsService::Ecs, tagged(cloud, input)?, added)?;
            Ok(json!({}))
        }
        "UntagResource" => {
            let tags = tagged(cloud, input)?;
            input.texts("tagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListTagsForResource" => Ok(json!({"tags": lower_tags(tagged(cloud, input)?)})),
        _ => Err(AwsService::Ecs.unknown(operation)),
    }
}

fn tagged<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Tags, ApiError> {
    let arn = input.need("resourceArn")?;
    let missing = ApiError::invalid(format!("The specified resource does not exist: {arn}"));
    let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
    let parts: Vec<&str> = resource.split('/').collect();
    let ecs = &mut cloud.ecs;
    let tags = match parts[..] {
        ["cluster", name] => ecs.clusters.get_mut(name).map(|cluster| &mut cluster.tags),
        ["service", cluster, name] => {
            let service = ecs.clusters.get_mut(cluster).and_then(|cluster| cluster.services.get_mut(name));
            service.filter(|service| service.is_active()).map(|service| &mut service.tags)
        }
        ["task", ..] => ecs.tasks.get_mut(arn).map(|task| &mut task.tags),
        ["task-definition", _] => ecs.definition_mut(arn).map(|definition| &mut definition.tags),
        _ => None,
    };
    tags.ok_or(missing)
}
