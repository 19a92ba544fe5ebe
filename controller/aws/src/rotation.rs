//! A list that is too long to read in every sweep: each sweep reads the next few pages and remembers the rest. Pure.
//!
//! Guarantees: a page replaces the remembered values; a value is not forgotten because a page did not contain it, since AWS
//! promises no order between two reads. At the end of a round, the caller reads the missing items by name. Neither a page nor a
//! read of one item replaces a value that was stored after its request.

use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug)]
pub struct Rotation<V> {
    known: BTreeMap<String, V>,
    /// Whether a round was ever read to its end.
    whole: bool,
    /// The token of the next page. `None` for the first page.
    next: Option<String>,
    /// Known when this round started, and not seen since.
    unseen: BTreeSet<String>,
    /// The number of updates from outside the pages.
    updates: u64,
    /// The number of the last update of each key: a page or a read requested before it is older.
    updated: HashMap<String, u64>,
    /// The number of updates when this round started.
    round_began: u64,
}

/// The moment at which a page or one item was requested.
#[derive(Clone, Copy, Debug)]
pub struct Requested(u64);

impl<V> Default for Rotation<V> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            whole: false,
            next: None,
            unseen: BTreeSet::new(),
            updates: 0,
            updated: HashMap::new(),
            round_began: 0,
        }
    }
}

impl<V> Rotation<V> {
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    pub fn known(&self) -> &BTreeMap<String, V> {
        &self.known
    }

    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a V)> {
        self.known.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The token of the page to request next.
    pub fn request(&mut self) -> (Requested, Option<String>) {
        if self.next.is_none() {
            self.unseen = self.known.keys().cloned().collect();
            self.round_began = self.updates;
        }
        (self.now(), self.next.clone())
    }

    /// Call before one item is requested.
    pub fn now(&self) -> Requested {
        Requested(self.updates)
    }

    fn is_newer(&self, key: &str, requested: Requested) -> bool {
        self.updated.get(key).is_some_and(|update| *update > requested.0)
    }

    /// Stores a page. At the end of a round, returns the known keys that no page contained.
    pub fn page(
        &mut self,
        requested: Requested,
        found: impl IntoIterator<Item = (String, V)>,
        next: Option<String>,
    ) -> Vec<String> {
        for (key, value) in found {
            self.unseen.remove(&key);
            if !self.is_newer(&key, requested) {
                self.known.insert(key, value);
            }
        }
        let ended = next.is_none();
        self.next = next;
        if !ended {
            return vec![];
        }
        self.whole = true;
        // A read of a removed item that was requested before this round has ended.
        let (known, round_began) = (&self.known, self.round_began);
        self.updated.retain(|key, update| known.contains_key(key) || *update > round_began);
        let mut missing = std::mem::take(&mut self.unseen);
        missing.retain(|key| self.known.contains_key(key));
        missing.into_iter().collect()
    }

    /// Starts a new round: AWS no longer accepts the token.
    pub fn restart(&mut self) {
        self.next = None;
    }

    /// Stores the result of a read of one item, unless the value changed after its request.
    pub fn read(&mut self, requested: Requested, key: String, value: Option<V>) {
        if self.is_newer(&key, requested) {
            self.unseen.remove(&key);
        } else {
            self.update(key, value);
        }
    }

    /// Stores or removes one value after a change of this item.
    pub fn update(&mut self, key: String, value: Option<V>) {
        self.updates += 1;
        self.unseen.remove(&key);
        self.updated.insert(key.clone(), self.updates);
        match value {
            Some(value) => drop(self.known.insert(key, value)),
            None => drop(self.known.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(names: &[&str]) -> Vec<(String, u8)> {
        names.iter().map(|name| ((*name).to_owned(), 1)).collect()
    }

    #[test]
    fn a_round_continues_at_the_page_of_the_last_sweep() {
        let mut rotation = Rotation::default();
        let (requested, token) = rotation.request();
        assert_eq!(token, None);
        assert!(rotation.page(requested, items(&["a", "b"]), Some("2".to_owned())).is_empty());
        assert!(!rotation.is_whole());
        let (requested, token) = rotation.request();
        assert_eq!(token.as_deref(), Some("2"));
        assert!(rotation.page(requested, items(&["c"]), None).is_empty());
        assert!(rotation.is_whole());
        assert_eq!(rotation.known().len(), 3);
        assert_eq!(rotation.request().1, None);
    }

    #[test]
    fn a_key_missing_from_a_round_is_returned_and_kept() {
        let mut rotation = Rotation::default();
        let (requested, _) = rotation.request();
        rotation.page(requested, items(&["a", "b"]), None);
        let (requested, _) = rotation.request();
        assert_eq!(rotation.page(requested, items(&["b"]), None), ["a"]);
        assert!(rotation.known().contains_key("a"));
        rotation.update("a".to_owned(), None);
        assert!(!rotation.known().contains_key("a"));
    }

    #[test]
    fn a_page_does_not_undo_a_later_update() {
        let mut rotation = Rotation::default();
        let (requested, _) = rotation.request();
        rotation.update("a".to_owned(), Some(2));
        rotation.page(requested, items(&["a"]), None);
        assert_eq!(rotation.known()["a"], 2);
        let (requested, _) = rotation.request();
        rotation.page(requested, items(&["a"]), None);
        assert_eq!(rotation.known()["a"], 1);
    }

    #[test]
    fn an_older_read_does_not_undo_a_later_update() {
        let mut rotation = Rotation::default();
        rotation.update("a".to_owned(), Some(1));
        let requested = rotation.now();
        rotation.update("a".to_owned(), Some(2));
        rotation.read(requested, "a".to_owned(), Some(1));
        assert_eq!(rotation.known()["a"], 2);
        rotation.read(rotation.now(), "a".to_owned(), Some(3));
        assert_eq!(rotation.known()["a"], 3);
    }

    #[test]
    fn an_older_read_that_outlives_a_round_undoes_no_update() {
        let mut rotation = Rotation::default();
        let requested = rotation.now();
        rotation.update("a".to_owned(), Some(2));
        rotation.update("b".to_owned(), None);
        let (page, _) = rotation.request();
        rotation.page(page, items(&[]), None);
        rotation.read(requested, "a".to_owned(), Some(1));
        assert_eq!(rotation.known()["a"], 2);
    }

    #[test]
    fn an_older_read_does_not_restore_a_removed_item() {
        let mut rotation = Rotation::default();
        rotation.update("a".to_owned(), Some(1));
        let (page, requested) = (rotation.request().0, rotation.now());
        rotation.update("a".to_owned(), None);
        rotation.page(page, items(&["a"]), None);
        rotation.read(requested, "a".to_owned(), Some(1));
        assert!(rotation.known().is_empty());
    }

    #[test]
    fn marks_of_removed_items_end_with_the_next_round() {
        let mut rotation = Rotation::default();
        rotation.update("a".to_owned(), Some(1));
        rotation.update("a".to_owned(), None);
        for _ in 0..2 {
            let (page, _) = rotation.request();
            rotation.page(page, items(&[]), None);
        }
        assert!(rotation.updated.is_empty());
    }

    #[test]
    fn an_expired_token_restarts_the_round() {
        let mut rotation = Rotation::default();
        let (requested, _) = rotation.request();
        rotation.page(requested, items(&["a"]), Some("2".to_owned()));
        rotation.restart();
        assert_eq!(rotation.request().1, None);
    }

    #[test]
    fn a_prefix_selects_its_keys_only() {
        let mut rotation = Rotation::default();
        for key in ["a:1", "a:2", "ab:1"] {
            rotation.update(key.to_owned(), Some(1));
        }
        let keys: Vec<&String> = rotation.starting_with("a:").map(|(key, _)| key).collect();
        assert_eq!(keys, ["a:1", "a:2"]);
    }
}
