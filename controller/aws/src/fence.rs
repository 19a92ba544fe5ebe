//! The fence around calls that change something: open exactly as long as this process may change things.
//!
//! Guarantees: such a call starts only while the fence is open; when the fence closes, calls in flight are aborted, including
//! their retries; and a call ends within [`Fence::call_timeout`]. After [`Fence::shut`] the fence does not open again, and calls
//! in flight continue.
//!
//! Each time the fence opens after it was closed, an [`Epoch`] starts: another process may have changed everything meanwhile. A call
//! belongs to the epoch in which its reason was read, and never starts in a later one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codeloc_core::lock::lock;
use tokio::sync::watch;
use tokio::time::Instant;

/// One uninterrupted time for which this process holds the lease, together with the wait for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    open_until: Option<Instant>,
    epoch: Epoch,
}

#[derive(Debug)]
pub struct Fence {
    state: Mutex<State>,
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
            state: Mutex::default(),
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

    /// Opens a closed fence in a new epoch, or keeps an open one open for longer.
    pub fn open_until(&self, until: Instant) {
        let mut state = lock(&self.state);
        let before = state.open_until.replace(until);
        if before.is_none_or(|before| before <= Instant::now()) {
            state.epoch.0 += 1;
            drop(state);
            if before.is_some() {
                // It closed by itself, before a renewal succeeded.
                self.abort();
            }
        }
    }

    pub fn close(&self) {
        let was_open = lock(&self.state).open_until.take().is_some();
        if was_open {
            self.abort();
        }
    }

    /// Aborts the calls in flight.
    fn abort(&self) {
        self.closings.send_modify(|closings| *closings += 1);
    }

    /// The current epoch, or the last one while the fence is closed.
    pub fn epoch(&self) -> Epoch {
        lock(&self.state).epoch
    }

    pub fn is_open(&self) -> bool {
        self.is_open_in(self.epoch())
    }

    pub fn is_open_in(&self, epoch: Epoch) -> bool {
        let state = *lock(&self.state);
        let open = state.open_until.is_some_and(|until| Instant::now() < until);
        !self.shut.load(Ordering::SeqCst) && open && state.epoch == epoch
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
    async fn each_opening_of_a_closed_fence_starts_an_epoch() {
        let fence = Fence::new(Duration::from_secs(1));
        let before = fence.epoch();
        let open = || fence.open_until(Instant::now() + Duration::from_secs(10));
        open();
        let first = fence.epoch();
        assert!(first > before);
        // A renewal.
        open();
        assert_eq!(fence.epoch(), first);
        fence.close();
        assert_eq!(fence.epoch(), first);
        open();
        let second = fence.epoch();
        assert!(second > first);
        assert!(fence.is_open_in(second) && !fence.is_open_in(first));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_after_the_expiry_starts_an_epoch() {
        let fence = Fence::new(Duration::from_secs(1));
        fence.open_until(Instant::now() + Duration::from_secs(10));
        let first = fence.epoch();
        let closing = fence.closing();
        tokio::time::advance(Duration::from_secs(10)).await;
        fence.open_until(Instant::now() + Duration::from_secs(10));
        assert!(fence.epoch() > first);
        closing.await;
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
