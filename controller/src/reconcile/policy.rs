//! Whether codeloc may change a location: by the mode, by the lease, and by what a removed config said.

use std::collections::BTreeSet;

use codeloc_aws::lease::LeaseState;
use codeloc_core::desired::Desired;
use codeloc_core::planner::Hold;
use codeloc_crds::Mode;

use super::configs::Configs;

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
        name: &str,
        desired: &Desired,
        lease: LeaseState,
        configs: &Configs,
        owned: Option<&BTreeSet<String>>,
    ) -> Option<Hold> {
        let own = match desired {
            Desired::Present(location) => location.config.mode,
            Desired::Invalid(_) | Desired::Absent => Mode::Enforce,
        };
        match own.max(self.mode) {
            Mode::Suspended => return Some(Hold::Suspended),
            Mode::Detect => return Some(Hold::Detect),
            Mode::Enforce => {}
        }
        match lease {
            LeaseState::Held => {}
            LeaseState::Standby { holder } => return Some(Hold::Standby { holder }),
            LeaseState::Unknown => return Some(Hold::Unleased("it was not read yet".to_owned())),
            LeaseState::Unreadable(why) => return Some(Hold::Unleased(why)),
        }
        match desired {
            Desired::Absent => configs.removal_hold(name, owned, self.allow_prune),
            Desired::Present(_) | Desired::Invalid(_) => None,
        }
    }

    /// Whether this process may write the tag that protects a location, although the config holds everything else.
    pub fn may_protect(&self, lease: &LeaseState) -> bool {
        self.mode == Mode::Enforce && *lease == LeaseState::Held
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use codeloc_core::desired::{DesiredLocation, Invalid};
    use codeloc_core::image::ImageStatus;

    use super::*;
    use crate::config_source::Snapshot;

    const ENFORCE: Policy = Policy { mode: Mode::Enforce, allow_prune: 1 };

    fn present(mode: &str) -> Desired {
        let text = format!("name: orders\ngit_url: https://git.test/orders.git\nmodule: orders\nmode: {mode}\n");
        let config = codeloc_crds::parse("orders", &text).expect("a valid config");
        let image = ImageStatus::Resolving(String::new());
        Desired::Present(Box::new(DesiredLocation { config, image, commit: None }))
    }

    fn hold(policy: Policy, desired: &Desired, lease: LeaseState) -> Option<Hold> {
        let configs = Configs::default();
        configs.set_snapshot(Arc::new(Snapshot::default()));
        let owned = BTreeSet::from(["orders".to_owned()]);
        policy.hold("orders", desired, lease, &configs, Some(&owned))
    }

    #[test]
    fn the_lease_holder_enforces() {
        assert_eq!(hold(ENFORCE, &present("enforce"), LeaseState::Held), None);
    }

    #[test]
    fn the_stricter_mode_wins() {
        let detect = Policy { mode: Mode::Detect, ..ENFORCE };
        assert_eq!(hold(detect, &present("enforce"), LeaseState::Held), Some(Hold::Detect));
        assert_eq!(hold(ENFORCE, &present("detect"), LeaseState::Held), Some(Hold::Detect));
        assert_eq!(hold(detect, &present("suspended"), LeaseState::Held), Some(Hold::Suspended));
    }

    #[test]
    fn no_change_happens_without_the_lease() {
        for lease in [
            LeaseState::Unknown,
            LeaseState::Unreadable("no answer".to_owned()),
            LeaseState::Standby { holder: "other".to_owned() },
        ] {
            for desired in [present("enforce"), Desired::Absent, Desired::Invalid(Invalid::new("orders", "bad"))] {
                assert!(hold(ENFORCE, &desired, lease.clone()).is_some(), "{lease:?}, {desired:?}");
            }
            assert!(!ENFORCE.may_protect(&lease));
        }
    }

    #[test]
    fn a_removed_config_is_checked_by_the_prune_guard() {
        let none = Policy { allow_prune: 0, ..ENFORCE };
        assert!(matches!(hold(none, &Desired::Absent, LeaseState::Held), Some(Hold::PruneBlocked(_))));
        assert_eq!(hold(ENFORCE, &Desired::Absent, LeaseState::Held), None);
    }
}
