//! Whether a location needs anything: more time, or a person.

use codeloc_core::status::{Health, LocationStatus, Reason, Sync};

/// Reasons that end only with a change: of the code, a config, a repository or AWS.
const STUCK: [Reason; 6] = [
    Reason::InvalidConfig,
    Reason::Unresolved,
    Reason::BuildFailed,
    Reason::NotOwned,
    Reason::RolloutFailed,
    Reason::LoadError,
];

/// Reasons that a newer commit has until its image is ready.
const PENDING: [Reason; 2] = [Reason::Resolving, Reason::Building];

/// Synced and Healthy.
pub fn is_settled(status: &LocationStatus) -> bool {
    (status.sync, status.health) == (Sync::Synced, Health::Healthy)
}

/// Whether waiting cannot settle the location. A location whose newer commit is being built is not stuck.
pub fn is_stuck(status: &LocationStatus) -> bool {
    let has = |reasons: &[Reason]| status.conditions.iter().any(|dated| reasons.contains(&dated.condition.reason));
    !is_settled(status) && has(&STUCK) && !has(&PENDING)
}

#[cfg(test)]
mod tests {
    use codeloc_core::status::{Condition, ConditionKind, ConditionStatus, DatedCondition};

    use super::*;

    fn with(reasons: &[Reason]) -> LocationStatus {
        let now = jiff::Timestamp::from_second(1).unwrap();
        let mut status = LocationStatus::unknown("orders", String::new(), now);
        let conditions = reasons.iter().map(|reason| {
            let (kind, status, message) = (ConditionKind::Deployed, ConditionStatus::False, String::new());
            DatedCondition { condition: Condition { kind, status, reason: *reason, message }, since: now }
        });
        status.conditions = conditions.collect();
        status
    }

    #[test]
    fn a_location_that_needs_a_change_is_stuck() {
        for reason in STUCK {
            assert!(is_stuck(&with(&[Reason::UpToDate, reason])), "{reason:?}");
        }
    }

    #[test]
    fn a_location_that_needs_time_is_not_stuck() {
        for reason in [Reason::Waiting, Reason::Rolling, Reason::Draining, Reason::NotAnswering, Reason::Standby] {
            assert!(!is_stuck(&with(&[reason])), "{reason:?}");
        }
        for pending in PENDING {
            assert!(!is_stuck(&with(&[pending, Reason::LoadError])), "{pending:?}");
        }
    }

    #[test]
    fn a_settled_location_is_not_stuck() {
        let mut status = with(&[Reason::LoadError]);
        (status.sync, status.health) = (Sync::Synced, Health::Healthy);
        assert!(is_settled(&status) && !is_stuck(&status));
    }
}
