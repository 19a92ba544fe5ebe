//! `deletion: {protect: true}`: codeloc deletes nothing of the location, in any mode and after a restart.

use codeloc_core::status::Reason;
use codeloc_crds::Mode;
use codeloc_tests::{TestDeployment, config};

use super::{assert_unchanged, owned, snapshot, wait_until_deleted, wait_until_held};

#[tokio::test(start_paused = true)]
async fn a_protected_location_is_kept_until_its_config_allows_deletion() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("billing", config("billing"));
    deployment.commit("orders", format!("{}deletion: {{protect: true}}\n", config("orders")));
    deployment.start().await;
    deployment.wait_until_healthy(&["billing", "orders"]).await;
    deployment.idle().await;
    // The first revision keeps its protection tag after the second rollout.
    deployment.branches.push("orders", 2);
    deployment.wait_until("rolling out", |this| !this.healthy("orders")).await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.confirm(&["orders"]);
    deployment.remove("orders");
    wait_until_held(&deployment, &["orders"], Reason::Protected).await;
    assert_unchanged(&deployment, &before).await;
    let message = deployment.status("orders").unwrap().message;
    assert!(message.contains("deletion: {protect: false}"), "{message}");

    // After a restart, codeloc reads the protection from AWS.
    deployment.kill().await;
    deployment.start().await;
    wait_until_held(&deployment, &["orders"], Reason::Protected).await;
    assert_unchanged(&deployment, &before).await;

    deployment.commit("orders", format!("{}deletion: {{protect: false}}\n", config("orders")));
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    deployment.remove("orders");
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing"]);
}

/// Two locations; the config of `orders` has these additional lines.
async fn deployment_with_orders(more: &str) -> TestDeployment {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.commit("orders", format!("{}{more}", config("orders")));
    deployment.idle().await;
    deployment
}

#[tokio::test(start_paused = true)]
async fn protection_holds_in_every_mode_and_after_a_restart() {
    for mode in ["enforce", "detect", "suspended"] {
        let mut deployment = deployment_with_orders(&format!("mode: {mode}\ndeletion: {{protect: true}}\n")).await;
        let before = snapshot(&deployment).await;
        deployment.cloud.reset_calls();
        deployment.confirm(&["orders"]);
        deployment.remove("orders");
        wait_until_held(&deployment, &["orders"], Reason::Protected).await;
        assert_unchanged(&deployment, &before).await;
        deployment.kill().await;
        deployment.start().await;
        wait_until_held(&deployment, &["orders"], Reason::Protected).await;
        assert_unchanged(&deployment, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn protection_covers_a_config_removed_while_no_daemon_runs() {
    for mode in ["detect", "suspended"] {
        let mut deployment = deployment_with_orders(&format!("mode: {mode}\ndeletion: {{protect: true}}\n")).await;
        let before = snapshot(&deployment).await;
        deployment.kill().await;
        deployment.cloud.reset_calls();
        deployment.remove("orders");
        deployment.start().await;
        wait_until_held(&deployment, &["orders"], Reason::Protected).await;
        assert_unchanged(&deployment, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_remaining_resources_of_a_protected_location_are_kept() {
    let mut deployment = deployment_with_orders("deletion: {protect: true}\n").await;
    deployment.kill().await;
    let clients = deployment.clients();
    let service = clients.ecs.delete_service().cluster("dagster").service("orders-service").force(true);
    service.send().await.expect("a deletion by hand");
    let role = "codeloc-orders";
    clients.iam.delete_role_policy().role_name(role).policy_name("codeloc").send().await.expect("a deletion by hand");
    clients.iam.delete_role().role_name(role).send().await.expect("a deletion by hand");
    let logs = clients.logs.delete_log_group().log_group_name("/codeloc/locations/orders");
    logs.send().await.expect("a deletion by hand");
    deployment.idle().await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.remove("orders");
    deployment.start().await;
    wait_until_held(&deployment, &["orders"], Reason::Protected).await;
    assert_unchanged(&deployment, &before).await;
    assert!(deployment.observed().await["orders"].image_repository.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_in_detect_mode_writes_no_protection_tags() {
    for mode in [Mode::Detect, Mode::Suspended] {
        let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
        deployment.kill().await;
        deployment.settings.mode = mode;
        deployment.commit("orders", format!("{}mode: detect\ndeletion: {{protect: true}}\n", config("orders")));
        let before = snapshot(&deployment).await;
        deployment.cloud.reset_calls();
        deployment.start().await;
        assert_unchanged(&deployment, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_config_in_detect_or_suspended_mode_deletes_nothing() {
    for (mode, reason) in [("detect", Reason::DetectOnly), ("suspended", Reason::Suspended)] {
        let mut deployment = deployment_with_orders(&format!("mode: {mode}\n")).await;
        let workspace = deployment.workspace();
        deployment.cloud.reset_calls();
        deployment.confirm(&["orders"]);
        deployment.remove("orders");
        wait_until_held(&deployment, &["orders"], reason).await;
        deployment.idle().await;
        // codeloc only writes a tag, because a restart does not know the mode.
        let written = deployment.mutating_operations();
        assert!(written.iter().all(|operation| operation.starts_with("Tag")), "{written:?}");
        let message = deployment.status("orders").unwrap().message;
        assert!(message.contains(&format!("mode: {mode}")), "{message}");
        deployment.kill().await;
        deployment.start().await;
        wait_until_held(&deployment, &["orders"], Reason::Protected).await;
        deployment.idle().await;
        assert_eq!(deployment.mutating_operations(), written);
        assert!(deployment.serves("orders"));
        assert_eq!(deployment.workspace(), workspace);

        // With a config without the mode, codeloc deletes the location after its removal.
        deployment.commit("orders", config("orders"));
        deployment.wait_until_healthy(&["orders"]).await;
        deployment.idle().await;
        deployment.remove("orders");
        wait_until_deleted(&deployment, &["orders"]).await;
        deployment.idle().await;
        assert_eq!(owned(&deployment).await, ["billing"]);
    }
}
