//! One slot per location: the earliest time and the more urgent reason win. A running location is never started twice; if it is added
//! meanwhile, it runs once more. Each operation costs the logarithm of the queue's length.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use codeloc_core::lock::lock;
use codeloc_core::priority::Priority;
use codeloc_crds::LocationName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::reason::Reason;

#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// All slots, including those of running locations.
    slots: HashMap<LocationName, Slot>,
    running: HashSet<LocationName>,
    /// Slots that are not due yet, by time.
    later: BTreeSet<(Instant, u64)>,
    /// Slots that are due, the most urgent first.
    due: BTreeSet<(Priority, Instant, u64)>,
    /// Names by number, which the two orders use.
    names: BTreeMap<u64, LocationName>,
    added: u64,
}

/// A location that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub name: LocationName,
    pub reason: Reason,
    /// The time since it became due.
    pub waited: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: Instant,
    reason: Reason,
    number: u64,
}

impl State {
    fn enter(&mut self, slot: Slot) {
        self.later.insert((slot.at, slot.number));
    }

    fn leave(&mut self, slot: Slot) {
        self.later.remove(&(slot.at, slot.number));
        self.due.remove(&(slot.reason.priority(), slot.at, slot.number));
    }

    fn add(&mut self, key: &LocationName, reason: Reason, at: Instant) {
        let before = self.slots.get(key).copied();
        let slot = if let Some(before) = before {
            Slot { at: before.at.min(at), reason: before.reason.merge(reason), number: before.number }
        } else {
            self.added += 1;
            self.names.insert(self.added, key.clone());
            Slot { at, reason, number: self.added }
        };
        self.slots.insert(key.clone(), slot);
        if !self.running.contains(key) {
            if let Some(before) = before {
                self.leave(before);
            }
            self.enter(slot);
        }
    }

    /// The most urgent due location that is at least as urgent as `least`, or the time at which the next one is due.
    fn take(&mut self, now: Instant, least: Priority) -> Result<Due, Option<Instant>> {
        while let Some((at, number)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, number));
            if let Some(slot) = self.names.get(&number).and_then(|name| self.slots.get(name)) {
                self.due.insert((slot.reason.priority(), at, number));
            }
        }
        let Some(first) = self.due.first().copied().filter(|(priority, ..)| *priority <= least) else {
            return Err(self.later.first().map(|(at, _)| *at));
        };
        self.due.remove(&first);
        let name = self.names.remove(&first.2).expect("a slot's number has its name");
        let slot = self.slots.remove(&name).expect("a due key has its slot");
        self.running.insert(name.clone());
        Ok(Due { name, reason: slot.reason, waited: now.duration_since(first.1) })
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a location that is due at `at`. One that is queued already keeps the earlier time and the more urgent reason.
    pub fn add(&self, key: &LocationName, reason: Reason, at: Instant) {
        self.lock().add(key, reason, at);
        self.changed.notify_waiters();
    }

    pub fn add_now(&self, key: &LocationName, reason: Reason) {
        self.add(key, reason, Instant::now());
    }

    /// The next due location that is at least as urgent as `least`, reserved until [`Queue::done`].
    pub async fn next(&self, least: Priority) -> Due {
        loop {
            // Registered before the check, so that an addition meanwhile is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let earliest = match self.lock().take(Instant::now(), least) {
                Ok(found) => return found,
                Err(earliest) => earliest,
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

    /// Releases a location from [`Queue::next`].
    pub fn done(&self, key: &LocationName) {
        let mut state = self.lock();
        state.running.remove(key);
        // No worker waits for a location without a slot.
        let Some(slot) = state.slots.get(key).copied() else { return };
        state.enter(slot);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Keys that wait and keys that run.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.slots.len(), state.running.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    async fn nothing_is_due(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next(Priority::Garbage)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_location_runs_once_more_if_added_meanwhile() {
        let queue = Queue::default();
        queue.add_now(&location_name("orders"), Reason::Resync);
        assert_eq!(queue.next(Priority::Garbage).await.name, "orders");
        queue.add_now(&location_name("orders"), Reason::ConfigChanged);
        queue.add_now(&location_name("orders"), Reason::ConfigChanged);
        assert!(nothing_is_due(&queue).await);
        queue.done(&location_name("orders"));
        assert_eq!(queue.next(Priority::Garbage).await.name, "orders");
        queue.done(&location_name("orders"));
        assert!(nothing_is_due(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_commit_overtakes_resyncs() {
        let queue = Queue::default();
        queue.add_now(&location_name("a"), Reason::Resync);
        queue.add_now(&location_name("b"), Reason::Resync);
        queue.add_now(&location_name("c"), Reason::ConfigChanged);
        assert_eq!(queue.next(Priority::Garbage).await.name, "c");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_wins() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add(&location_name("a"), Reason::Progress, start + Duration::from_secs(60));
        queue.add(&location_name("a"), Reason::Progress, start + Duration::from_secs(5));
        queue.add(&location_name("a"), Reason::Progress, start + Duration::from_secs(30));
        assert_eq!(queue.next(Priority::Garbage).await.name, "a");
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reserved_worker_takes_only_what_is_urgent() {
        let queue = Queue::default();
        queue.add_now(&location_name("cold"), Reason::Create);
        let reserved = tokio::time::timeout(Duration::from_secs(60), queue.next(Priority::Again)).await;
        assert!(reserved.is_err());
        queue.add_now(&location_name("commit"), Reason::ConfigChanged);
        let due = queue.next(Priority::Again).await;
        assert_eq!((due.name.as_str(), due.reason, due.waited), ("commit", Reason::ConfigChanged, Duration::ZERO));
        let due = queue.next(Priority::Garbage).await;
        assert_eq!((due.name.as_str(), due.reason, due.waited), ("cold", Reason::Create, Duration::from_secs(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_wakes_when_a_key_is_added() {
        let queue = std::sync::Arc::new(Queue::default());
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next(Priority::Garbage).await.name }
        });
        tokio::task::yield_now().await;
        queue.add_now(&location_name("a"), Reason::ConfigChanged);
        assert_eq!(worker.await.unwrap(), "a");
    }
}
