//! The prune guard: whether codeloc may delete locations whose configs were removed. Pure: it decides from the observed and the desired
//! state each time, so a restart changes nothing.
//!
//! One removed config is an ordinary commit. If half of the configs or the last one are removed at once, the cause is more often an empty
//! checkout, a wrong folder or a wrong branch: codeloc waits for a confirmation.

use std::collections::BTreeSet;

use codeloc_crds::LocationName;

/// Confirmed names, from `prune.txt` next to the configs.
pub type Confirmed = BTreeSet<LocationName>;

/// The locations in AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Those with at least one resource of this deployment.
    pub names: BTreeSet<LocationName>,
    /// Those of them that `deletion.protect` keeps.
    pub protected: BTreeSet<LocationName>,
    /// Those of them whose deletion began and waits for runs, perhaps for days.
    pub leaving: BTreeSet<LocationName>,
}

#[derive(Clone, Copy, Debug)]
pub struct Inventory<'a> {
    pub observed: &'a Owned,
    /// Locations that have a config, valid or not.
    pub desired: &'a BTreeSet<LocationName>,
    pub confirmed: &'a Confirmed,
    /// The number of locations that may be deleted at once without confirmation.
    pub allowed: usize,
    /// Why codeloc cannot read the configs now.
    pub unread: Option<&'a str>,
}

/// Why codeloc must not delete `name`, which has no config.
pub fn prune_guard(inventory: Inventory<'_>, name: &LocationName) -> Option<String> {
    if let Some(why) = inventory.unread {
        return Some(format!("codeloc cannot read the configs ({why})"));
    }
    if inventory.confirmed.contains(name) {
        return None;
    }
    let Owned { names, protected, leaving } = inventory.observed;
    if leaving.contains(name) {
        return None;
    }
    // A protected location without a config stays, perhaps for years, and one that waits for its runs passed this guard before: they say
    // nothing about the configs that are removed now.
    let earlier = |name: &LocationName| protected.contains(name) || leaving.contains(name);
    let removable = names.iter().filter(|name| inventory.desired.contains(*name) || !earlier(name));
    let total = removable.clone().count();
    let leaving = removable.filter(|name| !inventory.desired.contains(*name) && !inventory.confirmed.contains(*name));
    let leaving = leaving.count();
    if leaving <= inventory.allowed {
        return None;
    }
    let confirm = "to confirm, list the names in prune.txt next to the configs, or allow the number with --allow-prune";
    if inventory.desired.is_empty() {
        return Some(format!("codeloc found no config at all (locations in AWS: {total}); {confirm}"));
    }
    if leaving > 1 && leaving * 2 >= total {
        return Some(format!("{leaving} of the {total} locations in AWS lost their configs at once; {confirm}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::location_name;

    fn names(numbers: std::ops::Range<usize>) -> BTreeSet<LocationName> {
        numbers.map(|number| location_name(&format!("location{number}"))).collect()
    }

    #[test]
    fn locations_that_wait_for_their_runs_block_no_others() {
        let observed = Owned { names: names(0..4), leaving: names(0..1), ..Owned::default() };
        let (desired, confirmed) = (names(2..4), Confirmed::new());
        let inventory =
            Inventory { observed: &observed, desired: &desired, confirmed: &confirmed, allowed: 0, unread: None };
        for waiting in ["location0", "location1"] {
            assert_eq!(prune_guard(inventory, &location_name(waiting)), None, "{waiting}");
        }
        let both = Owned { leaving: BTreeSet::new(), ..observed.clone() };
        assert!(prune_guard(Inventory { observed: &both, ..inventory }, &location_name("location0")).is_some());
    }

    #[test]
    fn a_location_that_waits_for_its_runs_is_never_blocked() {
        let observed = Owned { names: names(0..4), leaving: names(0..1), ..Owned::default() };
        let (desired, confirmed) = (names(3..4), Confirmed::new());
        let inventory =
            Inventory { observed: &observed, desired: &desired, confirmed: &confirmed, allowed: 0, unread: None };
        let blocked = |name: &str| prune_guard(inventory, &location_name(name)).is_some();
        assert!(!blocked("location0"));
        assert!(blocked("location1"), "2 of the 3 that do not wait");
    }

    fn blocked(observed: usize, desired: usize, confirmed: usize, allowed: usize) -> bool {
        let (observed, desired) = (names(0..observed), names(0..desired));
        let confirmed: Confirmed = observed.difference(&desired).take(confirmed).cloned().collect();
        let owned = Owned { names: observed.clone(), ..Owned::default() };
        let inventory = Inventory { observed: &owned, desired: &desired, confirmed: &confirmed, allowed, unread: None };
        let gone = observed.difference(&desired).last().expect("one is gone");
        prune_guard(inventory, gone).is_some()
    }

    #[test]
    fn one_removed_config_is_an_ordinary_commit() {
        for observed in 2..20 {
            assert!(!blocked(observed, observed - 1, 0, 0), "1 of {observed}");
        }
    }

    #[test]
    fn the_last_one_goes_only_when_that_is_confirmed() {
        assert!(blocked(1, 0, 0, 0));
        assert!(!blocked(1, 0, 1, 0));
        assert!(!blocked(1, 0, 0, 1));
    }

    #[test]
    fn half_of_all_at_once_does_not_go() {
        assert!(blocked(4, 2, 0, 0));
        assert!(blocked(3, 1, 0, 0));
        assert!(!blocked(5, 3, 0, 0));
        assert!(!blocked(4, 2, 0, 2));
        assert!(blocked(4, 2, 0, 1));
        assert!(!blocked(4, 2, 1, 0));
    }

    #[test]
    fn nothing_goes_while_the_configs_cannot_be_read() {
        let (observed, desired) = (names(0..3), names(0..2));
        let owned = Owned { names: observed.clone(), ..Owned::default() };
        let unread = Inventory {
            observed: &owned,
            desired: &desired,
            confirmed: &observed,
            allowed: 9,
            unread: Some("git is away"),
        };
        assert!(prune_guard(unread, &location_name("location2")).unwrap().contains("git is away"));
    }

    /// Whether the guard blocks the last of `observed` locations. The first ones are protected and have no config.
    fn blocked_beside(protected: usize, observed: usize, removed: usize) -> bool {
        let owned = Owned { names: names(0..observed), protected: names(0..protected), ..Owned::default() };
        let desired = names(protected..observed - removed);
        let confirmed = Confirmed::new();
        let inventory =
            Inventory { observed: &owned, desired: &desired, confirmed: &confirmed, allowed: 0, unread: None };
        prune_guard(inventory, owned.names.last().expect("one is removed")).is_some()
    }

    #[test]
    fn protected_leftovers_do_not_block_a_single_removal() {
        assert!(!blocked_beside(5, 10, 1));
        assert!(!blocked_beside(8, 10, 1));
        // The last config.
        assert!(blocked_beside(9, 10, 1));
    }

    #[test]
    fn protected_leftovers_do_not_hide_a_large_removal() {
        assert!(!blocked_beside(5, 10, 2));
        assert!(blocked_beside(5, 10, 3), "3 of the 5 that can be removed");
    }

    proptest! {
        #[test]
        fn an_allowed_deletion_stays_allowed_until_it_is_done(observed in 1_usize..40, desired in 0_usize..40, allowed in 0_usize..5) {
            prop_assume!(desired < observed);
            if !blocked(observed, desired, 0, allowed) {
                for left in desired + 1..observed {
                    prop_assert!(!blocked(left, desired, 0, allowed));
                }
            }
        }

        #[test]
        fn more_than_half_never_goes_unasked(observed in 2_usize..40, desired in 0_usize..40) {
            prop_assume!(desired < observed && (observed - desired) * 2 >= observed && observed - desired > 1);
            prop_assert!(blocked(observed, desired, 0, 0));
        }
    }
}
