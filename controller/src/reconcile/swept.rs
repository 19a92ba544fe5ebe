//! What the last sweep or glance saw, for the first pass that asks: unless that location was changed since it began, for then
//! some of it may have been read before the change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use codeloc_core::lock::lock;
use codeloc_core::resources::Live;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Swept {
    state: Mutex<State>,
}

/// What one look at a location gave.
#[derive(Clone, Debug)]
pub struct Seen {
    pub live: Live,
    /// When the reading of its service began.
    pub at: Instant,
    /// Read whole; else only its service was, and the rest is what was seen or made before.
    pub whole: bool,
}

#[derive(Debug, Default)]
struct State {
    seen: HashMap<String, Seen>,
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
    fn keep(&mut self, begun: Begun, live: impl IntoIterator<Item = (String, Live)>, whole: bool) {
        let changed = &self.changed;
        let live = live.into_iter().filter(|(name, _)| changed.get(name).is_none_or(|at| *at <= begun.changes));
        self.seen.extend(live.map(|(name, live)| (name, Seen { live, at: begun.at, whole })));
    }
}

impl Swept {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// To be called before the first read.
    pub fn begin(&self) -> Begun {
        Begun { changes: self.lock().changes, at: Instant::now() }
    }

    /// Keeps what a sweep saw, but for what was changed meanwhile.
    pub fn put(&self, begun: Begun, live: impl IntoIterator<Item = (String, Live)>) {
        let mut state = self.lock();
        if begun.changes < state.valid_from {
            return;
        }
        state.seen.clear();
        state.keep(begun, live, true);
        // Whatever was changed before this sweep began, it saw; and no sweep runs beside it.
        state.changed.retain(|_, at| *at > begun.changes);
    }

    /// Keeps what a glance saw of some, but for what was changed meanwhile.
    pub fn put_glimpses(&self, begun: Begun, live: impl IntoIterator<Item = (String, Live)>) {
        let mut state = self.lock();
        if begun.changes >= state.valid_from {
            state.keep(begun, live, false);
        }
    }

    /// What was seen of a location, once.
    pub fn take(&self, name: &str) -> Option<Seen> {
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

    fn seen() -> Vec<(String, Live)> {
        vec![("orders".to_owned(), Live::default()), ("billing".to_owned(), Live::default())]
    }

    #[test]
    fn what_was_seen_is_given_once() {
        let swept = Swept::default();
        swept.put(swept.begin(), seen());
        assert!(swept.take("orders").is_some());
        assert!(swept.take("orders").is_none());
    }

    #[test]
    fn a_change_during_the_sweep_makes_it_useless_for_that_location_only() {
        let swept = Swept::default();
        let begun = swept.begin();
        swept.change("orders");
        swept.put(begun, seen());
        assert!(swept.take("orders").is_none());
        assert!(swept.take("billing").is_some());
    }

    #[test]
    fn a_change_after_the_sweep_takes_back_what_was_seen() {
        let swept = Swept::default();
        swept.put(swept.begin(), seen());
        swept.change("orders");
        assert!(swept.take("orders").is_none());
    }
}
