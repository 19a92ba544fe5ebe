//! Places for connections: so many, and which one goes where another is to come in.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use codeloc_core::lock::lock;
use tokio::sync::Notify;

/// Clones share the places.
#[derive(Clone)]
pub(super) struct ConnectionSlots {
    most: usize,
    /// The oldest first.
    taken: Arc<Mutex<VecDeque<Arc<State>>>>,
}

#[derive(Debug, Default)]
struct State {
    busy: AtomicBool,
    lost: Notify,
}

/// Which connections may lose their place to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayGo {
    /// Those that wait for a request.
    Idle,
    Any,
}

impl ConnectionSlots {
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A free place or, where there is none, that of the oldest connection that may go.
    pub fn take(&self, may_go: MayGo) -> Option<ConnectionSlot> {
        let mut taken = lock(&self.taken);
        if taken.len() >= self.most {
            let goes = |state: &Arc<State>| may_go == MayGo::Any || !state.busy.load(Ordering::Relaxed);
            let oldest = taken.iter().position(goes)?;
            taken.remove(oldest)?.lost.notify_one();
        }
        let state = Arc::<State>::default();
        taken.push_back(Arc::clone(&state));
        Some(ConnectionSlot { state, slots: self.clone() })
    }
}

/// A connection's place, free again when this is dropped.
pub(super) struct ConnectionSlot {
    state: Arc<State>,
    slots: ConnectionSlots,
}

impl ConnectionSlot {
    /// Until another connection has this place.
    pub async fn lost(&self) {
        self.state.lost.notified().await;
    }

    /// From a request until the last of its answer is handed over.
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
