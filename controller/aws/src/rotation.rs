//! A list too long to be read in every sweep: each sweep reads the next few pages and remembers the rest. Pure.
//!
//! Guarantees: what was read newly replaces what was remembered; nothing is forgotten only because a page did not show it, for
//! AWS promises no order between two readings: at the end of a round, whoever was not seen is asked for by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug)]
pub struct Rotation<V> {
    known: BTreeMap<String, V>,
    /// Whether a round was ever read to its end.
    whole: bool,
    /// The page that comes next; the first one where there is none.
    next: Option<String>,
    /// Known when this round began, and not seen since.
    unseen: BTreeSet<String>,
    /// Counts what is told beside the pages, and when it was told of whom: a page that was asked for before knows less.
    told: u64,
    told_of: HashMap<String, u64>,
}

/// The moment at which a page was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked(u64);

impl<V> Default for Rotation<V> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            whole: false,
            next: None,
            unseen: BTreeSet::new(),
            told: 0,
            told_of: HashMap::new(),
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

    /// The token of the page to read next.
    pub fn ask(&mut self) -> (Asked, Option<String>) {
        if self.next.is_none() {
            self.unseen = self.known.keys().cloned().collect();
        }
        (Asked(self.told), self.next.clone())
    }

    /// Takes a page in. At the end of a round: who is known and was not seen.
    pub fn page(
        &mut self,
        asked: Asked,
        found: impl IntoIterator<Item = (String, V)>,
        next: Option<String>,
    ) -> Vec<String> {
        for (key, value) in found {
            self.unseen.remove(&key);
            if self.told_of.get(&key).is_none_or(|told| *told <= asked.0) {
                self.known.insert(key, value);
            }
        }
        let ended = next.is_none();
        self.next = next;
        if !ended {
            return vec![];
        }
        self.whole = true;
        self.told_of.clear();
        let mut missing = std::mem::take(&mut self.unseen);
        missing.retain(|key| self.known.contains_key(key));
        missing.into_iter().collect()
    }

    /// Begins a new round: AWS does not know the token any more.
    pub fn restart(&mut self) {
        self.next = None;
    }

    /// What is known otherwise, from a change of our own or from a reading of this one.
    pub fn tell(&mut self, key: String, value: Option<V>) {
        self.told += 1;
        self.unseen.remove(&key);
        self.told_of.insert(key.clone(), self.told);
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
    fn a_round_goes_on_where_the_sweep_before_stopped() {
        let mut rotation = Rotation::default();
        let (asked, token) = rotation.ask();
        assert_eq!(token, None);
        assert!(rotation.page(asked, items(&["a", "b"]), Some("2".to_owned())).is_empty());
        assert!(!rotation.is_whole());
        let (asked, token) = rotation.ask();
        assert_eq!(token.as_deref(), Some("2"));
        assert!(rotation.page(asked, items(&["c"]), None).is_empty());
        assert!(rotation.is_whole());
        assert_eq!(rotation.known().len(), 3);
        assert_eq!(rotation.ask().1, None);
    }

    #[test]
    fn what_no_page_of_a_round_shows_is_named_and_kept() {
        let mut rotation = Rotation::default();
        let (asked, _) = rotation.ask();
        rotation.page(asked, items(&["a", "b"]), None);
        let (asked, _) = rotation.ask();
        assert_eq!(rotation.page(asked, items(&["b"]), None), ["a"]);
        assert!(rotation.known().contains_key("a"));
        rotation.tell("a".to_owned(), None);
        assert!(!rotation.known().contains_key("a"));
    }

    #[test]
    fn what_was_changed_while_a_page_was_read_is_not_undone_by_it() {
        let mut rotation = Rotation::default();
        let (asked, _) = rotation.ask();
        rotation.tell("a".to_owned(), Some(2));
        rotation.page(asked, items(&["a"]), None);
        assert_eq!(rotation.known()["a"], 2);
        let (asked, _) = rotation.ask();
        rotation.page(asked, items(&["a"]), None);
        assert_eq!(rotation.known()["a"], 1);
    }
}
