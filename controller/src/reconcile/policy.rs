//! Whether codeloc may change a location: by the mode, by the lease, and by what a removed config said.

use codeloc_aws::lease::LeaseState;
use codeloc_core::planner::Hold;
use codeloc_crds::{LocationName, Mode};

use super::configs::{Config, Configs};
use super::prune_guard::Owned;

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The mode of the whole process. A config can only be stricter.
    pub mode: Mode,
    /// The number of locations that may be deleted at once without confirmation.
    pub allow_prune: usize,
}

impl Policy {
    /// Why the plan of this location must not be executed.
    pub fn hold(
        &self,
        name: &LocationName,
        config: &Config,
        lease: LeaseState,
        configs: &Configs,
        owned: Option<&Owned>,
    ) -> Option<Hold> {
        let own = match config {
            Config::Valid(location) => location.mode,
            Config::Invalid(_) | Config::Absent => Mode::Enforce,
        };
        match own.max(self.mode) {
            Mode::Suspended => return Some(Hold::Suspended),
            Mode::Detect => return Some(Hold::Detect),
            Mode::Enforce => {}
        }
        match lease {
            LeaseState::Held => {}
            LeaseState::Standby { holder } => return Some(Hold::Standby { holder }),
            LeaseState::Unknown => return Some(Hold::Unleased("this process has not read it yet".to_owned())),
            LeaseState::Unreadable(why) => return Some(Hold::Unleased(why)),
        }
        match config {
            Config::Absent => configs.removal_hold(name, owned, self.allow_prune),
            Config::Valid(_) | Config::Invalid(_) => None,
        }
    }

    /// Whether this process may write the tag that protects a location, although the config holds everything else.
    pub fn may_protect(&self, lease: &LeaseState) -> bool {
        self.mode == Mode::Enforce && *lease == LeaseState::Held
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use codeloc_core::desired::Invalid;

    use super::*;
    use crate::config_source::Snapshot;
    use crate::fixtures::location_name;

    const ENFORCE: Policy = Policy { mode: Mode::Enforce, allow_prune: 1 };

    fn valid(mode: &str) -> Config {
        let text = format!("name: orders\ngit_url: https://git.test/orders.git\nmodule: orders\nmode: {mode}\n");
        Config::Valid(codeloc_crds::parse("orders", &text).expect("a valid config").into())
    }

    fn hold(policy: Policy, config: &Config, lease: LeaseState) -> Option<Hold> {
        let configs = Configs::default();
        configs.set_snapshot(Arc::new(Snapshot::default()));
        let orders = location_name("orders");
        let owned = Owned { names: BTreeSet::from([orders.clone()]), ..Owned::default() };
        policy.hold(&orders, config, lease, &configs, Some(&owned))
    }

    #[test]
    fn the_lease_holder_enforces() {
        assert_eq!(hold(ENFORCE, &valid("enforce"), LeaseState::Held), None);
    }

    #[test]
    fn the_stricter_mode_wins() {
        let detect = Policy { mode: Mode::Detect, ..ENFORCE };
        assert_eq!(hold(detect, &valid("enforce"), LeaseState::Held), Some(Hold::Detect));
        assert_eq!(hold(ENFORCE, &valid("detect"), LeaseState::Held), Some(Hold::Detect));
        assert_eq!(hold(detect, &valid("suspended"), LeaseState::Held), Some(Hold::Suspended));
    }

    #[test]
    fn no_change_happens_without_the_lease() {
        for lease in [
            LeaseState::Unknown,
            LeaseState::Unreadable("no answer".to_owned()),
            LeaseState::Standby { holder: "other".to_owned() },
        ] {
            for config in [valid("enforce"), Config::Absent, Config::Invalid(Invalid::new("orders", "bad"))] {
                assert!(hold(ENFORCE, &config, lease.clone()).is_some(), "{lease:?}, {config:?}");
            }
            assert!(!ENFORCE.may_protect(&lease));
        }
    }

    #[test]
    fn a_removed_config_is_checked_by_the_prune_guard() {
        let none = Policy { allow_prune: 0, ..ENFORCE };
        assert!(matches!(hold(none, &Config::Absent, LeaseState::Held), Some(Hold::PruneBlocked(_))));
        assert_eq!(hold(ENFORCE, &Config::Absent, LeaseState::Held), None);
    }
}
