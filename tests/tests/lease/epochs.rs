//! A process that loses the lease and gets it back acts on nothing that it read before.

use codeloc_core::status::Reason;
use codeloc_tests::TestDeployment;
use localcloud::calls::Call;
use localcloud::fault_injection::{Fault, Faults, Rule};

use super::record::lease_writes;
use super::{LEASE, is_held_for, rolled_out};
use codeloc_tests::config;

fn made_by<'a>(calls: &'a [Call], caller: &str, operation: &str) -> Vec<&'a Call> {
    calls.iter().filter(|call| call.caller == caller && call.operation == operation).collect()
}

#[tokio::test(start_paused = true)]
async fn a_sweep_across_a_loss_of_the_lease_changes_nothing() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.lease_seconds = LEASE;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.commit("orders", config("orders"));
    deployment.start_as("a").await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.start_as("b").await;
    deployment.wait_until("standing by", |this| is_held_for(this.status_of("b", "orders"), Reason::Standby)).await;

    // The next sweep of a reads the task definitions, and then hangs at the services.
    let hangs = || Rule::always(Fault::Hang { applied: false }).of("a").on(&["ListServices"]);
    deployment.cloud.set_faults(hangs());
    deployment.cloud.reset_calls();
    let swept = |this: &TestDeployment| !made_by(&this.cloud.calls(), "a", "ListTaskDefinitions").is_empty();
    deployment.wait_until("a sweeps", swept).await;
    let unreadable = Rule::always(Fault::ServerError).of("a").on(&["PutObject", "GetObject"]);
    deployment.cloud.set_faults(Faults::none().and(hangs()).and(unreadable));
    let taken = |this: &TestDeployment| lease_writes(&this.cloud.calls()).iter().any(|write| write.caller == "b");
    deployment.wait_until("b took the lease", taken).await;
    deployment.branches.push("orders", 2);
    let deployed = |this: &TestDeployment| {
        let calls = this.cloud.calls();
        made_by(&calls, "b", "RegisterTaskDefinition").len() == 2 && !made_by(&calls, "b", "UpdateService").is_empty()
    };
    deployment.wait_until("b deployed", deployed).await;
    deployment.stop_one("b").await;
    assert_eq!(made_by(&deployment.cloud.calls(), "a", "ListServices").iter().filter(|call| call.applied).count(), 0);
    deployment.cloud.set_faults(Faults::none());

    deployment.wait_until("rolled out", |this| rolled_out(this, "a", 2)).await;
    deployment.idle().await;
    let calls = deployment.mutating_calls();
    assert!(calls.iter().all(|call| call.caller == "b"), "{calls:#?}");
}
