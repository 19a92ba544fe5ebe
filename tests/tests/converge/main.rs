//! Convergence in virtual time, as a user sees it.

mod addresses;
mod failures;
mod removal;
mod repairs;
mod runs;

use std::time::Duration;

use codeloc_core::ids::Revision;
use codeloc_core::status::Sync;
use codeloc_tests::policies::ALLOW_S3;
use codeloc_tests::{TestDeployment, config, location_name, normalized};
use localcloud::driver::simulated::Script;

fn revision(deployment: &TestDeployment, name: &str) -> Revision {
    deployment.status(name).and_then(|status| status.serving).expect("the location serves")
}

#[tokio::test(start_paused = true)]
async fn a_committed_config_becomes_a_published_location() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    assert!(deployment.workspace().contains("\"orders-service.dagster.internal\""), "{}", deployment.workspace());
    assert_eq!(
        deployment.mutating_operations(),
        [
            "CreateLogGroup",
            "PutRetentionPolicy",
            "CreateRepository",
            "CreateRole",
            "PutRolePolicy",
            "RegisterTaskDefinition",
            "CreateService",
            "CreateService",
            "RegisterTaskDefinition",
            "RegisterScalableTarget",
            "PutScalingPolicy",
            "PutScalingPolicy",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_changes_nothing() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    let before = (deployment.observed().await, deployment.workspace());
    deployment.kill().await;
    deployment.cloud.reset_calls();
    deployment.start().await;
    deployment.wait_until_healthy(&["orders", "billing"]).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
    assert_eq!((deployment.observed().await, deployment.workspace()), before);
}

#[tokio::test(start_paused = true)]
async fn a_memory_change_rolls_out_one_location_only() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    let (before, file) = (revision(&deployment, "orders"), deployment.workspace_file());
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    deployment.cloud.reset_calls();
    deployment.commit("orders", format!("{}resources: {{cpu: 256, memory: 1024}}\n", config("orders")));
    deployment
        .wait_until("rolled out", |this| {
            this.healthy("orders") && this.status("orders").unwrap().serving.as_ref() != Some(&before)
        })
        .await;
    // A commit makes two mutating calls, and one for its runs.
    assert_eq!(deployment.mutating_operations(), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.serving, status.revision);
}

#[tokio::test(start_paused = true)]
async fn a_removed_config_deletes_the_workspace_entry_first() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    deployment.cloud.reset_calls();
    deployment.remove("orders");
    deployment.wait_until("unpublished", |this| !this.workspace().contains("orders")).await;
    assert!(
        !deployment.mutating_operations().contains(&"DeleteService".to_owned()),
        "the workspace entry is deleted first"
    );
    deployment.wait_until("deleted", |this| this.status("orders").is_none()).await;
    let deletions: Vec<String> = deployment.mutating_operations();
    assert_eq!(
        deletions,
        [
            "DeregisterScalableTarget",
            "DeleteService",
            "DeleteService",
            "DeregisterTaskDefinition",
            "DeregisterTaskDefinition",
            "DeleteRolePolicy",
            "DeleteRole",
            "DeleteRepository",
            "DeleteLogGroup",
        ]
    );
    let (observed, orders) = (deployment.observed().await, location_name("orders"));
    assert!(!observed.get("orders").is_some_and(|observed| observed.any_owned(&orders, "codeloc")), "{observed:#?}");
    assert!(deployment.healthy("billing"));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_config_freezes_its_own_location_only() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    let before = (deployment.observed().await, deployment.workspace());
    deployment.cloud.reset_calls();
    deployment.commit("orders", "name: orders\n  git_url: [\n");
    deployment.wait_until("frozen", |this| this.status("orders").unwrap().sync == Sync::Unknown).await;
    deployment.branches.push("orders", 2);
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
    assert_eq!((deployment.observed().await, deployment.workspace()), before);
    assert!(deployment.healthy("billing"));
    assert!(deployment.status("orders").unwrap().message.contains("repos/orders/config.yml"));
}

#[tokio::test(start_paused = true)]
async fn a_first_converge_survives_a_kill_between_calls() {
    let undisturbed = {
        let deployment = TestDeployment::converged(&["orders"]).await;
        (normalized(&deployment.observed().await), deployment.workspace())
    };
    for calls in 1..=12 {
        let mut deployment = TestDeployment::new().await;
        deployment.commit("orders", config("orders"));
        deployment.start().await;
        deployment.wait_until("next call", |this| this.mutating_calls().len() >= calls || this.healthy("orders")).await;
        deployment.kill().await;
        deployment.start().await;
        deployment.wait_until_healthy(&["orders"]).await;
        let reached = (normalized(&deployment.observed().await), deployment.workspace());
        assert_eq!(reached, undisturbed, "killed after {calls} mutating calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_older_than_a_change_is_not_used() {
    let mut deployment = TestDeployment::new().await;
    // Continuous sweeps: some start before a change and end after it.
    deployment.settings.reconcile.resync_seconds = 0;
    for name in ["orders", "billing", "stock"] {
        deployment.commit(name, config(name));
    }
    deployment.start().await;
    deployment.wait_until_healthy(&["orders", "billing", "stock"]).await;
    let operations = deployment.mutating_operations();
    for (operation, times) in [
        ("CreateLogGroup", 1),
        ("CreateRole", 1),
        ("RegisterTaskDefinition", 2),
        ("RegisterScalableTarget", 1),
        ("PutRolePolicy", 1),
    ] {
        let count = operations.iter().filter(|one| *one == operation).count();
        assert_eq!(count, 3 * times, "{operation} {times} times for each location: {operations:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_rollout_reads_only_the_service() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.cloud.simulated().script_default(Script { boot: Duration::from_secs(600), ..Script::default() });
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 2);
    deployment.wait_until("rolling", |this| !this.healthy("orders")).await;
    deployment.wait_until_healthy(&["orders"]).await;
    let calls = deployment.cloud.calls();
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    assert!(count("DescribeServices") > 100, "one read every few seconds");
    // Full reads: at the commit, before and after each plan, and at the end.
    assert!(count("GetRole") <= 8, "{} full reads", count("GetRole"));
}

#[tokio::test(start_paused = true)]
async fn the_next_sweep_repairs_changes_by_hand() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let before = deployment.observed().await;
    let clients = deployment.clients();
    clients.logs.delete_retention_policy().log_group_name("/codeloc/locations/orders").send().await.unwrap();
    clients.iam.delete_role_policy().role_name("codeloc-orders").policy_name("codeloc").send().await.unwrap();
    let wider = clients.iam.put_role_policy().role_name("codeloc-orders").policy_name("by-hand");
    wider.policy_document(ALLOW_S3).send().await.unwrap();
    deployment.cloud.reset_calls();
    deployment
        .wait_until("repaired", |this| this.mutating_calls().iter().filter(|call| call.outcome == "OK").count() >= 3)
        .await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), ["PutRetentionPolicy", "PutRolePolicy", "DeleteRolePolicy"]);
    assert_eq!(deployment.observed().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_folder_with_an_invalid_name_changes_nothing() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    deployment.commit("my.pipeline", config("mypipeline"));
    let path = "my.pipeline/config.yml";
    deployment.wait_until("shown", |this| this.status(path).is_some_and(|status| status.sync == Sync::Unknown)).await;
    deployment.idle().await;
    assert!(deployment.status(path).unwrap().message.contains("my.pipeline"));
    deployment.remove("my.pipeline");
    deployment.wait_until("status deleted", |this| this.status(path).is_none()).await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
    assert!(deployment.healthy("orders"));
}

#[tokio::test(start_paused = true)]
async fn a_location_with_the_longest_names_serves() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.deployment = "d".repeat(20);
    let name = "r".repeat(40);
    deployment.commit(&name, config(&name));
    deployment.start().await;
    // The simulated webserver knows only the deployment `codeloc`.
    let serves = |this: &TestDeployment| {
        this.status(&name).is_some_and(|status| status.serving.is_some() && status.serving == status.revision)
    };
    deployment.wait_until("served", serves).await;
}
