//! Making a call: each one waits for its rate, and one that changes anything needs the fence to be open.

use std::fmt::Debug;
use std::future::Future;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use codeloc_core::deployment::Deployment;
use codeloc_core::priority::Priority;

use crate::cache::Cache;
use crate::clients::Clients;
use crate::error::{CallError, Class, classify};
use crate::error_detail::{ErrorDetail, with_error_detail};
use crate::fence::Fence;
use crate::limits::Limits;

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
    let future = Box::pin(with_error_detail(service, future));
    async move {
        future.await.map_err(|ErrorDetail { code, message, status }| {
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

/// Which locations to read.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Everything of the deployment, with the fewest calls: what no bulk call carries is read in turns, and remembered between.
    All,
    /// One location, tags read afresh.
    One(&'a str),
}

/// Asked for the repository of a full name: `None` for names that are not of this deployment or not in scope.
pub fn in_scope<'n>(scope: Scope<'_>, prefix: &str, name: &'n str) -> Option<&'n str> {
    let location = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
    match scope {
        Scope::All => Some(location),
        Scope::One(wanted) => (wanted == location).then_some(location),
    }
}

/// Everything a room needs to observe and to apply.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    pub clients: &'a Clients,
    pub deployment: &'a Deployment,
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
