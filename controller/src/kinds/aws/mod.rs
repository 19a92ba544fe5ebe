//! The AWS clients, one error for all their calls, and what one observation may remember for the next.

mod attempts;
mod cache;
pub mod fence;
pub mod limits;
pub mod rotation;
mod told;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use attempts::Attempts;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::place::Place;
use super::{Live, discovery, image_repository, log_group, role, scaling, service, task_definition};
use crate::priority::Priority;
pub use cache::Cache;
use fence::Fence;
use limits::Limits;
use told::{Asked, Told, telling};

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
    /// Each attempt of each call tells `limits` whether it was refused for its rate, the SDK's own retries included.
    pub fn new(config: &aws_config::SdkConfig, limits: &Arc<Limits>) -> Self {
        let tell = |service| Attempts::new(service, limits.clone());
        Self {
            ecs: aws_sdk_ecs::Client::from_conf(
                aws_sdk_ecs::config::Builder::from(config).interceptor(tell("ecs")).interceptor(Asked).build(),
            ),
            iam: aws_sdk_iam::Client::from_conf(
                aws_sdk_iam::config::Builder::from(config).interceptor(tell("iam")).interceptor(Asked).build(),
            ),
            logs: aws_sdk_cloudwatchlogs::Client::from_conf(
                aws_sdk_cloudwatchlogs::config::Builder::from(config)
                    .interceptor(tell("logs"))
                    .interceptor(Asked)
                    .build(),
            ),
            ecr: aws_sdk_ecr::Client::from_conf(
                aws_sdk_ecr::config::Builder::from(config).interceptor(tell("ecr")).interceptor(Asked).build(),
            ),
            discovery: aws_sdk_servicediscovery::Client::from_conf(
                aws_sdk_servicediscovery::config::Builder::from(config)
                    .interceptor(tell("servicediscovery"))
                    .interceptor(Asked)
                    .build(),
            ),
            // Other endpoints than AWS's know buckets by path only.
            s3: aws_sdk_s3::Client::from_conf(
                aws_sdk_s3::config::Builder::from(config)
                    .force_path_style(config.endpoint_url().is_some())
                    .interceptor(tell("s3"))
                    .interceptor(Asked)
                    .build(),
            ),
            scaling: aws_sdk_applicationautoscaling::Client::from_conf(
                aws_sdk_applicationautoscaling::config::Builder::from(config)
                    .interceptor(tell("application-autoscaling"))
                    .interceptor(Asked)
                    .build(),
            ),
            sts: aws_sdk_sts::Client::from_conf(aws_sdk_sts::config::Builder::from(config).interceptor(Asked).build()),
            codebuild: aws_sdk_codebuild::Client::from_conf(
                aws_sdk_codebuild::config::Builder::from(config)
                    .interceptor(tell("codebuild"))
                    .interceptor(Asked)
                    .build(),
            ),
        }
    }
}

/// What to do about a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Network, 5xx, a conflict with another change: the same call may go through later.
    Transient,
    /// Rate limits, which sometimes hide in the message of another error (dagster#33439).
    Throttled,
    /// Something made a moment ago is not visible yet, such as a role that ECS cannot assume.
    NotYet,
    /// This process may not change anything, or not any more: another one holds the lease.
    Fenced,
    /// Only a change of config, settings or permissions helps.
    Terminal,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.in_words())]
pub struct CallError {
    pub operation: &'static str,
    pub class: Class,
    /// AWS's error code, or empty where no answer came.
    pub code: String,
    pub message: String,
}

impl CallError {
    /// An answer that lacks what AWS always sends.
    pub fn malformed(operation: &'static str, what: &str) -> Self {
        Self { operation, class: Class::Terminal, code: String::new(), message: format!("the answer has no {what}") }
    }

    pub fn no_answer(operation: &'static str, within: Duration) -> Self {
        Self::unanswered(operation, Class::Transient, &format!("no answer within {within:?}"))
    }

    /// Without any answer of AWS.
    fn unanswered(operation: &'static str, class: Class, message: &str) -> Self {
        Self { operation, class, code: String::new(), message: message.to_owned() }
    }

    /// Whether AWS said that it did nothing, and that the same call may go through later.
    pub fn refused_for_now(&self) -> bool {
        !self.code.is_empty() && matches!(self.class, Class::Throttled | Class::NotYet)
    }

    /// Operation, code and message, as far as there are any.
    fn in_words(&self) -> String {
        let parts = [self.operation, &self.code, &self.message];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    pub fn is(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }
}

/// Makes one call; the SDK's own retries are inside it.
///
/// The SDK's futures are tens of kilobytes; on the heap they do not add up along the way to here.
pub fn call<T, E>(
    operation: &'static str,
    future: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
) -> impl Future<Output = Result<T, CallError>> + Send
where
    T: Send,
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let service = operation.split(':').next().unwrap_or_default();
    let future = Box::pin(telling(service, future));
    async move {
        future.await.map_err(|Told { code, message, status }| {
            let class = classify(&code, &message, status);
            CallError { operation, class, code, message }
        })
    }
}

/// Whether an operation changes anything, by its verb.
pub fn mutates(operation: &str) -> bool {
    const READS: [&str; 6] = ["BatchGet", "Describe", "Filter", "Get", "Head", "List"];
    let name = operation.split_once(':').map_or(operation, |(_, name)| name);
    !READS.iter().any(|verb| name.starts_with(verb))
}

/// In what AWS says of a call that it refused for its rate; ECS says it in other errors' messages too (dagster#33439).
const THROTTLED: [&str; 5] = ["Throttl", "TooManyRequests", "RequestLimitExceeded", "Rate exceeded", "SlowDown"];

fn classify(code: &str, message: &str, status: Option<u16>) -> Class {
    if THROTTLED.iter().any(|word| code.contains(word) || message.contains(word)) {
        return Class::Throttled;
    }
    // ECS refuses a role for up to a minute after it was made, and a service its fresh Cloud Map registry.
    let not_yet = [
        "unable to assume",
        "is not authorized to perform: iam:PassRole",
        "Role is not valid",
        "verify that the ECS service role",
    ];
    if not_yet.iter().any(|words| message.contains(words)) {
        return Class::NotYet;
    }
    let conflicts = [
        "ConcurrentUpdateException",
        "ConcurrentModification",
        "OperationAborted",
        "ServiceUnavailable",
        "ResourceInUse",
        "UpdateInProgressException",
        // Made by a call whose answer was lost, or not visible to the last read yet: the next observation tells.
        "AlreadyExists",
    ];
    if code.is_empty() || status.is_some_and(|status| status >= 500) || conflicts.iter().any(|word| code.contains(word))
    {
        return Class::Transient;
    }
    Class::Terminal
}

/// Which locations to read.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Everything of the deployment, with the fewest calls: what no bulk call carries is read in turns, and remembered between.
    All,
    /// One location, tags read afresh.
    One(&'a str),
}

/// Everything a room needs to observe and to apply.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    pub clients: &'a Clients,
    pub place: &'a Place,
    pub cache: &'a Cache,
    pub limits: &'a Limits,
    pub fence: &'a Fence,
    pub priority: Priority,
}

impl Session<'_> {
    /// An error where this process may not change anything now.
    pub fn check_fence(self, operation: &'static str) -> Result<(), CallError> {
        let refused =
            || CallError::unanswered(operation, Class::Fenced, "not begun: this process does not hold the lease");
        self.fence.is_open().then_some(()).ok_or_else(refused)
    }

    /// Makes one call when its turn has come; the SDK's own retries are inside it. One that changes anything is begun only
    /// while the fence is open, and given up when that closes: whether it was applied is not known then.
    pub fn call<T, E>(
        self,
        operation: &'static str,
        future: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> impl Future<Output = Result<T, CallError>> + Send
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let call = call(operation, future);
        async move {
            self.limits.admit(operation, self.priority).await;
            if !mutates(operation) {
                return call.await;
            }
            let closing = self.fence.closing();
            self.check_fence(operation)?;
            let _under_way = self.fence.under_way();
            tokio::select! {
                answer = tokio::time::timeout(self.fence.call_timeout(), call) => answer
                    .unwrap_or_else(|_| Err(CallError::no_answer(operation, self.fence.call_timeout()))),
                () = closing => Err(CallError::unanswered(operation, Class::Fenced, "given up: this process lost the lease")),
            }
        }
    }
}

/// Live state by repository name. A location of which nothing exists is absent.
///
/// Errors: one failed call fails the whole observation, since half of it would read as 'absent'.
pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<String, Live>, CallError> {
    let mut all: BTreeMap<String, Live> = BTreeMap::new();
    if let Scope::All = scope {
        session.cache.begin_sweep();
    }
    let (log_groups, image_repositories, roles, task_definitions, discovery, services, scaling) = futures::try_join!(
        log_group::aws::observe(session, scope),
        image_repository::aws::observe(session, scope),
        role::aws::observe(session, scope),
        task_definition::aws::observe(session, scope),
        discovery::aws::observe(session, scope),
        service::aws::observe(session, scope),
        scaling::aws::observe(session, scope),
    )?;
    for (name, live) in log_groups {
        all.entry(name).or_default().log_group = Some(live);
    }
    for (name, live) in image_repositories {
        all.entry(name).or_default().image_repository = Some(live);
    }
    for (name, roles) in roles {
        let found = all.entry(name).or_default();
        (found.role, found.execution_role) = (roles.code, roles.execution);
    }
    for (name, live) in task_definitions {
        let found = all.entry(name).or_default();
        found.task_definitions = live.servers;
        found.run_definitions = live.runs;
    }
    for (name, live) in discovery {
        all.entry(name).or_default().discovery = Some(live);
    }
    for (name, live) in services {
        all.entry(name).or_default().service = Some(live);
    }
    for (name, live) in scaling {
        all.entry(name).or_default().scaling = Some(live);
    }
    if let Scope::All = scope {
        session.cache.end_sweep(all.clone());
    }
    Ok(all)
}

/// Asked for the repository of a full name: `None` for names that are not of this deployment or not in scope.
pub fn in_scope<'n>(scope: Scope<'_>, prefix: &str, name: &'n str) -> Option<&'n str> {
    let repository = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
    match scope {
        Scope::All => Some(repository),
        Scope::One(wanted) => (wanted == repository).then_some(repository),
    }
}
