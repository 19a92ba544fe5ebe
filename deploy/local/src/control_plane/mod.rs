//! The control plane: time, timers, dispatch and stale reads around the data of a cloud.
//!
//! Guarantees: no I/O, no clock and no randomness inside; equal calls at equal times give equal clouds. Only the images are
//! behind a trait ([`Images`]), because a registry keeps them in a folder.

pub mod stale_reads;
pub mod throttling;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;

use crate::model::images::Images;
use crate::model::launch::Report;
use crate::model::rules::{Rules, Throttling};
use crate::model::time::Time;
use crate::model::{Cloud, Effect, Timer};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::{request, response, xml};
use crate::services;
use stale_reads::StaleReads;
use throttling::Buckets;

/// An answer, and the facts for the record of calls.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Bytes>,
    pub service: &'static str,
    pub operation: String,
    pub resource: Option<String>,
    pub mutating: bool,
    /// The error code if the call was refused.
    pub refused: Option<String>,
}

/// Applies calls, reports and timers to a cloud.
pub struct ControlPlane {
    pub cloud: Cloud,
    throttling: Buckets,
    stale_reads: StaleReads,
}

impl ControlPlane {
    pub fn new(rules: Rules, images: Arc<dyn Images>) -> Self {
        Self::of(Cloud::new(rules, images))
    }

    /// Continues with a saved cloud. Its tasks ended with the process that ran them; services start others.
    pub fn restored(mut saved: Cloud, rules: Rules, images: Arc<dyn Images>, now: Time) -> Self {
        saved.rules = rules;
        saved.images = images;
        saved.set_time(now);
        services::ecs::task::lose_all(&mut saved, "localcloud was restarted");
        Self::of(saved)
    }

    fn of(cloud: Cloud) -> Self {
        let throttling = Buckets::new(cloud.rules.throttling);
        let stale_reads = StaleReads::new(cloud.rules.stale_reads, &cloud.rules.seed);
        Self { cloud, throttling, stale_reads }
    }

    /// Answers a request at the time `now`, after all timers that are due.
    pub fn call(&mut self, request: &Request<Bytes>, now: Time) -> Answer {
        self.cloud.set_time(now);
        self.run_timers();
        match request::read(request) {
            Ok(call) => self.answer(request, call),
            Err(unread) => {
                let service = unread.service.map_or("unknown", AwsService::name);
                let code = unread.error.code.unwrap_or("UnknownOperationException");
                Answer {
                    response: response::json_error(&unread.error, code),
                    service,
                    operation: unread.operation,
                    resource: None,
                    mutating: false,
                    refused: Some(code.to_owned()),
                }
            }
        }
    }

    fn answer(&mut self, request: &Request<Bytes>, call: request::Call) -> Answer {
        let request::Call { service, operation, input } = call;
        let region = request::signed_region(request.headers()).unwrap_or(&self.cloud.rules.region);
        let reply = if !self.throttling.admits(service, &operation, self.cloud.now()) {
            Err(service.throttled())
        } else if self.cloud.rules.denied.contains(&format!("{}:{operation}", service.name())) {
            Err(service.denied(&operation))
        } else if service.is_global() || region == self.cloud.rules.region {
            match service {
                AwsService::S3 => services::s3::run(&mut self.cloud, request),
                _ => self.run(service, &operation, &input).map(|output| match service {
                    AwsService::Iam | AwsService::Sts => xml::query_answer(&operation, service.namespace(), &output),
                    _ => response::json(&output),
                }),
            }
        } else {
            Err(self.wrong_region(service, region))
        };
        let (response, refused) = match reply {
            Ok(response) => (response, None),
            Err(error) => {
                let (response, code) = refusal(request, service, &error);
                (response, Some(code.to_owned()))
            }
        };
        let resource = if service == AwsService::S3 {
            Some(request.uri().path().trim_start_matches('/').to_owned())
        } else {
            resource_hint(&input)
        };
        let mutating = mutates(&operation);
        Answer { response, service: service.name(), operation, resource, mutating, refused }
    }

    /// Runs an operation on the current tables or, for a read, on those of a moment ago.
    fn run(&mut self, service: AwsService, operation: &str, input: &Value) -> Reply {
        let cloud = &mut self.cloud;
        if mutates(operation) {
            self.stale_reads.record(cloud);
            return services::run(cloud, service, operation, input);
        }
        let Some(mut snapshot) = self.stale_reads.pick(cloud.now()) else {
            return services::run(cloud, service, operation, input);
        };
        snapshot.swap(cloud);
        let reply = services::run(cloud, service, operation, input);
        snapshot.swap(cloud);
        reply
    }

    fn wrong_region(&self, service: AwsService, region: &str) -> ApiError {
        let own = &self.cloud.rules.region;
        if service == AwsService::S3 {
            let message =
                format!("The authorization header is malformed; the region '{region}' is wrong; expecting '{own}'");
            return ApiError::new("AuthorizationHeaderMalformed", message);
        }
        let message = format!(
            "Credential should be scoped to a valid region, not '{region}': this localcloud has the region '{own}' (--region)"
        );
        ApiError::new("InvalidSignatureException", message).with_status(403)
    }

    /// Applies a report of the driver.
    pub fn report(&mut self, report: Report, now: Time) {
        self.cloud.set_time(now);
        services::ecs::task::report(&mut self.cloud, report);
    }

    /// Runs the timers that are due; returns what the driver has to do because of them and of earlier calls and reports.
    pub fn advance(&mut self, now: Time) -> Vec<Effect> {
        self.cloud.set_time(now);
        self.run_timers();
        self.cloud.take_effects()
    }

    fn run_timers(&mut self) {
        while let Some(timer) = self.cloud.take_due_timer() {
            self.run_timer(&timer);
        }
    }

    fn run_timer(&mut self, timer: &Timer) {
        let cloud = &mut self.cloud;
        match timer {
            Timer::Service { cluster, name } => services::ecs::scheduler::reconcile(cloud, cluster, name),
            Timer::ForgetService { cluster, name } => services::ecs::service::forget(cloud, cluster, name),
            Timer::ForgetTask { arn } => services::ecs::task::forget(cloud, arn),
            Timer::ForgetDefinition { arn } => services::ecs::task_definition::forget(cloud, arn),
            Timer::Operation { id } => services::cloudmap::complete(cloud, id),
        }
    }

    /// Sets the rates above which calls are refused; all buckets are full.
    pub fn throttle(&mut self, throttling: Throttling) {
        self.cloud.rules.throttling = throttling;
        self.throttling = Buckets::new(throttling);
    }
}

/// An error as its service writes it, and its code.
pub(crate) fn refusal(
    request: &Request<Bytes>,
    service: AwsService,
    error: &ApiError,
) -> (Response<Bytes>, &'static str) {
    let code = error.code.unwrap_or(service.invalid_input());
    let response = match service {
        AwsService::Iam | AwsService::Sts => xml::query_error(error, code, service.namespace()),
        AwsService::S3 => services::s3::refuse(request, error, code),
        _ => response::json_error(error, code),
    };
    (response, code)
}

pub(crate) fn mutates(operation: &str) -> bool {
    const READS: [&str; 8] = ["BatchGet", "Describe", "Discover", "Filter", "Get", "Head", "List", "Simulate"];
    !READS.iter().any(|read| operation.starts_with(read))
}

fn resource_hint(input: &Value) -> Option<String> {
    const NAMES: [&str; 19] = [
        "serviceName",
        "service",
        "family",
        "taskDefinition",
        "task",
        "clusterName",
        "resourceArn",
        "RoleName",
        "Name",
        "InstanceId",
        "ServiceId",
        "repositoryName",
        // Before PolicyName: every service has a scaling policy of the same name.
        "ResourceId",
        "PolicyName",
        "ResourceARN",
        "logGroupName",
        "Id",
        "OperationId",
        "cluster",
    ];
    NAMES.iter().find_map(|name| input.get(*name)?.as_str()).map(str::to_owned)
}
