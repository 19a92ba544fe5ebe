//! The statuses of all locations, by name. A config in a folder whose name no location can have has one too, by its path; therefore the
//! keys are text.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use codeloc_core::lock::lock;
use codeloc_core::status::{Condition, DatedCondition, Health, LocationStatus, Sync};

/// The reconciler writes it and the API reads it. A restart empties it; the first sweep fills it again.
#[derive(Debug, Default)]
pub struct StatusStore {
    statuses: Mutex<BTreeMap<String, Box<LocationStatus>>>,
}

impl StatusStore {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Box<LocationStatus>>> {
        lock(&self.statuses)
    }

    pub fn all(&self) -> Vec<LocationStatus> {
        self.lock().values().map(|status| (**status).clone()).collect()
    }

    pub fn get(&self, name: &str) -> Option<LocationStatus> {
        self.lock().get(name).map(|status| (**status).clone())
    }

    /// Applies `read` to one status without copying it.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&LocationStatus) -> T) -> Option<T> {
        self.lock().get(name).map(|status| read(status))
    }

    /// The first result of `find`.
    pub fn find<T>(&self, mut find: impl FnMut(&LocationStatus) -> Option<T>) -> Option<T> {
        self.lock().values().find_map(|status| find(status))
    }

    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Stores a status. Conditions that did not change keep the time of their last change. Returns the previous status.
    pub fn put(&self, mut status: LocationStatus) -> Option<LocationStatus> {
        let mut statuses = self.lock();
        if status.sync == Sync::Synced {
            status.converged = Some(status.updated);
        }
        status.commit_observed = status.commit.as_ref().map(|_| status.updated);
        if let Some(before) = statuses.get(&status.name) {
            status.converged = status.converged.or(before.converged);
            if before.commit == status.commit {
                status.commit_observed = before.commit_observed;
            }
            for dated in &mut status.conditions {
                let same = |old: &&DatedCondition| {
                    let (old, new): (&Condition, &Condition) = (&old.condition, &dated.condition);
                    (old.kind, old.status, old.reason) == (new.kind, new.status, new.reason)
                };
                if let Some(old) = before.conditions.iter().find(same) {
                    dated.since = old.since;
                }
            }
        }
        statuses.insert(status.name.clone(), Box::new(status)).map(|before| *before)
    }

    /// Records that an observation or a step failed: changes the message, and keeps the last observation and its date. Returns whether
    /// the location has a status.
    pub fn fail(&self, name: &str, message: String, degraded: bool) -> bool {
        let mut statuses = self.lock();
        let Some(status) = statuses.get_mut(name) else { return false };
        status.message = message;
        if degraded {
            status.health = Health::Degraded;
        }
        true
    }
}
