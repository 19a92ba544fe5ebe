//! Which events one status makes of another.

use codeloc_core::status::{Drift, Health, LocationStatus, Reason, Sync};

use super::EventReason;

/// Fields that the message of a drift names.
const NAMED: usize = 5;

/// What happened between two statuses of one location; `before` is absent at the first look of a process.
pub fn between(before: Option<&LocationStatus>, after: &LocationStatus) -> Vec<(EventReason, String)> {
    let mut news = Vec::new();
    if let (Some(before), Some(commit)) = (before, &after.commit)
        && before.commit.as_ref() != Some(commit)
    {
        let from = before.commit.as_deref().map_or_else(String::new, |from| format!(" after {from}"));
        news.push((EventReason::CommitObserved, format!("commit {commit}{from}")));
    }
    let told_as = [
        (Reason::InvalidConfig, EventReason::ConfigInvalid),
        (Reason::RolloutFailed, EventReason::RolloutFailed),
        (Reason::NotConverging, EventReason::NotConverging),
        (Reason::PruneBlocked, EventReason::PruneBlocked),
    ];
    for (reason, event) in told_as {
        if has(after, reason) && !before.is_some_and(|before| has(before, reason)) {
            news.push((event, after.message.clone()));
        }
    }
    if drifted(before, after) {
        news.push((EventReason::Drifted, describe(&after.drift)));
    }
    let is_well = |status: &LocationStatus| (status.sync, status.health) == (Sync::Synced, Health::Healthy);
    if is_well(after) && !before.is_some_and(is_well) {
        news.push((EventReason::Healthy, after.message.clone()));
    }
    let degraded = |status: &LocationStatus| status.health == Health::Degraded;
    if degraded(after) && !before.is_some_and(degraded) {
        news.push((EventReason::Degraded, after.message.clone()));
    }
    news
}

fn has(status: &LocationStatus, reason: Reason) -> bool {
    status.conditions.iter().any(|dated| dated.condition.reason == reason)
}

/// Whether something differs although neither config nor commit did: with them, differing is how they become true.
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
        Some(field) => format!("{} {}: {field}", drift.kind, drift.name),
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
    use super::*;

    fn status(sync: Sync, health: Health) -> LocationStatus {
        let now = jiff::Timestamp::from_second(1).unwrap();
        let mut status = LocationStatus::unknown("orders", "message".to_owned(), now);
        (status.sync, status.health) = (sync, health);
        status.commit = Some("a".repeat(40));
        status.revision = Some("orders-1".to_owned());
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
    fn what_differs_without_a_commit_has_drifted() {
        let before = status(Sync::Synced, Health::Healthy);
        let mut after = status(Sync::OutOfSync, Health::Healthy);
        after.drift = drift();
        assert_eq!(
            between(Some(&before), &after),
            [(EventReason::Drifted, "log group /codeloc/orders: retention".to_owned())]
        );
    }

    #[test]
    fn what_differs_after_a_commit_has_not_drifted() {
        let before = status(Sync::Synced, Health::Healthy);
        let mut after = status(Sync::OutOfSync, Health::Progressing);
        after.drift = drift();
        after.commit = Some("b".repeat(40));
        after.revision = Some("orders-2".to_owned());
        assert_eq!(reasons(Some(&before), &after), [EventReason::CommitObserved]);
    }

    #[test]
    fn a_location_is_told_to_be_well_once() {
        let well = status(Sync::Synced, Health::Healthy);
        assert_eq!(reasons(None, &well), [EventReason::Healthy]);
        assert_eq!(reasons(Some(&well), &well), []);
        let ill = status(Sync::Synced, Health::Degraded);
        assert_eq!(reasons(Some(&well), &ill), [EventReason::Degraded]);
    }
}
