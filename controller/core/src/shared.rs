//! A shared pointer to a value that rarely changes: it copies the value on a change, and compares by address first.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// If a sweep reads a value that the previous one read too, both share it. The memory of a fleet therefore does not grow with its sweeps.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T> Borrow<T> for Shared<T> {
    fn borrow(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T> Shared<T> {
    /// Whether another pointer shares the value.
    pub fn is_held_elsewhere(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl<T: PartialEq> Shared<T> {
    /// `held`, if its value equals `read`.
    pub fn like(held: Option<&Self>, read: T) -> Self {
        held.filter(|held| ***held == read).cloned().unwrap_or_else(|| read.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_shared() {
        let first = Shared::from("a".to_owned());
        assert!(Arc::ptr_eq(&Shared::like(Some(&first), "a".to_owned()).0, &first.0));
        assert_eq!(*Shared::like(Some(&first), "b".to_owned()), "b");
        assert_eq!(*Shared::like(None, "b".to_owned()), "b");
    }

    #[test]
    fn a_change_does_not_affect_other_pointers() {
        let first = Shared::from("a".to_owned());
        let mut second = first.clone();
        second.push('b');
        assert_eq!((first.as_str(), second.as_str()), ("a", "ab"));
        assert_ne!(first, second);
    }

    #[test]
    fn a_pointer_knows_whether_it_is_the_only_one() {
        let first = Shared::from(1);
        assert!(!first.is_held_elsewhere());
        let second = first.clone();
        assert!(first.is_held_elsewhere());
        drop(second);
        assert!(!first.is_held_elsewhere());
    }
}
