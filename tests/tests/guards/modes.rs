//! The modes detect and suspended, of one location and of the whole daemon.

use codeloc_core::status::{Health, Reason, Sync};
use codeloc_crds::Mode;
use codeloc_tests::{TestDeployment, commit_id, config};

use super::{FOUR, assert_unchanged, owned, snapshot, wait_until_deleted, wait_until_held};

/// Removes the retention of the log group by hand.
async fn remove_log_retention(deployment: &TestDeployment) {
    let logs = deployment.clients().logs;
    logs.delete_retention_policy().log_group_name("/codeloc/locations/orders").send().await.expect("a change by hand");
    deployment.cloud.reset_calls();
}

fn drifted(deployment: &TestDeployment) -> bool {
    let drift = deployment.status("orders").map(|status| status.drift).unwrap_or_default();
    drift.iter().any(|drift| drift.kind == "log group" && drift.observed.is_some() | drift.desired.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_location_in_detect_mode_reports_drift_without_changes() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let expected = snapshot(&deployment).await;
    deployment.commit("orders", format!("{}mode: detect\n", config("orders")));
    wait_until_held(&deployment, &["orders"], Reason::DetectOnly).await;
    remove_log_retention(&deployment).await;
    let before = snapshot(&deployment).await;
    deployment.wait_until("reported", drifted).await;
    assert_unchanged(&deployment, &before).await;
    let status = deployment.status("orders").unwrap();
    assert_eq!((status.sync, status.health), (Sync::OutOfSync, Health::Healthy));
    let drift: Vec<_> = status.drift.iter().map(|drift| (drift.kind.as_str(), drift.name.as_str())).collect();
    assert_eq!(drift, [("log group", "/codeloc/locations/orders")]);

    // codeloc does not roll out a commit.
    deployment.branches.push("orders", 2);
    deployment.idle().await;
    assert_unchanged(&deployment, &before).await;
    deployment.branches.push("orders", 1);

    deployment.commit("orders", config("orders"));
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), ["PutRetentionPolicy"]);
    assert_eq!(snapshot(&deployment).await, expected);
    assert!(deployment.status("orders").unwrap().drift.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_location_catches_up_after_it_is_resumed() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.commit("orders", format!("{}mode: suspended\n", config("orders")));
    wait_until_held(&deployment, &["orders"], Reason::Suspended).await;
    remove_log_retention(&deployment).await;
    let before = snapshot(&deployment).await;
    deployment.branches.push("orders", 2);
    assert_unchanged(&deployment, &before).await;
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.health, Health::Suspended);
    assert!(deployment.healthy("billing"));

    deployment.commit("orders", config("orders"));
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    let called = deployment.mutating_operations();
    assert_eq!(called, ["PutRetentionPolicy", "RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.commit, Some(commit_id(2)));
    assert_eq!(status.serving, status.revision);
}

/// A daemon in `mode` with drift, a new location and a removal. It changes nothing until its mode is enforce.
async fn daemon_changes_nothing_in(mode: Mode, reason: Reason) {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    deployment.kill().await;
    remove_log_retention(&deployment).await;
    let before = snapshot(&deployment).await;
    deployment.settings.mode = mode;
    deployment.remove("stock");
    // A config cannot override the mode of the daemon.
    deployment.commit("sales", format!("{}mode: enforce\n", config("sales")));
    deployment.start().await;
    wait_until_held(&deployment, &["orders", "billing", "crm", "sales", "stock"], reason).await;
    assert_unchanged(&deployment, &before).await;
    assert_eq!(drifted(&deployment), mode == Mode::Detect, "only mode detect reports drift");

    deployment.kill().await;
    deployment.settings.mode = Mode::Enforce;
    deployment.start().await;
    deployment.wait_until_healthy(&["orders", "billing", "crm", "sales"]).await;
    wait_until_deleted(&deployment, &["stock"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "orders", "sales"]);
    assert!(deployment.mutating_operations().contains(&"PutRetentionPolicy".to_owned()));
    let calls = deployment.mutating_calls().len();
    deployment.idle().await;
    assert_eq!(deployment.mutating_calls().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_in_detect_mode_changes_nothing() {
    daemon_changes_nothing_in(Mode::Detect, Reason::DetectOnly).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_daemon_changes_nothing() {
    daemon_changes_nothing_in(Mode::Suspended, Reason::Suspended).await;
}
