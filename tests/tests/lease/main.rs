//! Only the lease holder makes changes. The tests read who held the lease from the calls that localcloud recorded, not from the
//! controllers.

mod epochs;
mod lost_leases;
mod record;
mod unreadable;

use std::time::Duration;

use codeloc_core::status::{Health, LocationStatus, Reason, Sync};
use codeloc_tests::{TestDeployment, commit_id, config};
use localcloud::calls::Call;
use localcloud::fault_injection::{Fault, Rule};
use record::lease_writes;

/// The duration of a lease in seconds, for tests that lose it.
const LEASE: u64 = 30;

/// The poll interval of a standby plus a few calls.
const SECONDS_TO_NOTICE: f64 = 3.0;

fn operations(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.operation.as_str()).collect()
}

fn is_held_for(status: Option<LocationStatus>, reason: Reason) -> bool {
    status.is_some_and(|status| status.conditions.iter().any(|dated| dated.condition.reason == reason))
}

/// Two controllers: `a` holds the lease, `b` is the standby.
async fn pair() -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.start_as("a").await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.start_as("b").await;
    deployment.wait_until("standing by", |this| is_held_for(this.status_of("b", "orders"), Reason::Standby)).await;
    deployment.cloud.reset_calls();
    deployment
}

fn rolled_out(deployment: &TestDeployment, caller: &str, commit: u32) -> bool {
    deployment.status_of(caller, "orders").is_some_and(|status| {
        status.commit == Some(commit_id(commit))
            && status.serving == status.revision
            && (status.sync, status.health) == (Sync::Synced, Health::Healthy)
    })
}

/// Seconds from the last write of `a` to the first one of `b`.
fn handed_over_after(deployment: &TestDeployment) -> f64 {
    let calls = deployment.cloud.calls();
    let writes = lease_writes(&calls);
    let last = writes.iter().rfind(|write| write.caller == "a").expect("a wrote the lease");
    let first = writes.iter().find(|write| write.caller == "b").expect("b wrote the lease");
    first.time - last.sent_at
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_when_the_lease_holder_dies() {
    let mut deployment = pair().await;
    deployment.wait_until("renewed", |this| !lease_writes(&this.cloud.calls()).is_empty()).await;
    deployment.kill_one("a").await;
    deployment.branches.push("orders", 2);
    deployment.wait_until("rolled out by b", |this| rolled_out(this, "b", 2)).await;
    let lease = Duration::from_secs(deployment.settings.reconcile.lease_seconds).as_secs_f64();
    let after = handed_over_after(&deployment);
    assert!(after >= lease, "b took a lease that had not expired: {after}");
    assert!(after <= lease + SECONDS_TO_NOTICE, "b waited too long: {after}");
    let calls = deployment.mutating_calls();
    assert_eq!(operations(&calls), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert!(calls.iter().all(|call| call.caller == "b"), "{calls:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_at_once_after_an_orderly_stop() {
    let mut deployment = pair().await;
    deployment.stop_one("a").await;
    deployment.branches.push("orders", 2);
    deployment.wait_until("rolled out by b", |this| rolled_out(this, "b", 2)).await;
    let after = handed_over_after(&deployment);
    assert!(after <= SECONDS_TO_NOTICE, "b waited {after} s");
    assert_eq!(
        operations(&deployment.mutating_calls()),
        ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_finishes_changes_before_a_standby_starts_any() {
    let mut deployment = pair().await;
    let slow = Rule::at(1, Fault::Delay(Duration::from_secs(5))).of("a").on(&["RegisterTaskDefinition"]);
    deployment.cloud.set_faults(slow);
    deployment.branches.push("orders", 2);
    // The registration is in flight and not applied yet.
    tokio::time::sleep(Duration::from_secs(2)).await;
    deployment.stop_one("a").await;
    deployment.wait_until("rolled out by b", |this| rolled_out(this, "b", 2)).await;
    let calls = deployment.mutating_calls();
    let registered = calls.iter().find(|call| call.caller == "a").expect("a started a change");
    assert_eq!((registered.operation.as_str(), registered.applied), ("RegisterTaskDefinition", true));
    let first = calls.iter().find(|call| call.caller == "b").expect("b continues");
    assert!(first.sent_at >= registered.time, "{first:?} while {registered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_lease_holder_waits_for_its_former_lease() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    deployment.wait_until("renewed", |this| !lease_writes(&this.cloud.calls()).is_empty()).await;
    deployment.kill().await;
    deployment.branches.push("orders", 2);
    deployment.start_as("b").await;
    deployment.wait_until("rolled out", |this| rolled_out(this, "b", 2)).await;
    let calls = deployment.cloud.calls();
    let writes = lease_writes(&calls);
    let former = writes.iter().rfind(|write| write.caller == "codeloc").expect("a lease");
    let first = calls.iter().find(|call| call.mutating && call.service != "s3").expect("a change");
    let lease = Duration::from_secs(deployment.settings.reconcile.lease_seconds).as_secs_f64();
    assert!(first.sent_at >= former.sent_at + lease, "{first:?} after {former:?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_serves_statuses_and_changes_nothing() {
    let deployment = pair().await;
    let status = deployment.status_of("b", "orders").unwrap();
    assert_eq!((status.sync, status.health), (Sync::Synced, Health::Healthy));
    assert_eq!(status.serving, deployment.status_of("a", "orders").unwrap().serving);
    let standby = status.conditions.iter().find(|dated| dated.condition.reason == Reason::Standby).unwrap();
    let message = &standby.condition.message;
    assert!(message.starts_with("standby: a/") && message.ends_with("holds the lease"), "{message}");

    // The standby observes the rollout of the lease holder.
    deployment.branches.push("orders", 2);
    deployment.wait_until("rolled out by a", |this| rolled_out(this, "a", 2)).await;
    deployment.wait_until("observed by b", |this| rolled_out(this, "b", 2)).await;
    deployment.idle().await;
    let calls = deployment.mutating_calls();
    assert_eq!(operations(&calls), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert!(calls.iter().all(|call| call.caller == "a"), "{calls:#?}");
    let calls = deployment.cloud.calls();
    assert!(lease_writes(&calls).iter().all(|write| write.caller == "a"));
}
