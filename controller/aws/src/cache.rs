//! What need not be read in every sweep. Losing it costs calls, never correctness.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard};

use codeloc_core::lock::lock;
use codeloc_core::resources::{ObservedResources, scaling, task_definition};
use codeloc_core::shared::Shared;
use codeloc_core::tags::{MANAGED_BY, Tags};

use super::rotation::Rotation;
use super::{CallError, Scope};

/// Remembered things that one sweep reads again: so many, and one more for each so many that there are.
const READ_AGAIN: usize = 9;
const READ_AGAIN_FOR_EACH: usize = 700;

#[derive(Debug, Default)]
pub struct Cache {
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
pub struct Remembered {
    /// By ARN, or by name where AWS gives no ARN back, of the kinds of which no bulk call carries them.
    tags: BTreeMap<String, Shared<Tags>>,
    /// Each set of tags once: most resources of a location carry the same.
    distinct: HashSet<Shared<Tags>>,
    /// By family and number. Task definitions are immutable but for their tags.
    pub definitions: Rotation<Shared<task_definition::Observed>>,
    /// By resource id and name, with a space between.
    pub policies: Rotation<scaling::Policy>,
    /// Ids of Cloud Map services by name: no call finds one by its name.
    pub registries: HashMap<String, String>,
    /// What the last sweep saw of each location.
    seen: BTreeMap<String, ObservedResources>,
    /// The last one that was read again, and those whose turn it is.
    turn: String,
    again: BTreeSet<String>,
}

impl Cache {
    pub fn lock(&self) -> MutexGuard<'_, Remembered> {
        lock(&self.remembered)
    }

    pub fn clear(&self) {
        *self.lock() = Remembered::default();
    }

    /// Chooses what this sweep reads again although it is remembered: the next few, so that each has its turn.
    pub fn begin_sweep(&self) {
        let state = &mut *self.lock();
        let known: BTreeSet<&String> = state.tags.keys().chain(state.definitions.known().keys()).collect();
        let number = (READ_AGAIN + known.len() / READ_AGAIN_FOR_EACH).min(known.len());
        let later = known.iter().filter(|one| **one > &state.turn);
        let turns: Vec<String> = later.chain(&known).take(number).map(|one| (*one).clone()).collect();
        if let Some(last) = turns.last() {
            state.turn.clone_from(last);
        }
        state.again = turns.into_iter().collect();
    }

    /// Keeps what a sweep saw of everything.
    pub fn end_sweep(&self, seen: BTreeMap<String, ObservedResources>) {
        let mut state = self.lock();
        state.seen = seen;
        state.distinct.retain(Shared::is_held_elsewhere);
    }

    /// The same tags, held once however many resources carry them.
    pub fn distinct(&self, tags: Tags) -> Shared<Tags> {
        self.lock().distinct(tags)
    }

    /// What was just read of a location, or the same as the last sweep saw it: so a fleet at rest is held once, also while it is read.
    pub fn seen<T: PartialEq>(
        &self,
        location: &str,
        of: impl Fn(&ObservedResources) -> Option<&Shared<T>>,
        read: T,
    ) -> Shared<T> {
        Shared::like(self.lock().seen.get(location).and_then(of), read)
    }

    /// Whether what is remembered of it is to be read again now; said once.
    pub fn has_its_turn(&self, of: &str) -> bool {
        self.lock().again.remove(of)
    }

    /// Tags of one resource: remembered in a sweep, but for those whose turn it is; read otherwise. Tags that name no owner are read again
    /// each time: they may have been read a moment too early, and say that a location's own resource is a stranger's.
    pub async fn tags<F>(&self, scope: Scope<'_>, of: &str, read: F) -> Result<Shared<Tags>, CallError>
    where
        F: Future<Output = Result<Tags, CallError>>,
    {
        let remembered = self.lock().tags.get(of).filter(|tags| tags.contains_key(MANAGED_BY)).cloned();
        if let (Scope::All, Some(tags)) = (scope, remembered)
            && !self.has_its_turn(of)
        {
            return Ok(tags);
        }
        let read = read.await?;
        let mut state = self.lock();
        let tags = state.distinct(read);
        state.tags.insert(of.to_owned(), tags.clone());
        Ok(tags)
    }

    pub fn forget_tags(&self, of: &str) {
        self.lock().tags.remove(of);
    }

    /// Tags that AWS took with a resource when it was made: they need not be read.
    pub fn keep_tags(&self, of: &str, tags: &Tags) {
        let mut state = self.lock();
        let tags = state.distinct(tags.clone());
        state.tags.insert(of.to_owned(), tags);
    }
}

impl Remembered {
    fn distinct(&mut self, tags: Tags) -> Shared<Tags> {
        if let Some(held) = self.distinct.get(&tags) {
            return held.clone();
        }
        let tags = Shared::from(tags);
        self.distinct.insert(tags.clone());
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_many_resources_carry_are_held_once_and_no_longer_than_by_one_of_them() {
        let cache = Cache::default();
        let tags = || Tags::from([(MANAGED_BY.to_owned(), "codeloc".to_owned())]);
        cache.keep_tags("group", &tags());
        drop(cache.distinct(tags()));
        cache.end_sweep(BTreeMap::new());
        assert_eq!(cache.lock().distinct.len(), 1, "the group's");
        cache.forget_tags("group");
        cache.end_sweep(BTreeMap::new());
        assert_eq!(cache.lock().distinct.len(), 0);
    }
}
