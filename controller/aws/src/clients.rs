//! The AWS clients, one for each service.

use std::sync::Arc;

use crate::error_detail::RecordUrl;
use crate::rate_limit::RateLimiter;
use crate::rate_limit::attempts::Attempts;

#[derive(Clone, Debug)]
pub struct Clients {
    pub ecs: aws_sdk_ecs::Client,
    pub iam: aws_sdk_iam::Client,
    pub logs: aws_sdk_cloudwatchlogs::Client,
    pub ecr: aws_sdk_ecr::Client,
    pub discovery: aws_sdk_servicediscovery::Client,
    pub s3: aws_sdk_s3::Client,
    pub scaling: aws_sdk_applicationautoscaling::Client,
    pub sts: aws_sdk_sts::Client,
    pub codebuild: aws_sdk_codebuild::Client,
}

impl Clients {
    /// `limits` learns from each attempt of each call, including the SDK's own retries.
    pub fn new(config: &aws_config::SdkConfig, limits: &Arc<RateLimiter>) -> Self {
        let attempts = |service| Attempts::new(service, limits.clone());
        Self {
            ecs: aws_sdk_ecs::Client::from_conf(
                aws_sdk_ecs::config::Builder::from(config).interceptor(attempts("ecs")).interceptor(RecordUrl).build(),
            ),
            iam: aws_sdk_iam::Client::from_conf(
                aws_sdk_iam::config::Builder::from(config).interceptor(attempts("iam")).interceptor(RecordUrl).build(),
            ),
            logs: aws_sdk_cloudwatchlogs::Client::from_conf(
                aws_sdk_cloudwatchlogs::config::Builder::from(config)
                    .interceptor(attempts("logs"))
                    .interceptor(RecordUrl)
                    .build(),
            ),
            ecr: aws_sdk_ecr::Client::from_conf(
                aws_sdk_ecr::config::Builder::from(config).interceptor(attempts("ecr")).interceptor(RecordUrl).build(),
            ),
            discovery: aws_sdk_servicediscovery::Client::from_conf(
                aws_sdk_servicediscovery::config::Builder::from(config)
                    .interceptor(attempts("servicediscovery"))
                    .interceptor(RecordUrl)
                    .build(),
            ),
            // Endpoints other than AWS's support buckets in the path only.
            s3: aws_sdk_s3::Client::from_conf(
                aws_sdk_s3::config::Builder::from(config)
                    .force_path_style(config.endpoint_url().is_some())
                    .interceptor(attempts("s3"))
                    .interceptor(RecordUrl)
                    .build(),
            ),
            scaling: aws_sdk_applicationautoscaling::Client::from_conf(
                aws_sdk_applicationautoscaling::config::Builder::from(config)
                    .interceptor(attempts("application-autoscaling"))
                    .interceptor(RecordUrl)
                    .build(),
            ),
            sts: aws_sdk_sts::Client::from_conf(
                aws_sdk_sts::config::Builder::from(config).interceptor(RecordUrl).build(),
            ),
            codebuild: aws_sdk_codebuild::Client::from_conf(
                aws_sdk_codebuild::config::Builder::from(config)
                    .interceptor(attempts("codebuild"))
                    .interceptor(RecordUrl)
                    .build(),
            ),
        }
    }
}
