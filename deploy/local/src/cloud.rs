//! The whole cloud as one value: plain data, calls and reports go in with an instant, answers and effects come out.
//!
//! Guarantees: no I/O, no clock and no randomness inside, so that equal calls at equal instants give equal clouds. The one thing
//! behind a trait is where image layers lie ([`Images`]), because a registry keeps those in a folder.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::driver::{Launch, Report};
use crate::fault::{Fault, Reply};
use crate::past::{Past, State};
use crate::quotas::Quotas;
use crate::services::autoscaling::AutoScaling;
use crate::services::cloudmap::CloudMap;
use crate::services::codebuild::CodeBuild;
use crate::services::ecr::{Ecr, Images, MemoryImages};
use crate::services::ecs::Ecs;
use crate::services::iam::Iam;
use crate::services::logs::Logs;
use crate::services::s3::S3;
use crate::services::{self, Service};
use crate::throttling::{Buckets, Throttling};
use crate::time::Time;
use crate::wire::{self, xml};

/// What does not change while a cloud lives.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Twelve digits.
    pub account: String,
    /// The only region; a request signed for another one is refused, as a regional endpoint of AWS refuses it.
    pub region: String,
    /// Ids and tokens are drawn from it.
    pub seed: [u8; 32],
    /// Host and port that image names carry.
    pub registry: String,
    /// For how long ECS cannot assume a role after it was made.
    pub role_propagation: Duration,
    /// How long a task without a health check must have run to count as started.
    pub steady_after: Duration,
    /// How long a Cloud Map operation takes.
    pub operation_delay: Duration,
    /// The rates at which calls are refused.
    pub throttling: Throttling,
    /// Reads may answer with what was true up to so long ago. Never those of S3, which AWS promises to be consistent.
    pub stale_reads: Duration,
    /// For how long after a change of a scalable target, or of a policy of it, the next such change is refused.
    pub scaling_conflicts: Duration,
    /// Of 100 tasks so many stop before they run, for a reason that says nothing against what was launched.
    pub transient_stops: u32,
    /// Of 100 Cloud Map services made under the name of a deleted one so many get its id again.
    pub returning_ids: u32,
    /// Whether ECS keeps a field of task definitions (`ephemeralStorage`) that nobody gave, as it may begin to any day.
    pub fills_in: bool,
    /// Whether somebody ends the builds of `CodeBuild`; otherwise each fails at once.
    pub builds: bool,
    /// How much of everything there may be.
    pub quotas: Quotas,
    /// Actions that nobody is allowed, as IAM writes them: `ecs:CreateService`.
    pub denied: BTreeSet<String>,
    /// What Secrets Manager and Parameter Store hold, by ARN. There are no calls for them: tasks find them in their environment.
    pub secrets: BTreeMap<String, String>,
}

impl Rules {
    /// The password that the registry asks for: one for as long as the seed is the same.
    pub fn registry_token(&self) -> String {
        hex::encode(Sha256::new().chain_update(b"registry token").chain_update(self.seed).finalize())
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            account: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            seed: [0; 32],
            registry: "127.0.0.1:4566".to_owned(),
            role_propagation: Duration::ZERO,
            steady_after: Duration::from_secs(5),
            operation_delay: Duration::from_secs(1),
            throttling: Throttling::Off,
            stale_reads: Duration::ZERO,
            scaling_conflicts: Duration::ZERO,
            transient_stops: 0,
            returning_ids: 100,
            builds: false,
            quotas: Quotas::aws(),
            fills_in: false,
            denied: BTreeSet::new(),
            secrets: BTreeMap::new(),
        }
    }
}

/// What the world outside has to do.
#[derive(Clone, Debug)]
pub enum Effect {
    Launch(Launch),
    Stop { task_arn: String },
}

/// What is looked at again at a given instant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Timer {
    Service { cluster: String, name: String },
    ForgetService { cluster: String, name: String },
    ForgetTask { arn: String },
    ForgetDefinition { arn: String },
    Operation { id: String },
}

/// An answer, and what is worth writing down about it.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Bytes>,
    pub service: &'static str,
    pub operation: String,
    pub resource: Option<String>,
    pub mutating: bool,
    /// The error code of a refusal.
    pub refused: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Cloud {
    #[serde(skip)]
    pub rules: Rules,
    #[serde(skip, default = "MemoryImages::shared")]
    pub images: Arc<dyn Images>,
    pub autoscaling: AutoScaling,
    pub cloudmap: CloudMap,
    #[serde(default)]
    pub codebuild: CodeBuild,
    pub ecr: Ecr,
    pub ecs: Ecs,
    pub iam: Iam,
    pub logs: Logs,
    pub s3: S3,
    now: Time,
    drawn: u64,
    timers: BTreeSet<(Time, Timer)>,
    #[serde(skip)]
    effects: Vec<Effect>,
    #[serde(skip)]
    throttling: Buckets,
    #[serde(skip)]
    past: Past,
}

impl Cloud {
    pub fn new(rules: Rules, images: Arc<dyn Images>) -> Self {
        Self {
            throttling: Buckets::new(rules.throttling),
            past: Past::new(rules.stale_reads, &rules.seed),
            rules,
            images,
            autoscaling: AutoScaling::default(),
            cloudmap: CloudMap::default(),
            codebuild: CodeBuild::default(),
            ecr: Ecr::default(),
            ecs: Ecs::default(),
            iam: Iam::default(),
            logs: Logs::default(),
            s3: S3::default(),
            now: Time::default(),
            drawn: 0,
            timers: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// A saved cloud comes back: tasks that ran are lost with the process that ran them, services will start others.
    #[must_use]
    pub fn revived(mut self, rules: Rules, images: Arc<dyn Images>, now: Time) -> Self {
        self.throttling = Buckets::new(rules.throttling);
        self.past = Past::new(rules.stale_reads, &rules.seed);
        self.rules = rules;
        self.images = images;
        self.enter(now);
        services::ecs::task::lose_all(&mut self, "localcloud was restarted");
        self
    }

    /// The one place where a request enters. It sees everything that was due by `now`.
    pub fn call(&mut self, request: &Request<Bytes>, now: Time) -> Answer {
        self.enter(now);
        self.catch_up();
        match wire::read(request) {
            Ok(call) => self.answer(request, call),
            Err(unread) => {
                let service = unread.service.map_or("unknown", Service::name);
                let code = unread.fault.code.unwrap_or("UnknownOperationException");
                Answer {
                    response: wire::json_fault(&unread.fault, code),
                    service,
                    operation: unread.operation,
                    resource: None,
                    mutating: false,
                    refused: Some(code.to_owned()),
                }
            }
        }
    }

    fn answer(&mut self, request: &Request<Bytes>, call: wire::Call) -> Answer {
        let wire::Call { service, operation, input } = call;
        let region = wire::signed_region(request.headers()).unwrap_or(&self.rules.region);
        let reply = if !self.throttling.admits(service, &operation, self.now) {
            Err(service.throttled())
        } else if self.rules.denied.contains(&format!("{}:{operation}", service.name())) {
            Err(service.denied(&operation))
        } else if service.is_global() || region == self.rules.region {
            match service {
                Service::S3 => services::s3::run(self, request),
                _ => self.run(service, &operation, &input).map(|output| match service {
                    Service::Iam | Service::Sts => xml::query_answer(&operation, service.namespace(), &output),
                    _ => wire::json(&output),
                }),
            }
        } else {
            Err(self.wrong_region(service, region))
        };
        let (response, refused) = match reply {
            Ok(response) => (response, None),
            Err(fault) => {
                let (response, code) = refusal(request, service, &fault);
                (response, Some(code.to_owned()))
            }
        };
        let resource = if service == Service::S3 {
            Some(request.uri().path().trim_start_matches('/').to_owned())
        } else {
            resource_hint(&input)
        };
        let mutating = mutates(&operation);
        Answer { response, service: service.name(), operation, resource, mutating, refused }
    }

    /// Runs an operation on the state as it is or, for a read, as it was a moment ago.
    fn run(&mut self, service: Service, operation: &str, input: &serde_json::Value) -> Reply {
        if mutates(operation) {
            if self.past.remembers() {
                self.past.keep(self.now, self.state());
            }
            return services::run(self, service, operation, input);
        }
        let Some(mut then) = self.past.look_back(self.now) else {
            return services::run(self, service, operation, input);
        };
        self.exchange(&mut then);
        let reply = services::run(self, service, operation, input);
        self.exchange(&mut then);
        reply
    }

    fn state(&self) -> State {
        State {
            autoscaling: self.autoscaling.clone(),
            cloudmap: self.cloudmap.clone(),
            ecr: self.ecr.clone(),
            ecs: self.ecs.clone(),
            iam: self.iam.clone(),
            logs: self.logs.clone(),
        }
    }

    fn exchange(&mut self, state: &mut State) {
        std::mem::swap(&mut self.autoscaling, &mut state.autoscaling);
        std::mem::swap(&mut self.cloudmap, &mut state.cloudmap);
        std::mem::swap(&mut self.ecr, &mut state.ecr);
        std::mem::swap(&mut self.ecs, &mut state.ecs);
        std::mem::swap(&mut self.iam, &mut state.iam);
        std::mem::swap(&mut self.logs, &mut state.logs);
    }

    fn wrong_region(&self, service: Service, region: &str) -> Fault {
        let own = &self.rules.region;
        if service == Service::S3 {
            let message =
                format!("The authorization header is malformed; the region '{region}' is wrong; expecting '{own}'");
            return Fault::new("AuthorizationHeaderMalformed", message);
        }
        let message = format!(
            "Credential should be scoped to a valid region, not '{region}': this localcloud is '{own}' (--region)"
        );
        Fault::new("InvalidSignatureException", message).with_status(403)
    }

    /// What became of a task.
    pub fn report(&mut self, report: Report, now: Time) {
        self.enter(now);
        services::ecs::task::report(self, report);
    }

    /// Everything that is due by `now`, and what the world has to do about it and about the calls and reports before.
    pub fn advance(&mut self, now: Time) -> Vec<Effect> {
        self.enter(now);
        self.catch_up();
        std::mem::take(&mut self.effects)
    }

    fn catch_up(&mut self) {
        while self.timers.first().is_some_and(|(due, _)| *due <= self.now) {
            if let Some((_, timer)) = self.timers.pop_first() {
                self.ring(&timer);
            }
        }
    }

    /// When [`Self::advance`] has something to do next.
    pub fn next_due(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    fn ring(&mut self, timer: &Timer) {
        match timer {
            Timer::Service { cluster, name } => {
                services::ecs::scheduler::reconcile(self, cluster, name);
            }
            Timer::ForgetService { cluster, name } => {
                services::ecs::service::forget(self, cluster, name);
            }
            Timer::ForgetTask { arn } => services::ecs::task::forget(self, arn),
            Timer::ForgetDefinition { arn } => services::ecs::task_definition::forget(self, arn),
            Timer::Operation { id } => services::cloudmap::complete(self, id),
        }
    }

    /// Time never runs backwards inside, whatever the caller's clock does.
    pub(crate) fn enter(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn wake(&mut self, at: Time, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// A new id of `length` hexadecimal digits, at most 64: the seed and a counter, never a repetition.
    pub fn draw(&mut self, length: usize) -> String {
        self.drawn += 1;
        let digest = Sha256::new().chain_update(self.rules.seed).chain_update(self.drawn.to_be_bytes()).finalize();
        let mut id = hex::encode(digest);
        id.truncate(length);
        id
    }

    /// A number for what happens to one thing, from the seed and that thing's id: no draw of an id, so that whether anything
    /// is decided this way changes no other.
    pub fn lot(&self, what: &str, id: &str) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.rules.seed)
            .chain_update(what.as_bytes())
            .chain_update([0])
            .chain_update(id.as_bytes())
            .finalize();
        digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    /// Whether what happens so many times out of 100 happens to this thing.
    pub fn happens(&self, percent: u32, what: &str, id: &str) -> bool {
        self.lot(what, id) % 100 < u64::from(percent)
    }

    /// Refuses calls for their rate from now on, or no longer; all buckets are full.
    pub fn throttle(&mut self, throttling: Throttling) {
        self.rules.throttling = throttling;
        self.throttling = Buckets::new(throttling);
    }

    /// `8-4-4-4-12`.
    pub fn draw_uuid(&mut self) -> String {
        let id = self.draw(32);
        format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
    }

    pub fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.rules.region, self.rules.account)
    }
}

/// A refusal as its service words it, and its code.
pub(crate) fn refusal(request: &Request<Bytes>, service: Service, fault: &Fault) -> (Response<Bytes>, &'static str) {
    let code = fault.code.unwrap_or(service.invalid_input());
    let response = match service {
        Service::Iam | Service::Sts => xml::query_fault(fault, code, service.namespace()),
        Service::S3 => services::s3::refuse(request, fault, code),
        _ => wire::json_fault(fault, code),
    };
    (response, code)
}

pub(crate) fn mutates(operation: &str) -> bool {
    const READS: [&str; 8] = ["BatchGet", "Describe", "Discover", "Filter", "Get", "Head", "List", "Simulate"];
    !READS.iter().any(|read| operation.starts_with(read))
}

fn resource_hint(input: &serde_json::Value) -> Option<String> {
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
        // Of a scaling policy the service, not the policy's own name, which is the same everywhere.
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
