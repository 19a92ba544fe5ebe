//! What the last sweep or glance saw, for the first pass that asks: unless that location was changed since it began, for then
//! some of it may have been read before the change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use codeloc_core::lock::lock;
use codeloc_core::resources::ObservedResources;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct ObservationStore {
    state: Mutex<State>,
}

/// What one look at a location gave.
#[derive(Clone, Debug)]
pub struct Observation {
    pub observed: ObservedResources,
    /// When the reading of its service began.
    pub at: Instant,
    /// Read whole; else only its service was, and the rest is what was seen or made before.
    pub whole: bool,
}

#[derive(Debug, Default)]
struct State {
    seen: HashMap<String, Observation>,
    /// Counts changes; the clock would not tell two of them in the same instant apart.
    changes: u64,
    /// Number of the last change, by location.
    changed: HashMap<String, u64>,
    /// A sweep that began before this change saw nothing that counts.
    valid_from: u64,
}

/// The moment a sweep or a glance began.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    changes: u64,
    at: Instant,
}

impl State {
    /// All but what was changed since it began to be read.
    fn keep(&mut self, begun: Begun, observed: impl IntoIterator<Item = (String, ObservedResources)>, whole: bool) {
        let changed = &self.changed;
        let observed = observed.into_iter().filter(|(name, _)| changed.get(name).is_none_or(|at| *at <= begun.changes));
        self.seen.extend(observed.map(|(name, observed)| (name, Observation { observed, at: begun.at, whole })));
    }
}

impl ObservationStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// To be called before the first read.
    pub fn begin(&self) -> Begun {
        Begun { changes: self.lock().changes, at: Instant::now() }
    }

    /// Keeps what a sweep saw, but for what was changed meanwhile.
    pub fn put(&self, begun: Begun, observed: impl IntoIterator<Item = (String, ObservedResources)>) {
        let mut state = self.lock();
        if begun.changes < state.valid_from {
            return;
        }
        state.seen.clear();
        state.keep(begun, observed, true);
        // Whatever was changed before this sweep began, it saw; and no sweep runs beside it.
        state.changed.retain(|_, at| *at > begun.changes);
    }

    /// Keeps what a glance saw of some, but for what was changed meanwhile.
    pub fn put_services(&self, begun: Begun, observed: impl IntoIterator<Item = (String, ObservedResources)>) {
        let mut state = self.lock();
        if begun.changes >= state.valid_from {
            state.keep(begun, observed, false);
        }
    }

    /// What was seen of a location, once.
    pub fn take(&self, name: &str) -> Option<Observation> {
        self.lock().seen.remove(name)
    }

    /// Forgets everything that was seen, and what is being read right now.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.changes += 1;
        state.valid_from = state.changes;
        state.seen.clear();
    }

    /// To be called before and after a location is changed.
    pub fn change(&self, name: &str) {
        let mut state = self.lock();
        state.changes += 1;
        let at = state.changes;
        state.changed.insert(name.to_owned(), at);
        state.seen.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Vec<(String, ObservedResources)> {
        vec![("orders".to_owned(), ObservedResources::default()), ("billing".to_owned(), ObservedResources::default())]
    }

    #[test]
    fn what_was_seen_is_given_once() {
        let observations = ObservationStore::default();
        observations.put(observations.begin(), seen());
        assert!(observations.take("orders").is_some());
        assert!(observations.take("orders").is_none());
    }

    #[test]
    fn a_change_during_the_sweep_makes_it_useless_for_that_location_only() {
        let observations = ObservationStore::default();
        let begun = observations.begin();
        observations.change("orders");
        observations.put(begun, seen());
        assert!(observations.take("orders").is_none());
        assert!(observations.take("billing").is_some());
    }

    #[test]
    fn a_change_after_the_sweep_takes_back_what_was_seen() {
        let observations = ObservationStore::default();
        observations.put(observations.begin(), seen());
        observations.change("orders");
        assert!(observations.take("orders").is_none());
    }
}
