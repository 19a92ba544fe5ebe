//! Why codeloc does not delete or change a location: the prune guard, protection, modes, renames, placement and conflicts. The status names
//! the reason and the next step.

mod conflicts;
mod modes;
mod placement;
mod protection;
mod prune;
mod renames;

use codeloc_core::status::{ConditionKind, LocationStatus, Reason};
use codeloc_tests::{TestDeployment, normalized};

const FOUR: [&str; 4] = ["billing", "crm", "orders", "stock"];

/// The `Enforced` condition: why codeloc does not repair drift.
fn enforced(status: &LocationStatus) -> Option<(Reason, &str)> {
    let conditions = status.conditions.iter().map(|dated| &dated.condition);
    let held = conditions.filter(|condition| condition.kind == ConditionKind::Enforced);
    held.map(|condition| (condition.reason, condition.message.as_str())).next()
}

fn held_for(deployment: &TestDeployment, name: &str, reason: Reason) -> bool {
    deployment.status(name).is_some_and(|status| enforced(&status).is_some_and(|(why, _)| why == reason))
}

async fn wait_until_held(deployment: &TestDeployment, names: &[&str], reason: Reason) {
    let all = |this: &TestDeployment| names.iter().all(|name| held_for(this, name, reason));
    deployment.wait_until(&format!("{names:?} held for {reason:?}"), all).await;
}

async fn wait_until_deleted(deployment: &TestDeployment, names: &[&str]) {
    deployment
        .wait_until(&format!("{names:?} deleted"), |this| names.iter().all(|name| this.status(name).is_none()))
        .await;
}

/// The state that must not change.
async fn snapshot(deployment: &TestDeployment) -> (String, String) {
    (normalized(&deployment.observed().await), deployment.workspace())
}

/// All locations with resources of this deployment.
async fn owned(deployment: &TestDeployment) -> Vec<String> {
    let observed = deployment.observed().await;
    observed
        .iter()
        .filter(|(name, observed)| observed.any_owned(name, "codeloc"))
        .map(|(name, _)| name.to_string())
        .collect()
}

/// Lets time pass and asserts that codeloc changes nothing.
async fn assert_unchanged(deployment: &TestDeployment, before: &(String, String)) {
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
    assert_eq!(snapshot(deployment).await, *before);
}

fn message_contains(deployment: &TestDeployment, name: &str, part: &str) -> bool {
    deployment.status(name).is_some_and(|status| status.message.contains(part))
}
