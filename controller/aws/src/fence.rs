//! The fence around calls that change something: open exactly as long as this process may change things.
//!
//! Guarantees: such a call starts only while the fence is open; when the fence closes, calls in flight are aborted, including
//! their retries; and a call ends within [`Fence::call_timeout`]. After [`Fence::shut`] the fence does not open again, and calls
//! in flight continue.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codeloc_core::lock::lock;
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Fence {
    open_until: Mutex<Option<Instant>>,
    /// The number of times that the fence closed.
    closings: watch::Sender<u64>,
    shut: AtomicBool,
    /// Changes in flight.
    in_flight: watch::Sender<usize>,
    call_timeout: Duration,
}

/// One call in flight.
pub(crate) struct InFlight<'a>(&'a watch::Sender<usize>);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

impl Fence {
    /// A closed fence. No change takes longer than `call_timeout`, including its retries.
    pub fn new(call_timeout: Duration) -> Self {
        Self {
            open_until: Mutex::new(None),
            closings: watch::Sender::new(0),
            shut: AtomicBool::new(false),
            in_flight: watch::Sender::new(0),
            call_timeout,
        }
    }

    /// A fence that stays open: for tools that only read, and for tests of one call.
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

    /// The caller holds the guard for as long as the call is in flight.
    pub(crate) fn in_flight(&self) -> InFlight<'_> {
        self.in_flight.send_modify(|calls| *calls += 1);
        InFlight(&self.in_flight)
    }

    /// For an orderly shutdown: no further change starts. Waits for the calls in flight, which end within
    /// [`Fence::call_timeout`].
    pub async fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        // Never an error: this value owns the sender.
        let _ = self.in_flight.subscribe().wait_for(|calls| *calls == 0).await;
    }

    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Resolves when the fence closes the next time after this call, even if it closes before the first poll.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closings = self.closings.subscribe();
        async move {
            if closings.changed().await.is_err() {
                // The fence was dropped, and with it every caller.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fence_closes_unless_it_is_renewed() {
        let fence = Fence::new(Duration::from_secs(1));
        assert!(!fence.is_open());
        fence.open_until(Instant::now() + Duration::from_secs(10));
        assert!(fence.is_open());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!fence.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_waits_for_calls_in_flight_and_starts_none() {
        let fence = Fence::open();
        let call = fence.in_flight();
        let shut = fence.shut();
        tokio::pin!(shut);
        assert!(tokio::time::timeout(Duration::from_secs(5), &mut shut).await.is_err());
        fence.open_until(Instant::now() + Duration::from_secs(60));
        assert!(!fence.is_open());
        drop(call);
        shut.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_learns_that_the_fence_closed() {
        let fence = Fence::open();
        let closing = fence.closing();
        fence.close();
        closing.await;
        assert!(!fence.is_open());
    }
}
