//! Data that a sweep need not read again. Losing it costs calls, never correctness.
//!
//! Guarantees: a read that began before a change of codeloc never replaces what the change left.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard};

use codeloc_core::lock::lock;
use codeloc_core::resources::{ObservedResources, scaling, task_definition};
use codeloc_core::shared::Shared;
use codeloc_core::tags::{MANAGED_BY, Tags};
use codeloc_crds::LocationName;

use crate::error::CallError;
use crate::rotation::Rotation;
use crate::scope::Scope;

/// One sweep reads this number of cached items again, and one more for each [`ITEMS_FOR_ANOTHER_READ`] items.
const READ_AGAIN: usize = 9;
const ITEMS_FOR_ANOTHER_READ: usize = 700;

#[derive(Debug, Default)]
pub struct Cache {
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
pub struct Remembered {
    /// By ARN, or by name if AWS returns no ARN, for the kinds whose tags no bulk call returns.
    tags: BTreeMap<String, Shared<Tags>>,
    /// The number of changes of tags, and of the last one of each key.
    tag_changes: u64,
    tags_changed: HashMap<String, u64>,
    /// Each set of tags once: most resources of a location have the same tags.
    distinct: HashSet<Shared<Tags>>,
    /// By family and number. Only the tags of a task definition can change.
    pub definitions: Rotation<Shared<task_definition::Observed>>,
    /// By resource id and name, separated by a space.
    pub policies: Rotation<scaling::Policy>,
    /// Ids of Cloud Map services by name: no call finds one by its name.
    pub registries: HashMap<String, String>,
    /// The resources of each location in the last sweep.
    last_sweep: BTreeMap<LocationName, ObservedResources>,
    /// The last item that a sweep selected to read again.
    last_turn: String,
    /// The items that the current sweep reads again.
    due: BTreeSet<String>,
}

impl Cache {
    pub fn lock(&self) -> MutexGuard<'_, Remembered> {
        lock(&self.remembered)
    }

    /// Selects the cached items that this sweep reads again: the next few, so that each gets its turn.
    pub fn begin_sweep(&self) {
        let state = &mut *self.lock();
        let known: BTreeSet<&String> = state.tags.keys().chain(state.definitions.known().keys()).collect();
        let number = (READ_AGAIN + known.len() / ITEMS_FOR_ANOTHER_READ).min(known.len());
        let later = known.iter().filter(|one| **one > &state.last_turn);
        let turns: Vec<String> = later.chain(&known).take(number).map(|one| (*one).clone()).collect();
        if let Some(last) = turns.last() {
            state.last_turn.clone_from(last);
        }
        state.due = turns.into_iter().collect();
    }

    /// Keeps the result of a sweep.
    pub fn end_sweep(&self, observed: BTreeMap<LocationName, ObservedResources>) {
        let mut state = self.lock();
        state.last_sweep = observed;
        state.distinct.retain(Shared::is_held_elsewhere);
    }

    /// The same tags, held in memory once for all resources that have them.
    pub fn distinct(&self, tags: Tags) -> Shared<Tags> {
        self.lock().distinct(tags)
    }

    /// The state just read, or the equal state of the last sweep: a fleet at rest is in memory once, even during a sweep.
    pub fn share<T: PartialEq>(
        &self,
        location: &LocationName,
        select: impl Fn(&ObservedResources) -> Option<&Shared<T>>,
        read: T,
    ) -> Shared<T> {
        Shared::like(self.lock().last_sweep.get(location).and_then(select), read)
    }

    /// Whether this sweep reads the item again. True once per turn.
    pub fn take_turn(&self, key: &str) -> bool {
        self.lock().due.remove(key)
    }

    /// Tags of one resource. A sweep takes them from the cache, except on their turn. Tags without an owner are never taken from the
    /// cache: they may have been read too early, and would make a location's own resource look like that of another owner.
    pub async fn tags<F>(&self, scope: Scope<'_>, key: &str, read: F) -> Result<Shared<Tags>, CallError>
    where
        F: Future<Output = Result<Tags, CallError>>,
    {
        let remembered = self.lock().tags.get(key).filter(|tags| tags.contains_key(MANAGED_BY)).cloned();
        if let (Scope::All, Some(tags)) = (scope, remembered)
            && !self.take_turn(key)
        {
            return Ok(tags);
        }
        self.read_tags(key, read).await
    }

    /// Tags of one resource as they are now.
    pub async fn read_tags<F>(&self, key: &str, read: F) -> Result<Shared<Tags>, CallError>
    where
        F: Future<Output = Result<Tags, CallError>>,
    {
        let begun = self.lock().tag_changes;
        let read = read.await?;
        let mut state = self.lock();
        let tags = state.distinct(read);
        if state.tags_changed.get(key).is_none_or(|change| *change <= begun) {
            state.tags.insert(key.to_owned(), tags.clone());
        }
        Ok(tags)
    }

    /// Hold the result while a call changes the tags: then no read that overlaps the call is cached.
    #[must_use]
    pub fn changing_tags<'a>(&'a self, key: &'a str) -> ChangingTags<'a> {
        self.lock().change_tags(key);
        ChangingTags { cache: self, key }
    }

    /// Tags that AWS accepted when it created the resource: they need not be read.
    pub fn keep_tags(&self, key: &str, tags: &Tags) {
        let mut state = self.lock();
        let tags = state.distinct(tags.clone());
        state.change_tags(key);
        state.tags.insert(key.to_owned(), tags);
    }
}

/// A change of one resource's tags that is in progress. Its end counts as a change too, even if AWS may not have applied it.
#[derive(Debug)]
pub struct ChangingTags<'a> {
    cache: &'a Cache,
    key: &'a str,
}

impl Drop for ChangingTags<'_> {
    fn drop(&mut self) {
        self.cache.lock().change_tags(self.key);
    }
}

impl Remembered {
    /// Forgets the tags, and makes reads that began before stale.
    fn change_tags(&mut self, key: &str) {
        self.tag_changes += 1;
        self.tags_changed.insert(key.to_owned(), self.tag_changes);
        self.tags.remove(key);
    }

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
    fn shared_tags_are_held_once_and_then_released() {
        let cache = Cache::default();
        let tags = || Tags::from([(MANAGED_BY.to_owned(), "codeloc".to_owned())]);
        cache.keep_tags("group", &tags());
        drop(cache.distinct(tags()));
        cache.end_sweep(BTreeMap::new());
        assert_eq!(cache.lock().distinct.len(), 1, "the group's");
        drop(cache.changing_tags("group"));
        cache.end_sweep(BTreeMap::new());
        assert_eq!(cache.lock().distinct.len(), 0);
    }

    async fn read(cache: &Cache, scope: Scope<'_>, key: &str) -> bool {
        let mut read = false;
        let tags = async {
            read = true;
            Ok(Tags::from([(MANAGED_BY.to_owned(), "codeloc".to_owned())]))
        };
        cache.tags(scope, key, tags).await.unwrap();
        read
    }

    #[tokio::test]
    async fn each_cached_item_is_read_again_on_its_turn() {
        let cache = Cache::default();
        let keys: Vec<String> = (0..20).map(|index| format!("{index:02}")).collect();
        for key in &keys {
            assert!(read(&cache, Scope::All, key).await);
            assert!(!read(&cache, Scope::All, key).await);
        }
        let mut read_again = Vec::new();
        for _ in 0..3 {
            cache.begin_sweep();
            let mut number = 0;
            for key in &keys {
                if read(&cache, Scope::All, key).await {
                    number += 1;
                    read_again.push(key.clone());
                }
            }
            assert_eq!(number, READ_AGAIN);
        }
        read_again.sort();
        read_again.dedup();
        assert_eq!(read_again, keys);
    }

    #[tokio::test]
    async fn one_location_reads_its_tags_every_time() {
        let cache = Cache::default();
        let name = LocationName::new("orders").unwrap();
        assert!(read(&cache, Scope::One(&name), "key").await);
        assert!(read(&cache, Scope::One(&name), "key").await);
    }

    /// Reads the old tags of `key`, while `meanwhile` runs.
    async fn overlapping_read(cache: &Cache, key: &str, meanwhile: impl FnOnce()) {
        let old = async {
            meanwhile();
            Ok(Tags::from([(MANAGED_BY.to_owned(), "old".to_owned())]))
        };
        assert_eq!(cache.tags(Scope::All, key, old).await.unwrap()[MANAGED_BY], "old");
    }

    #[tokio::test]
    async fn a_read_during_a_change_of_tags_is_not_cached() {
        let cache = Cache::default();
        overlapping_read(&cache, "before", || drop(cache.changing_tags("before"))).await;
        assert!(read(&cache, Scope::All, "before").await);
        let changing = cache.changing_tags("during");
        overlapping_read(&cache, "during", || {}).await;
        drop(changing);
        assert!(read(&cache, Scope::All, "during").await);
    }

    #[tokio::test]
    async fn an_older_read_replaces_no_tags_of_a_creation() {
        let cache = Cache::default();
        let new = Tags::from([(MANAGED_BY.to_owned(), "new".to_owned())]);
        overlapping_read(&cache, "key", || cache.keep_tags("key", &new)).await;
        let unread = async { panic!("the tags are cached") };
        assert_eq!(*cache.tags(Scope::All, "key", unread).await.unwrap(), new);
    }

    #[tokio::test]
    async fn tags_without_an_owner_are_never_cached() {
        let cache = Cache::default();
        cache.keep_tags("key", &Tags::new());
        assert!(read(&cache, Scope::All, "key").await);
    }
}
