//! Locations that wait to be read together, because one call reads ten or a hundred of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use tokio::sync::Notify;

use super::reason::Reason;

/// The names of the waiting locations, and why each is reconciled once it is read.
pub type Batch = BTreeMap<LocationName, Reason>;

#[derive(Debug, Default)]
pub struct BatchQueue {
    names: Mutex<Batch>,
    pushed: Notify,
}

impl BatchQueue {
    pub fn push(&self, name: &LocationName, reason: Reason) {
        lock(&self.names).insert(name.clone(), reason);
        self.pushed.notify_one();
    }

    pub fn take(&self) -> Batch {
        std::mem::take(&mut *lock(&self.names))
    }

    /// Takes those that a read has already seen, although they joined after it began.
    pub fn take_seen(&self, is_seen: impl Fn(&LocationName) -> bool) -> Batch {
        let mut names = lock(&self.names);
        let (seen, waiting) = std::mem::take(&mut *names).into_iter().partition(|(name, _)| is_seen(name));
        *names = waiting;
        seen
    }

    /// Puts a batch back after a failed read.
    pub fn put_back(&self, batch: Batch) {
        lock(&self.names).extend(batch);
    }

    /// Returns once at least one location waits.
    pub async fn wait(&self) {
        while lock(&self.names).is_empty() {
            self.pushed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    #[tokio::test(start_paused = true)]
    async fn a_batch_holds_each_location_once() {
        let queue = BatchQueue::default();
        queue.push(&location_name("orders"), Reason::Resync);
        queue.push(&location_name("orders"), Reason::Create);
        queue.wait().await;
        assert_eq!(queue.take(), Batch::from([(location_name("orders"), Reason::Create)]));
        assert!(queue.take().is_empty());
    }

    #[test]
    fn a_read_ends_the_wait_of_those_it_has_seen() {
        let queue = BatchQueue::default();
        let [orders, stock] = ["orders", "stock"].map(location_name);
        queue.push(&orders, Reason::Create);
        queue.push(&stock, Reason::Resync);
        assert_eq!(queue.take_seen(|name| *name == orders), Batch::from([(orders.clone(), Reason::Create)]));
        assert_eq!(queue.take(), Batch::from([(stock, Reason::Resync)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_was_not_read_waits_again() {
        let queue = BatchQueue::default();
        queue.push(&location_name("orders"), Reason::Resync);
        let batch = queue.take();
        queue.put_back(batch.clone());
        queue.wait().await;
        assert_eq!(queue.take(), batch);
    }
}
