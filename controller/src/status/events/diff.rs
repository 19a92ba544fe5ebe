//! Events that follow from a change of a location's status.

use codeloc_core::status::{Drift, Health, LocationStatus, Reason, Sync};

use super::reason::EventReason;
use crate::status::is_settled;

/// Fields that the message about drift names.
const NAMED: usize = 5;

/// Events between two statuses of one location. `before` is absent at the first observation of a process.
pub fn between(before: Option<&LocationStatus>, after: &LocationStatus) -> Vec<(EventReason, String)> {
    let mut events = Vec::new();
    if let (Some(before), Some(commit)) = (before, &after.commit)
        && before.commit.as_ref() != Some(commit)
    {
        let from = before.commit.as_deref().map_or_else(String::new, |from| format!(" (before: {from})"));
        events.push((EventReason::CommitObserved, format!("the desired commit is now {commit}{from}")));
    }
    let reported_as = [
        (Reason::InvalidConfig, EventReason::ConfigInvalid),
        (Reason::RolloutFailed, EventReason::RolloutFailed),
        (Reason::NotConverging, EventReason::NotConverging),
        (Reason::PruneBlocked, EventReason::PruneBlocked),
        (Reason::WaitingForRuns, EventReason::WaitingForRuns),
    ];
    for (reason, event) in reported_as {
        if has(after, reason) && !before.is_some_and(|before| has(before, reason)) {
            events.push((event, after.message.clone()));
        }
    }
    if drifted(before, after) {
        events.push((EventReason::Drifted, describe(&after.drift)));
    }
    if is_settled(after) && !before.is_some_and(is_settled) {
        events.push((EventReason::Healthy, after.message.clone()));
    }
    let degraded = |status: &LocationStatus| status.health == Health::Degraded;
    if degraded(after) && !before.is_some_and(degraded) {
        events.push((EventReason::Degraded, after.message.clone()));
    }
    events
}

fn has(status: &LocationStatus, reason: Reason) -> bool {
    status.conditions.iter().any(|dated| dated.condition.reason == reason)
}

/// Whether the observed state changed although neither the revision nor the commit did. After a commit, a difference is expected.
fn drifted(before: Option<&LocationStatus>, after: &LocationStatus) -> bool {
    before.is_some_and(|before| {
        before.sync == Sync::Synced
            && before.drift.is_empty()
            && !after.drift.is_empty()
            && before.revision.is_some()
            && (&before.revision, &before.commit) == (&after.revision, &after.commit)
    })
}

fn describe(drift: &[Drift]) -> String {
    let one = |drift: &Drift| match &drift.field {
        Some(field) => format!("{} {}: {field} differs", drift.kind, drift.name),
        None => format!("{} {} is missing", drift.kind, drift.name),
    };
    let mut named: Vec<String> = drift.iter().take(NAMED).map(one).collect();
    if drift.len() > NAMED {
        named.push(format!("and {} more", drift.len() - NAMED));
    }
    named.join("; ")
}

#[cfg(test)]
mod tests {
    use codeloc_core::ids::Commit;

    use super::*;

    fn status(sync: Sync, health: Health) -> LocationStatus {
        let now = jiff::Timestamp::from_second(1).unwrap();
        let mut status = LocationStatus::unknown("orders", "message".to_owned(), now);
        (status.sync, status.health) = (sync, health);
        status.commit = Some(Commit::from("a".repeat(40)));
        status.revision = Some("orders-1".into());
        status
    }

    fn reasons(before: Option<&LocationStatus>, after: &LocationStatus) -> Vec<EventReason> {
        between(before, after).into_iter().map(|(reason, _)| reason).collect()
    }

    fn drift() -> Vec<Drift> {
        let field = Some("retention".to_owned());
        vec![Drift {
            kind: "log group".to_owned(),
            name: "/codeloc/orders".to_owned(),
            field,
            observed: None,
            desired: None,
        }]
    }

    #[test]
    fn a_difference_without_a_new_commit_is_drift() {
        let before = status(Sync::Synced, Health::Healthy);
        let mut after = status(Sync::OutOfSync, Health::Healthy);
        after.drift = drift();
        assert_eq!(
            between(Some(&before), &after),
            [(EventReason::Drifted, "log group /codeloc/orders: retention differs".to_owned())]
        );
    }

    #[test]
    fn a_difference_after_a_new_commit_is_not_drift() {
        let before = status(Sync::Synced, Health::Healthy);
        let mut after = status(Sync::OutOfSync, Health::Progressing);
        after.drift = drift();
        after.commit = Some(Commit::from("b".repeat(40)));
        after.revision = Some("orders-2".into());
        assert_eq!(reasons(Some(&before), &after), [EventReason::CommitObserved]);
    }

    #[test]
    fn health_is_reported_once() {
        let healthy = status(Sync::Synced, Health::Healthy);
        assert_eq!(reasons(None, &healthy), [EventReason::Healthy]);
        assert_eq!(reasons(Some(&healthy), &healthy), []);
        let degraded = status(Sync::Synced, Health::Degraded);
        assert_eq!(reasons(Some(&healthy), &degraded), [EventReason::Degraded]);
    }
}
