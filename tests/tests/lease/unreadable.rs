//! A lease that cannot be read or written.

use std::time::Duration;

use codeloc_core::status::Reason;
use codeloc_tests::{TestDeployment, config};
use localcloud::fault_injection::{Fault, Faults, Rule};

use super::record::{facts, lease_writes};
use super::{LEASE, is_held_for, operations, rolled_out};

#[tokio::test(start_paused = true)]
async fn an_unreadable_lease_stops_changes_but_not_serving() {
    for fault in [Fault::ServerError, Fault::Throttle, Fault::ResetBefore, Fault::Hang { applied: false }] {
        let deployment = TestDeployment::converged(&["orders"]).await;
        deployment.idle().await;
        let (before, workspace) = (deployment.status("orders").unwrap().serving, deployment.workspace());
        deployment.cloud.set_faults(Rule::always(fault).on(&["PutObject", "GetObject"]));
        deployment.wait_until("reported", |this| is_held_for(this.status("orders"), Reason::LeaseUnreadable)).await;
        deployment.cloud.reset_calls();
        deployment.branches.push("orders", 2);
        let end = tokio::time::Instant::now() + Duration::from_secs(10 * 60);
        while tokio::time::Instant::now() < end {
            assert!(deployment.serves("orders"), "{fault:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(operations(&deployment.mutating_calls()), Vec::<&str>::new(), "{fault:?}");
        assert_eq!(deployment.workspace(), workspace);
        let status = deployment.status("orders").unwrap();
        assert_eq!(status.serving, before);
        assert!(is_held_for(Some(status), Reason::LeaseUnreadable), "{fault:?}");

        deployment.cloud.set_faults(Faults::none());
        deployment.wait_until("rolled out", |this| rolled_out(this, "codeloc", 2)).await;
        assert_eq!(
            operations(&deployment.mutating_calls()),
            ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"],
            "{fault:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_never_reads_the_lease_changes_nothing() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["GetObject"]));
    deployment.start().await;
    deployment.wait_until("reported", |this| is_held_for(this.status("orders"), Reason::LeaseUnreadable)).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment.mutating_calls()), Vec::<&str>::new());
    deployment.cloud.set_faults(Faults::none());
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_time_out_while_the_lease_is_read() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.lease_seconds = LEASE;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.cloud.reset_calls();
    // After a write with a lost response, S3 refuses the next one; the holder reads the lease and gets no response.
    let lost = Rule::at(1, Fault::ResetAfter).on(&["PutObject"]);
    let hangs = Rule::always(Fault::Hang { applied: false }).on(&["GetObject"]);
    // The SDK and codeloc both retry this call.
    let fails = Rule::always(Fault::ServerError).on(&["UpdateService"]);
    deployment.cloud.set_faults(Faults::none().and(lost).and(hangs).and(fails));
    deployment.wait_until("renewed", |this| !lease_writes(&this.cloud.calls()).is_empty()).await;
    deployment.branches.push("orders", 2);
    deployment.wait_until("reported", |this| is_held_for(this.status("orders"), Reason::LeaseUnreadable)).await;
    let facts = facts(&deployment.cloud.calls(), LEASE).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(facts.changes >= 5, "{facts:?}");
}

#[tokio::test(start_paused = true)]
async fn queued_calls_are_not_sent_after_the_lease_is_lost() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.lease_seconds = LEASE;
    let names: Vec<String> = (0..12).map(|number| format!("location{number}")).collect();
    for name in &names {
        deployment.commit(name, config(name));
    }
    // Throttled calls wait in the queue, longer and longer.
    let throttled = Rule::always(Fault::Throttle).on(&["CreateLogGroup"]);
    deployment.cloud.set_faults(throttled.clone());
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    let hangs = Rule::always(Fault::Hang { applied: false }).on(&["PutObject", "GetObject"]);
    deployment.cloud.set_faults(Faults::none().and(throttled).and(hangs));
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    let calls = deployment.cloud.calls();
    let facts = facts(&calls, LEASE).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(facts.changes >= 10, "{facts:?}");

    deployment.cloud.set_faults(Faults::none());
    deployment.wait_until_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_holder_that_cannot_read_the_lease_continues() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["GetObject"]));
    deployment.idle().await;
    deployment.branches.push("orders", 2);
    deployment.wait_until("rolled out", |this| rolled_out(this, "codeloc", 2)).await;
    assert!(deployment.healthy("orders"));
}
