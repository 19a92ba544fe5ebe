//! The prune guard: whether codeloc may delete locations whose configs were removed. Pure: it decides from the observed and the desired
//! state each time, so a restart changes nothing.
//!
//! One removed config is an ordinary commit. If half of the configs or the last one are removed at once, the cause is more often an empty
//! checkout, a wrong folder or a wrong branch: codeloc waits for a confirmation.

use std::collections::BTreeSet;

use codeloc_crds::LocationName;

/// Confirmed names, from `prune.txt` next to the configs.
pub type Confirmed = BTreeSet<LocationName>;

#[derive(Clone, Copy, Debug)]
pub struct Inventory<'a> {
    /// Locations with at least one resource of this deployment.
    pub observed: &'a BTreeSet<LocationName>,
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
    let leaving = inventory
        .observed
        .iter()
        .filter(|observed| !inventory.desired.contains(*observed) && !inventory.confirmed.contains(*observed));
    let leaving = leaving.count();
    if leaving <= inventory.allowed {
        return None;
    }
    let total = inventory.observed.len();
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

    fn blocked(observed: usize, desired: usize, confirmed: usize, allowed: usize) -> bool {
        let (observed, desired) = (names(0..observed), names(0..desired));
        let confirmed: Confirmed = observed.difference(&desired).take(confirmed).cloned().collect();
        let inventory =
            Inventory { observed: &observed, desired: &desired, confirmed: &confirmed, allowed, unread: None };
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
        let unread = Inventory {
            observed: &observed,
            desired: &desired,
            confirmed: &observed,
            allowed: 9,
            unread: Some("git is away"),
        };
        assert!(prune_guard(unread, &location_name("location2")).unwrap().contains("git is away"));
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
