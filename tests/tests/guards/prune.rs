//! The prune guard: which removed configs delete their locations.

use codeloc_core::status::{Reason, Sync};
use codeloc_tests::{TestDeployment, config};

use super::{FOUR, assert_unchanged, owned, snapshot, wait_until_deleted, wait_until_held};

#[tokio::test(start_paused = true)]
async fn an_empty_folder_deletes_nothing_and_the_status_explains_it() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = snapshot(&deployment).await;
    let configs = std::mem::take(&mut deployment.configs);
    deployment.cloud.reset_calls();
    deployment.publish();
    wait_until_held(&deployment, &["billing", "orders"], Reason::PruneBlocked).await;
    assert_unchanged(&deployment, &before).await;
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.sync, Sync::OutOfSync);
    for part in ["codeloc found no config at all (locations in AWS: 2)", "prune.txt", "--allow-prune"] {
        assert!(status.message.contains(part), "{}", status.message);
    }

    // The configs are back, as after a failed mount: nothing changes.
    deployment.configs = configs;
    deployment.publish();
    deployment.wait_until_healthy(&["billing", "orders"]).await;
    assert_unchanged(&deployment, &before).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_folder_at_startup_deletes_nothing() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = snapshot(&deployment).await;
    deployment.kill().await;
    deployment.configs.clear();
    deployment.publish();
    deployment.cloud.reset_calls();
    deployment.start().await;
    wait_until_held(&deployment, &["billing", "orders"], Reason::PruneBlocked).await;
    assert_unchanged(&deployment, &before).await;
}

#[tokio::test(start_paused = true)]
async fn removing_half_of_all_configs_at_once_deletes_nothing() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.configs.remove("orders");
    deployment.remove("stock");
    wait_until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    assert_unchanged(&deployment, &before).await;
    let message = deployment.status("orders").unwrap().message;
    assert!(message.contains("2 of the 4 locations in AWS lost their configs at once"), "{message}");
    assert!(deployment.healthy("billing") && deployment.healthy("crm"));

    // With one config back, codeloc deletes the other location.
    deployment.commit("stock", config("stock"));
    deployment.wait_until_healthy(&["stock"]).await;
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "stock"]);
}

#[tokio::test(start_paused = true)]
async fn protected_leftovers_do_not_block_a_later_removal() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    for name in ["orders", "stock"] {
        deployment.commit(name, format!("{}deletion: {{protect: true}}\n", config(name)));
    }
    deployment.idle().await;
    deployment.configs.remove("orders");
    deployment.remove("stock");
    wait_until_held(&deployment, &["orders", "stock"], Reason::Protected).await;
    deployment.idle().await;
    deployment.remove("crm");
    wait_until_deleted(&deployment, &["crm"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "orders", "stock"]);
}

#[tokio::test(start_paused = true)]
async fn other_locations_reconcile_while_a_prune_is_blocked() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    deployment.configs.remove("orders");
    deployment.remove("stock");
    wait_until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    deployment.cloud.reset_calls();
    deployment.commit("crm", format!("{}resources: {{cpu: 512, memory: 2048}}\n", config("crm")));
    deployment.wait_until("called", |this| this.mutating_operations().len() == 2).await;
    deployment.wait_until_healthy(&["crm"]).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert_eq!(owned(&deployment).await, FOUR);
}

#[tokio::test(start_paused = true)]
async fn removing_one_of_two_configs_deletes_its_location() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.remove("orders");
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing"]);
    assert!(deployment.healthy("billing"));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_source_blocks_even_confirmed_deletions() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.fail_source(Some("the git host does not answer"));
    deployment.confirm(&["orders"]);
    deployment.remove("orders");
    wait_until_held(&deployment, &["orders"], Reason::PruneBlocked).await;
    assert_unchanged(&deployment, &before).await;
    let message = deployment.status("orders").unwrap().message;
    assert!(message.contains("the git host does not answer"), "{message}");

    deployment.fail_source(None);
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing"]);
}

#[tokio::test(start_paused = true)]
async fn prune_txt_deletes_the_confirmed_locations_only() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    for name in ["crm", "orders", "stock"] {
        deployment.configs.remove(name);
    }
    deployment.publish();
    wait_until_held(&deployment, &["crm", "orders", "stock"], Reason::PruneBlocked).await;
    deployment.confirm(&["orders"]);
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "stock"]);
    wait_until_held(&deployment, &["crm", "stock"], Reason::PruneBlocked).await;
    for name in ["billing", "crm", "stock"] {
        assert!(deployment.workspace().contains(&format!("\"{name}-service.dagster.internal\"")), "{name}");
    }
}

/// Four locations of which two lost their configs, and a daemon that sweeps once a day.
async fn blocked_without_sweeps() -> TestDeployment {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    deployment.kill().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    deployment.start().await;
    deployment.wait_until_healthy(&FOUR).await;
    deployment.configs.remove("orders");
    deployment.remove("stock");
    wait_until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    deployment
}

#[tokio::test(start_paused = true)]
async fn prune_txt_alone_takes_effect_without_a_sweep() {
    let mut deployment = blocked_without_sweeps().await;
    deployment.confirm(&["orders"]);
    // `stock` is then the only location without a config and a confirmation.
    wait_until_deleted(&deployment, &["orders", "stock"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_config_releases_the_others_without_a_sweep() {
    let mut deployment = blocked_without_sweeps().await;
    deployment.commit("stock", config("stock"));
    wait_until_deleted(&deployment, &["orders"]).await;
    assert!(deployment.healthy("stock"));
}

#[tokio::test(start_paused = true)]
async fn a_readable_source_releases_a_deletion_without_a_sweep() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.kill().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    deployment.start().await;
    deployment.wait_until_healthy(&["billing", "orders"]).await;
    deployment.fail_source(Some("the git host does not answer"));
    deployment.remove("orders");
    wait_until_held(&deployment, &["orders"], Reason::PruneBlocked).await;
    deployment.fail_source(None);
    wait_until_deleted(&deployment, &["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_location_with_a_config_is_kept() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.confirm(&["billing", "orders"]);
    assert_unchanged(&deployment, &before).await;
    assert!(deployment.healthy("billing") && deployment.healthy("orders"));
}

#[tokio::test(start_paused = true)]
async fn the_last_location_is_deleted_after_confirmation() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.remove("orders");
    wait_until_held(&deployment, &["orders"], Reason::PruneBlocked).await;
    assert_unchanged(&deployment, &before).await;
    deployment.confirm(&["orders"]);
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, Vec::<String>::new());
    assert!(deployment.workspace().contains("load_from: []"), "{}", deployment.workspace());
}

#[tokio::test(start_paused = true)]
async fn allow_prune_limits_the_number_of_deletions() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    let before = snapshot(&deployment).await;
    deployment.kill().await;
    deployment.settings.allow_prune = 1;
    deployment.configs.remove("orders");
    deployment.remove("stock");
    deployment.cloud.reset_calls();
    deployment.start().await;
    wait_until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    assert_unchanged(&deployment, &before).await;

    deployment.kill().await;
    deployment.settings.allow_prune = 2;
    deployment.start().await;
    deployment.wait_until_healthy(&["billing", "crm"]).await;
    wait_until_deleted(&deployment, &["orders", "stock"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm"]);
}
