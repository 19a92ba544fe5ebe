//! The fence around mutating calls: open for as long as this process may change things, and not a moment longer.
//!
//! Guarantees: a mutating call is begun only while the fence is open; when it closes, calls on their way are given up,
//! retries included; and a call that began in time is over before [`Fence::call_timeout`] has passed. Once it is shut it does not
//! open again, and calls on their way go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codeloc_core::lock::lock;
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Fence {
    open_until: Mutex<Option<Instant>>,
    /// Rises with every closing.
    closings: watch::Sender<u64>,
    shut: AtomicBool,
    /// Mutating calls on their way.
    under_way: watch::Sender<usize>,
    call_timeout: Duration,
}

/// One call on its way.
pub(super) struct UnderWay<'a>(&'a watch::Sender<usize>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl Fence {
    /// A closed one. No mutating call takes longer than `call_timeout`, its retries included.
    pub fn new(call_timeout: Duration) -> Self {
        Self {
            open_until: Mutex::new(None),
            closings: watch::Sender::new(0),
            shut: AtomicBool::new(false),
            under_way: watch::Sender::new(0),
            call_timeout,
        }
    }

    /// One that never closes: for tools that read, and for tests of one call.
    pub fn open() -> Self {
        let fence = Self::new(Duration::from_secs(60));
        fence.open_until(Instant::now() + Duration::from_secs(100 * 365 * 24 * 60 * 60));
        fence
    }

    pub fn open_until(&self, until: Instant) {
        *lock(&self.open_until) = Some(until);
    }

    pub fn close(&self) {
        let was_open = lock(&self.open_until).take().is_some();
        if was_open {
            self.closings.send_modify(|closings| *closings += 1);
        }
    }

    pub fn is_open(&self) -> bool {
        !self.shut.load(Ordering::SeqCst) && lock(&self.open_until).is_some_and(|until| Instant::now() < until)
    }

    /// To be held while a call is on its way.
    pub(super) fn under_way(&self) -> UnderWay<'_> {
        self.under_way.send_modify(|calls| *calls += 1);
        UnderWay(&self.under_way)
    }

    /// For an orderly end: from now on nothing is begun. Waits for the calls on their way, none of which takes longer than
    /// [`Fence::call_timeout`].
    pub async fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        // Never an error: the sender is in this very value.
        let _ = self.under_way.subscribe().wait_for(|calls| *calls == 0).await;
    }

    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Resolves at the next closing. The subscription is made when this is called, not when it is first polled.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closings = self.closings.subscribe();
        async move {
            if closings.changed().await.is_err() {
                // The fence itself is gone: so is everybody who could call.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fence_closes_by_itself_when_nobody_keeps_it_open() {
        let fence = Fence::new(Duration::from_secs(1));
        assert!(!fence.is_open());
        fence.open_until(Instant::now() + Duration::from_secs(10));
        assert!(fence.is_open());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!fence.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_waits_for_what_is_under_way_and_lets_nothing_begin() {
        let fence = Fence::open();
        let call = fence.under_way();
        let shut = fence.shut();
        tokio::pin!(shut);
        assert!(tokio::time::timeout(Duration::from_secs(5), &mut shut).await.is_err());
        fence.open_until(Instant::now() + Duration::from_secs(60));
        assert!(!fence.is_open());
        drop(call);
        shut.await;
    }

    #[tokio::test(start_paused = true)]
    async fn closing_is_heard_by_whoever_listened_before() {
        let fence = Fence::open();
        let closing = fence.closing();
        fence.close();
        closing.await;
        assert!(!fence.is_open());
    }
}
