//! The prune brake: whether locations whose configs are gone may be deleted. Pure: decided afresh from what is live and what
//! is wanted, so that a restart changes nothing.
//!
//! One config that is removed is an ordinary commit. Half of all at once, or the last one, is more often an empty checkout, a
//! wrong folder or a wrong branch: such deletions wait until they are meant.

use std::collections::BTreeSet;

/// Names that may be deleted whatever the brake says: those of `prune.txt` beside the configs.
pub type Confirmed = BTreeSet<String>;

#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Locations of which anything is live and ours.
    pub live: &'a BTreeSet<String>,
    /// Locations that have a config, valid or not.
    pub wanted: &'a BTreeSet<String>,
    pub confirmed: &'a Confirmed,
    /// So many may go at once without further confirmation.
    pub allowed: usize,
    /// Why the configs cannot be read at present, if they cannot.
    pub unread: Option<&'a str>,
}

/// Why `name`, which has no config, may not be deleted now.
pub fn brake(picture: Picture<'_>, name: &str) -> Option<String> {
    if let Some(why) = picture.unread {
        return Some(format!("the configs cannot be read at present ({why})"));
    }
    if picture.confirmed.contains(name) {
        return None;
    }
    let leaving =
        picture.live.iter().filter(|live| !picture.wanted.contains(*live) && !picture.confirmed.contains(*live));
    let leaving = leaving.count();
    if leaving <= picture.allowed {
        return None;
    }
    let total = picture.live.len();
    let confirm =
        "if that is meant, list the names in prune.txt beside the configs, or allow the number with --allow-prune";
    if picture.wanted.is_empty() {
        return Some(format!("no config is left, {total} location(s) are live; {confirm}"));
    }
    if leaving > 1 && leaving * 2 >= total {
        return Some(format!("{leaving} of {total} live locations lost their configs at once; {confirm}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
        numbers.map(|number| format!("location{number}")).collect()
    }

    fn braked(live: usize, wanted: usize, confirmed: usize, allowed: usize) -> bool {
        let (live, wanted) = (names(0..live), names(0..wanted));
        let confirmed: Confirmed = live.difference(&wanted).take(confirmed).cloned().collect();
        let picture = Picture { live: &live, wanted: &wanted, confirmed: &confirmed, allowed, unread: None };
        let gone = live.difference(&wanted).last().expect("one is gone");
        brake(picture, gone).is_some()
    }

    #[test]
    fn one_removed_config_is_an_ordinary_commit() {
        for live in 2..20 {
            assert!(!braked(live, live - 1, 0, 0), "1 of {live}");
        }
    }

    #[test]
    fn the_last_one_goes_only_when_that_is_confirmed() {
        assert!(braked(1, 0, 0, 0));
        assert!(!braked(1, 0, 1, 0));
        assert!(!braked(1, 0, 0, 1));
    }

    #[test]
    fn half_of_all_at_once_does_not_go() {
        assert!(braked(4, 2, 0, 0));
        assert!(braked(3, 1, 0, 0));
        assert!(!braked(5, 3, 0, 0));
        assert!(!braked(4, 2, 0, 2));
        assert!(braked(4, 2, 0, 1));
        assert!(!braked(4, 2, 1, 0));
    }

    #[test]
    fn nothing_goes_while_the_configs_cannot_be_read() {
        let (live, wanted) = (names(0..3), names(0..2));
        let unread =
            Picture { live: &live, wanted: &wanted, confirmed: &live, allowed: 9, unread: Some("git is away") };
        assert!(brake(unread, "location2").unwrap().contains("git is away"));
    }

    proptest! {
        #[test]
        fn what_was_let_go_once_is_let_go_until_it_is_gone(live in 1_usize..40, wanted in 0_usize..40, allowed in 0_usize..5) {
            prop_assume!(wanted < live);
            if !braked(live, wanted, 0, allowed) {
                for left in wanted + 1..live {
                    prop_assert!(!braked(left, wanted, 0, allowed));
                }
            }
        }

        #[test]
        fn more_than_half_never_goes_unasked(live in 2_usize..40, wanted in 0_usize..40) {
            prop_assume!(wanted < live && (live - wanted) * 2 >= live && live - wanted > 1);
            prop_assert!(braked(live, wanted, 0, 0));
        }
    }
}
