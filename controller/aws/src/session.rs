//! AWS calls: each one waits for its rate limit, and a call that changes something needs the fence to be open.

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
use crate::fence::{Epoch, Fence};
use crate::operation;
use crate::rate_limit::RateLimiter;

/// Makes one call, including the SDK's own retries. It waits for no rate limit and no fence.
///
/// The SDK's futures are tens of kilobytes; on the heap they do not add up in every caller.
pub fn call<T, E>(
    operation: &'static str,
    future: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
) -> impl Future<Output = Result<T, CallError>> + Send
where
    T: Send,
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let future = Box::pin(with_error_detail(operation::service(operation), future));
    async move {
        future.await.map_err(|ErrorDetail { code, message, status }| {
            let class = classify(&code, &message, status);
            CallError { operation, class, code, message }
        })
    }
}

/// The parts that observing and applying need.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    pub clients: &'a Clients,
    pub deployment: &'a Deployment,
    pub cache: &'a Cache,
    pub limits: &'a RateLimiter,
    pub fence: &'a Fence,
    /// The epoch of everything on which the calls are based.
    pub epoch: Epoch,
    pub priority: Priority,
}

impl Session<'_> {
    /// An error if this process may not change anything now.
    pub fn check_fence(self, operation: &'static str) -> Result<(), CallError> {
        check_fence(self.fence, self.epoch, operation)
    }

    /// Makes one call when its turn comes, including the SDK's own retries. A call that changes something starts only while the
    /// fence is open in the session's epoch, and is aborted when the fence closes: AWS may or may not have applied it then.
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
            let turn = self.limits.admit(operation, self.priority);
            guarded_after(turn, self.fence, self.epoch, operation, call).await
        }
    }
}

/// The fence decides after the wait for the call's turn, which may take minutes.
async fn guarded_after<T>(
    turn: impl Future<Output = ()> + Send,
    fence: &Fence,
    epoch: Epoch,
    operation: &'static str,
    call: impl Future<Output = Result<T, CallError>> + Send,
) -> Result<T, CallError> {
    turn.await;
    guarded(fence, epoch, operation, call).await
}

fn check_fence(fence: &Fence, epoch: Epoch, operation: &'static str) -> Result<(), CallError> {
    if fence.is_open_in(epoch) {
        return Ok(());
    }
    let message = if fence.is_open() {
        "not started: this process did not hold the lease all the time since it read the state of AWS"
    } else {
        "not started: this process does not hold the lease"
    };
    Err(CallError::unanswered(operation, Class::Fenced, message))
}

async fn guarded<T>(
    fence: &Fence,
    epoch: Epoch,
    operation: &'static str,
    call: impl Future<Output = Result<T, CallError>> + Send,
) -> Result<T, CallError> {
    if !operation::mutates(operation) {
        return call.await;
    }
    let closing = fence.closing();
    check_fence(fence, epoch, operation)?;
    let _in_flight = fence.in_flight();
    tokio::select! {
        answer = tokio::time::timeout(fence.call_timeout(), call) => {
            answer.unwrap_or_else(|_| Err(CallError::no_answer(operation, fence.call_timeout())))
        }
        () = closing => {
            let message = "aborted: this process lost the lease; AWS may have applied the call";
            Err(CallError::unanswered(operation, Class::Fenced, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CHANGE: &str = "ecs:UpdateService";

    fn answered() -> impl Future<Output = Result<u8, CallError>> {
        std::future::ready(Ok(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_fence_lets_only_reads_pass() {
        let fence = Fence::new(Duration::from_secs(1));
        let error = guarded(&fence, fence.epoch(), CHANGE, answered()).await.unwrap_err();
        assert_eq!(error.class, Class::Fenced);
        assert_eq!(error.to_string(), "ecs:UpdateService: not started: this process does not hold the lease");
        assert_eq!(guarded(&fence, fence.epoch(), "ecs:DescribeServices", answered()).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_an_earlier_epoch_is_not_started() {
        let fence = Fence::open();
        let earlier = fence.epoch();
        fence.close();
        fence.open_until(tokio::time::Instant::now() + Duration::from_secs(10));
        let error = guarded(&fence, earlier, CHANGE, answered()).await.unwrap_err();
        assert_eq!(error.class, Class::Fenced);
        assert_eq!(
            error.to_string(),
            "ecs:UpdateService: not started: this process did not hold the lease all the time since it read the state of AWS"
        );
        assert_eq!(guarded(&fence, earlier, "ecs:DescribeServices", answered()).await.unwrap(), 1);
        assert_eq!(guarded(&fence, fence.epoch(), CHANGE, answered()).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queued_change_is_dropped_after_a_loss() {
        let (fence, limits) = (Fence::open(), RateLimiter::default());
        let epoch = fence.epoch();
        let turn = || limits.admit("ecs:RegisterTaskDefinition", Priority::Cold);
        // The whole burst.
        for _ in 0..20 {
            turn().await;
        }
        let sent = guarded_after(turn(), &fence, epoch, CHANGE, answered());
        let flip = async {
            tokio::task::yield_now().await;
            fence.close();
            fence.open_until(tokio::time::Instant::now() + Duration::from_secs(60));
        };
        let (answer, ()) = tokio::join!(sent, flip);
        assert_eq!(answer.unwrap_err().class, Class::Fenced);
        assert!(fence.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn closing_the_fence_aborts_a_change() {
        let fence = Fence::open();
        let call = guarded(&fence, fence.epoch(), CHANGE, std::future::pending::<Result<u8, CallError>>());
        let close = async {
            tokio::task::yield_now().await;
            fence.close();
        };
        let (answer, ()) = tokio::join!(call, close);
        assert_eq!(
            answer.unwrap_err().to_string(),
            "ecs:UpdateService: aborted: this process lost the lease; AWS may have applied the call"
        );
        // Nothing is left in flight.
        fence.shut().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_at_its_time_limit() {
        let fence = Fence::open();
        let error =
            guarded(&fence, fence.epoch(), CHANGE, std::future::pending::<Result<u8, CallError>>()).await.unwrap_err();
        assert_eq!(
            (error.class, error.to_string().as_str()),
            (Class::Transient, "ecs:UpdateService: no answer within 60s")
        );
    }
}
