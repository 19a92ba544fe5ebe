//! One slot per repository: the earliest time wins, a running key is never started twice and runs once more if it is poked
//! meanwhile, fresh commits come before resyncs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;

/// Why a key is in the queue. Smaller comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody changed something.
    Commit,
    /// Something is waited for, or failed and is tried again.
    Again,
    /// Nothing is known to have changed.
    Resync,
}

#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeMap<String, (Instant, Priority)>,
    running: BTreeSet<String>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Puts a key in, to run at `at` or later. A key that is in already keeps the earlier time and the more urgent reason.
    pub fn add(&self, key: &str, priority: Priority, at: Instant) {
        let mut state = self.lock();
        let slot = state.due.entry(key.to_owned()).or_insert((at, priority));
        slot.0 = slot.0.min(at);
        slot.1 = slot.1.min(priority);
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn add_now(&self, key: &str, priority: Priority) {
        self.add(key, priority, Instant::now());
    }

    /// The next key that is due, held until [`Queue::done`].
    pub async fn next(&self) -> String {
        loop {
            // Registered before looking, so that what is added meanwhile is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let earliest = {
                let mut state = self.lock();
                let now = Instant::now();
                let free = |state: &State| {
                    let waiting = state.due.iter().filter(|(key, _)| !state.running.contains(*key));
                    let due =
                        waiting.clone().filter(|(_, slot)| slot.0 <= now).min_by_key(|(_, slot)| (slot.1, slot.0));
                    (due.map(|(key, _)| key.clone()), waiting.map(|(_, slot)| slot.0).min())
                };
                let (due, earliest) = free(&state);
                if let Some(key) = due {
                    state.due.remove(&key);
                    state.running.insert(key.clone());
                    return key;
                }
                earliest
            };
            match earliest {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Lets a key go that [`Queue::next`] gave.
    pub fn done(&self, key: &str) {
        self.lock().running.remove(key);
        self.changed.notify_waiters();
    }

    /// Keys that wait and keys that run.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.due.len(), state.running.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn nothing_is_due(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_key_is_never_started_twice_and_runs_once_more_if_poked_meanwhile() {
        let queue = Queue::default();
        queue.add_now("orders", Priority::Resync);
        assert_eq!(queue.next().await, "orders");
        queue.add_now("orders", Priority::Commit);
        queue.add_now("orders", Priority::Commit);
        assert!(nothing_is_due(&queue).await);
        queue.done("orders");
        assert_eq!(queue.next().await, "orders");
        queue.done("orders");
        assert!(nothing_is_due(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_commit_overtakes_resyncs() {
        let queue = Queue::default();
        queue.add_now("a", Priority::Resync);
        queue.add_now("b", Priority::Resync);
        queue.add_now("c", Priority::Commit);
        assert_eq!(queue.next().await, "c");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_wins() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add("a", Priority::Again, start + Duration::from_secs(60));
        queue.add("a", Priority::Again, start + Duration::from_secs(5));
        queue.add("a", Priority::Again, start + Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_wakes_when_a_key_is_added() {
        let queue = std::sync::Arc::new(Queue::default());
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.add_now("a", Priority::Commit);
        assert_eq!(worker.await.unwrap(), "a");
    }
}
