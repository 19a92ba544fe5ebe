//! The progress of the daemon since its start.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::reconcile::Outcome;

#[derive(Debug, Default)]
pub struct Progress {
    swept: Mutex<Option<Instant>>,
    failing_sweeps: Mutex<Option<FailingSweeps>>,
    outcomes: Mutex<BTreeMap<LocationName, Outcome>>,
    changed: Notify,
}

/// Sweeps that failed in a row.
#[derive(Clone, Debug)]
pub struct FailingSweeps {
    /// When the first of them started.
    pub since: Instant,
    /// The error of the last one.
    pub error: String,
}

impl Progress {
    fn outcomes(&self) -> MutexGuard<'_, BTreeMap<LocationName, Outcome>> {
        lock(&self.outcomes)
    }

    /// Whether codeloc has read the whole deployment at least once.
    pub fn swept(&self) -> bool {
        self.last_sweep().is_some()
    }

    pub fn last_sweep(&self) -> Option<Instant> {
        *lock(&self.swept)
    }

    pub fn failing_sweeps(&self) -> Option<FailingSweeps> {
        lock(&self.failing_sweeps).clone()
    }

    pub(super) fn sweep_succeeded(&self) {
        *lock(&self.swept) = Some(Instant::now());
        *lock(&self.failing_sweeps) = None;
    }

    pub(super) fn sweep_failed(&self, started: Instant, error: String) {
        let mut failing = lock(&self.failing_sweeps);
        let since = failing.as_ref().map_or(started, |failing| failing.since);
        *failing = Some(FailingSweeps { since, error });
    }

    /// A location that is not reconciled yet counts as waiting.
    pub(super) fn expect(&self, names: &[LocationName]) {
        let mut outcomes = self.outcomes();
        for name in names {
            outcomes.entry(name.clone()).or_insert(Outcome::Waiting(std::time::Duration::ZERO));
        }
        drop(outcomes);
        self.changed.notify_waiters();
    }

    pub(super) fn set(&self, name: &LocationName, outcome: Outcome) {
        self.outcomes().insert(name.clone(), outcome);
        self.changed.notify_waiters();
    }

    /// Returns once the first sweep is done and `settled` accepts the outcomes. Calls it after each change.
    pub async fn until(&self, settled: impl Fn(&BTreeMap<LocationName, Outcome>) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.swept() && settled(&self.outcomes()) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failing_sweeps_keep_the_time_of_the_first() {
        let progress = Progress::default();
        let first = Instant::now();
        progress.sweep_failed(first, "no answer".to_owned());
        tokio::time::advance(Duration::from_secs(5)).await;
        progress.sweep_failed(Instant::now(), "access denied".to_owned());
        let failing = progress.failing_sweeps().expect("two failed");
        assert_eq!((failing.since, failing.error.as_str()), (first, "access denied"));
        progress.sweep_succeeded();
        assert!(progress.failing_sweeps().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_settled_before_the_first_sweep() {
        let progress = Progress::default();
        let settled = progress.until(|_| true);
        assert!(tokio::time::timeout(Duration::from_secs(60), settled).await.is_err());
        progress.sweep_succeeded();
        progress.until(|_| true).await;
    }
}
