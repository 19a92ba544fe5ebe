//! Locks by name, for work that must not run twice at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use codeloc_core::lock::lock;
use tokio::sync::OwnedMutexGuard;

#[derive(Default)]
pub(super) struct SingleFlight {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl SingleFlight {
    /// Waits until no other holder of this key exists.
    pub(super) async fn enter(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = lock(&self.locks);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key).or_default().clone()
        };
        lock.lock_owned().await
    }
}
