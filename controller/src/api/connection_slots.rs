//! A bounded number of slots for connections. A new connection can take the slot of an older one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use codeloc_core::lock::lock;
use tokio::sync::Notify;

/// Clones share the slots.
#[derive(Clone)]
pub(super) struct ConnectionSlots {
    capacity: usize,
    /// In the order of their age, the oldest first.
    taken: Arc<Mutex<VecDeque<Arc<State>>>>,
}

#[derive(Debug, Default)]
struct State {
    busy: AtomicBool,
    evicted: Notify,
}

/// Connections that a new one may evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evict {
    /// Connections that wait for a request.
    Idle,
    Any,
}

impl ConnectionSlots {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, taken: Arc::default() }
    }

    /// A free slot or, if there is none, the slot of the oldest connection that may be evicted.
    pub fn take(&self, evict: Evict) -> Option<ConnectionSlot> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.capacity {
            let is_evictable = |state: &Arc<State>| evict == Evict::Any || !state.busy.load(Ordering::Relaxed);
            let oldest = taken.iter().position(is_evictable)?;
            taken.remove(oldest)?.evicted.notify_one();
        }
        let state = Arc::<State>::default();
        taken.push_back(Arc::clone(&state));
        Some(ConnectionSlot { state, slots: self.clone() })
    }
}

/// The slot of a connection, free again when dropped.
pub(super) struct ConnectionSlot {
    state: Arc<State>,
    slots: ConnectionSlots,
}

impl ConnectionSlot {
    /// Resolves when another connection takes this slot.
    pub async fn evicted(&self) {
        self.state.evicted.notified().await;
    }

    /// Marks the connection busy until the guard is dropped, after the last byte of the answer.
    pub fn busy(&self) -> Busy {
        self.state.busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(&self.state))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.slots.taken).retain(|state| !Arc::ptr_eq(state, &self.state));
    }
}

pub(super) struct Busy(Arc<State>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}
