//! Folders and names that do not match: codeloc keeps the location until they do.

use codeloc_tests::{TestDeployment, config};

use super::{FOUR, assert_unchanged, message_contains, owned, snapshot, wait_until_deleted};

/// Renames the folder `orders` to `folder` with an invalid config that has the name `orders`.
async fn is_kept_after_rename_to(folder: &str, config: &str) {
    let mut deployment = TestDeployment::converged(&["billing", "crm", "orders"]).await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.configs.remove("orders");
    deployment.commit(folder, config);
    deployment.wait_until("kept", |this| message_contains(this, "orders", "unchanged: ")).await;
    assert_unchanged(&deployment, &before).await;
    let message = deployment.status("orders").expect("orders has a status").message;
    for part in [&format!("{folder}/config.yml has `name: orders`"), &format!("rename the folder {folder} to orders")] {
        assert!(message.contains(part.as_str()), "{message}");
    }
    assert!(deployment.healthy("billing") && deployment.healthy("crm"));

    // A restarted daemon keeps the location too.
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until("kept again", |this| message_contains(this, "orders", "unchanged: ")).await;
    assert_unchanged(&deployment, &before).await;

    // Without the config, codeloc deletes the location.
    deployment.remove(folder);
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm"]);
}

#[tokio::test(start_paused = true)]
async fn a_location_is_kept_while_a_config_elsewhere_names_it() {
    is_kept_after_rename_to("orders-eu", &config("orders")).await;
}

#[tokio::test(start_paused = true)]
async fn a_location_is_kept_while_its_folder_name_is_invalid() {
    is_kept_after_rename_to("Orders", &config("orders")).await;
}

#[tokio::test(start_paused = true)]
async fn a_location_is_kept_while_a_broken_config_names_it() {
    is_kept_after_rename_to("orders-eu", "name: orders\ngit_url: [\n<<<<<<< HEAD\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_rename_completes_when_folder_and_name_match() {
    let mut deployment = TestDeployment::converged(&["billing", "crm", "orders"]).await;
    let text = deployment.configs.remove("orders").unwrap();
    deployment.commit("orders-eu", text);
    deployment.wait_until("kept", |this| message_contains(this, "orders", "rename the folder")).await;
    deployment.commit("orders-eu", config("orders-eu"));
    wait_until_deleted(&deployment, &["orders"]).await;
    deployment.wait_until_healthy(&["orders-eu"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "orders-eu"]);
}

#[tokio::test(start_paused = true)]
async fn renaming_all_folders_at_once_deletes_nothing() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    let before = snapshot(&deployment).await;
    deployment.cloud.reset_calls();
    let configs = std::mem::take(&mut deployment.configs);
    deployment.configs = configs.into_iter().map(|(name, text)| (format!("{name}-eu"), text)).collect();
    deployment.publish();
    deployment
        .wait_until("kept", |this| FOUR.iter().all(|name| message_contains(this, name, "rename the folder")))
        .await;
    assert_unchanged(&deployment, &before).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_in_a_config_creates_no_status() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    deployment.commit("billing", config("ghost"));
    deployment.wait_until("refused", |this| message_contains(this, "billing", "does not match the folder")).await;
    deployment.idle().await;
    assert_eq!(deployment.status("ghost"), None);
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
}
