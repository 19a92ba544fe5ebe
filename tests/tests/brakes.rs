//! Brakes and modes as a user sees them: what is held is told and not touched, and how to go on is told with it.

use codeloc_core::status::{ConditionKind, Health, LocationStatus, Reason, Sync};
use codeloc_crds::Mode;
use codeloc_tests::{TestDeployment, config, shape};

const FOUR: [&str; 4] = ["billing", "crm", "orders", "stock"];

/// Why what differs is not repaired, if it is not.
fn enforced(status: &LocationStatus) -> Option<(Reason, &str)> {
    let conditions = status.conditions.iter().map(|dated| &dated.condition);
    let held = conditions.filter(|condition| condition.kind == ConditionKind::Enforced);
    held.map(|condition| (condition.reason, condition.message.as_str())).next()
}

fn held_for(deployment: &TestDeployment, name: &str, reason: Reason) -> bool {
    deployment.status(name).is_some_and(|status| enforced(&status).is_some_and(|(why, _)| why == reason))
}

async fn until_held(deployment: &TestDeployment, names: &[&str], reason: Reason) {
    let all = |this: &TestDeployment| names.iter().all(|name| held_for(this, name, reason));
    deployment.until(&format!("{names:?} held for {reason:?}"), all).await;
}

async fn until_gone(deployment: &TestDeployment, names: &[&str]) {
    deployment.until(&format!("{names:?} gone"), |this| names.iter().all(|name| this.status(name).is_none())).await;
}

fn operations(deployment: &TestDeployment) -> Vec<String> {
    deployment.mutating_calls().into_iter().map(|call| call.operation).collect()
}

/// Everything that a hold has to leave alone.
async fn picture(deployment: &TestDeployment) -> (String, String) {
    (shape(&deployment.observed().await), deployment.workspace())
}

/// The names of all locations of which anything is live and ours.
async fn owned(deployment: &TestDeployment) -> Vec<String> {
    let observed = deployment.observed().await;
    observed
        .iter()
        .filter(|(name, observed)| observed.any_owned(name, "codeloc"))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Time passes, sweeps included, and nothing is called that changes anything.
async fn assert_untouched(deployment: &TestDeployment, before: &(String, String)) {
    deployment.idle().await;
    assert_eq!(operations(deployment), Vec::<String>::new());
    assert_eq!(picture(deployment).await, *before);
}

#[tokio::test(start_paused = true)]
async fn an_empty_folder_deletes_nothing_and_the_status_says_how_to_go_on() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = picture(&deployment).await;
    let configs = std::mem::take(&mut deployment.configs);
    deployment.cloud.reset_calls();
    deployment.publish();
    until_held(&deployment, &["billing", "orders"], Reason::PruneBlocked).await;
    assert_untouched(&deployment, &before).await;
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.sync, Sync::OutOfSync);
    for words in ["no config is left, 2 location(s) are live", "prune.txt", "--allow-prune"] {
        assert!(status.message.contains(words), "{}", status.message);
    }

    // The folder was not mounted for a while: with the configs back there is nothing to do.
    deployment.configs = configs;
    deployment.publish();
    deployment.until_healthy(&["billing", "orders"]).await;
    assert_untouched(&deployment, &before).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_folder_at_the_start_deletes_nothing_either() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = picture(&deployment).await;
    deployment.kill().await;
    deployment.configs.clear();
    deployment.publish();
    deployment.cloud.reset_calls();
    deployment.start().await;
    until_held(&deployment, &["billing", "orders"], Reason::PruneBlocked).await;
    assert_untouched(&deployment, &before).await;
}

#[tokio::test(start_paused = true)]
async fn half_of_all_configs_gone_at_once_deletes_none_until_some_are_back() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.configs.remove("orders");
    deployment.remove("stock");
    until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    assert_untouched(&deployment, &before).await;
    let message = deployment.status("orders").unwrap().message;
    assert!(message.contains("2 of 4 live locations lost their configs at once"), "{message}");
    assert!(deployment.healthy("billing") && deployment.healthy("crm"));

    // One came back: the other one is an ordinary removal now.
    deployment.commit("stock", config("stock"));
    deployment.until_healthy(&["stock"]).await;
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "stock"]);
}

#[tokio::test(start_paused = true)]
async fn those_that_still_have_configs_are_worked_on_while_the_others_are_braked() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    deployment.configs.remove("orders");
    deployment.remove("stock");
    until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    deployment.cloud.reset_calls();
    deployment.commit("crm", format!("{}resources: {{cpu: 512, memory: 2048}}\n", config("crm")));
    deployment.until("called", |this| operations(this).len() == 2).await;
    deployment.until_healthy(&["crm"]).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert_eq!(owned(&deployment).await, FOUR);
}

#[tokio::test(start_paused = true)]
async fn removing_one_of_several_is_ordinary() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.remove("orders");
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing"]);
    assert!(deployment.healthy("billing"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_while_the_configs_cannot_be_read_not_even_what_is_confirmed() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.fail_source(Some("the git host does not answer"));
    deployment.confirm(&["orders"]);
    deployment.remove("orders");
    until_held(&deployment, &["orders"], Reason::PruneBlocked).await;
    assert_untouched(&deployment, &before).await;
    let message = deployment.status("orders").unwrap().message;
    assert!(message.contains("the git host does not answer"), "{message}");

    deployment.fail_source(None);
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing"]);
}

#[tokio::test(start_paused = true)]
async fn what_prune_txt_confirms_goes_and_nothing_else() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    for name in ["crm", "orders", "stock"] {
        deployment.configs.remove(name);
    }
    deployment.publish();
    until_held(&deployment, &["crm", "orders", "stock"], Reason::PruneBlocked).await;
    deployment.confirm(&["orders"]);
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "stock"]);
    until_held(&deployment, &["crm", "stock"], Reason::PruneBlocked).await;
    for name in ["billing", "crm", "stock"] {
        assert!(deployment.workspace().contains(&format!("\"{name}-service.dagster.internal\"")), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_name_that_has_a_config_stays() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.confirm(&["billing", "orders"]);
    assert_untouched(&deployment, &before).await;
    assert!(deployment.healthy("billing") && deployment.healthy("orders"));
}

#[tokio::test(start_paused = true)]
async fn the_last_location_goes_when_it_is_confirmed() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.remove("orders");
    until_held(&deployment, &["orders"], Reason::PruneBlocked).await;
    assert_untouched(&deployment, &before).await;
    deployment.confirm(&["orders"]);
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, Vec::<String>::new());
    assert!(deployment.workspace().contains("load_from: []"), "{}", deployment.workspace());
}

#[tokio::test(start_paused = true)]
async fn allow_prune_lets_so_many_go_and_no_more() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    let before = picture(&deployment).await;
    deployment.kill().await;
    deployment.settings.allow_prune = 1;
    deployment.configs.remove("orders");
    deployment.remove("stock");
    deployment.cloud.reset_calls();
    deployment.start().await;
    until_held(&deployment, &["orders", "stock"], Reason::PruneBlocked).await;
    assert_untouched(&deployment, &before).await;

    deployment.kill().await;
    deployment.settings.allow_prune = 2;
    deployment.start().await;
    deployment.until_healthy(&["billing", "crm"]).await;
    until_gone(&deployment, &["orders", "stock"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm"]);
}

#[tokio::test(start_paused = true)]
async fn a_protected_location_stays_until_its_config_comes_back_and_lets_it_go() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("billing", config("billing"));
    deployment.commit("orders", format!("{}deletion: {{protect: true}}\n", config("orders")));
    deployment.start().await;
    deployment.until_healthy(&["billing", "orders"]).await;
    deployment.idle().await;
    // A second revision: codeloc must revoke the tag on the first one too.
    deployment.branches.push("orders", 2);
    deployment.until("rolling", |this| !this.healthy("orders")).await;
    deployment.until_healthy(&["orders"]).await;
    deployment.idle().await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.confirm(&["orders"]);
    deployment.remove("orders");
    until_held(&deployment, &["orders"], Reason::Protected).await;
    assert_untouched(&deployment, &before).await;
    let message = deployment.status("orders").unwrap().message;
    assert!(message.contains("deletion: {protect: false}"), "{message}");

    // A restart knows it from AWS alone.
    deployment.kill().await;
    deployment.start().await;
    until_held(&deployment, &["orders"], Reason::Protected).await;
    assert_untouched(&deployment, &before).await;

    deployment.commit("orders", format!("{}deletion: {{protect: false}}\n", config("orders")));
    deployment.until_healthy(&["orders"]).await;
    deployment.idle().await;
    deployment.remove("orders");
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing"]);
}

/// Two locations, of which the config of orders says this too.
async fn with_orders(more: &str) -> TestDeployment {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.commit("orders", format!("{}{more}", config("orders")));
    deployment.idle().await;
    deployment
}

#[tokio::test(start_paused = true)]
async fn protection_holds_under_every_mode_and_after_a_restart() {
    for mode in ["enforce", "detect", "suspended"] {
        let mut deployment = with_orders(&format!("mode: {mode}\ndeletion: {{protect: true}}\n")).await;
        let before = picture(&deployment).await;
        deployment.cloud.reset_calls();
        deployment.confirm(&["orders"]);
        deployment.remove("orders");
        until_held(&deployment, &["orders"], Reason::Protected).await;
        assert_untouched(&deployment, &before).await;
        deployment.kill().await;
        deployment.start().await;
        until_held(&deployment, &["orders"], Reason::Protected).await;
        assert_untouched(&deployment, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn protection_is_known_where_the_config_goes_while_no_daemon_runs() {
    for mode in ["detect", "suspended"] {
        let mut deployment = with_orders(&format!("mode: {mode}\ndeletion: {{protect: true}}\n")).await;
        let before = picture(&deployment).await;
        deployment.kill().await;
        deployment.cloud.reset_calls();
        deployment.remove("orders");
        deployment.start().await;
        until_held(&deployment, &["orders"], Reason::Protected).await;
        assert_untouched(&deployment, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_left_of_a_protected_location_stays() {
    let mut deployment = with_orders("deletion: {protect: true}\n").await;
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
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.remove("orders");
    deployment.start().await;
    until_held(&deployment, &["orders"], Reason::Protected).await;
    assert_untouched(&deployment, &before).await;
    assert!(deployment.observed().await["orders"].image_repository.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_only_detects_writes_no_protection_either() {
    for mode in [Mode::Detect, Mode::Suspended] {
        let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
        deployment.kill().await;
        deployment.settings.mode = mode;
        deployment.commit("orders", format!("{}mode: detect\ndeletion: {{protect: true}}\n", config("orders")));
        let before = picture(&deployment).await;
        deployment.cloud.reset_calls();
        deployment.start().await;
        assert_untouched(&deployment, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_config_that_let_nothing_be_changed_lets_nothing_be_deleted() {
    for (mode, reason) in [("detect", Reason::DetectOnly), ("suspended", Reason::Suspended)] {
        let mut deployment = with_orders(&format!("mode: {mode}\n")).await;
        let workspace = deployment.workspace();
        deployment.cloud.reset_calls();
        deployment.confirm(&["orders"]);
        deployment.remove("orders");
        until_held(&deployment, &["orders"], reason).await;
        deployment.idle().await;
        // What is written is the tag alone: a restart no longer knows the mode.
        let written = operations(&deployment);
        assert!(written.iter().all(|operation| operation.starts_with("Tag")), "{written:?}");
        let message = deployment.status("orders").unwrap().message;
        assert!(message.contains(&format!("mode: {mode}")), "{message}");
        deployment.kill().await;
        deployment.start().await;
        until_held(&deployment, &["orders"], Reason::Protected).await;
        deployment.idle().await;
        assert_eq!(operations(&deployment), written);
        assert!(deployment.serves("orders"));
        assert_eq!(deployment.workspace(), workspace);

        // With its config back, and without the mode, it goes as any other does.
        deployment.commit("orders", config("orders"));
        deployment.until_healthy(&["orders"]).await;
        deployment.idle().await;
        deployment.remove("orders");
        until_gone(&deployment, &["orders"]).await;
        deployment.idle().await;
        assert_eq!(owned(&deployment).await, ["billing"]);
    }
}

/// What somebody changed by hand: the log group of orders is kept for ever.
async fn drift_away(deployment: &TestDeployment) {
    let logs = deployment.clients().logs;
    logs.delete_retention_policy().log_group_name("/codeloc/locations/orders").send().await.expect("a change by hand");
    deployment.cloud.reset_calls();
}

fn drifted(deployment: &TestDeployment) -> bool {
    let drift = deployment.status("orders").map(|status| status.drift).unwrap_or_default();
    drift.iter().any(|drift| drift.kind == "log group" && drift.observed.is_some() | drift.desired.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_repository_in_detect_mode_tells_its_drift_and_changes_nothing_until_it_may() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    let right = picture(&deployment).await;
    deployment.commit("orders", format!("{}mode: detect\n", config("orders")));
    until_held(&deployment, &["orders"], Reason::DetectOnly).await;
    drift_away(&deployment).await;
    let before = picture(&deployment).await;
    deployment.until("told", drifted).await;
    assert_untouched(&deployment, &before).await;
    let status = deployment.status("orders").unwrap();
    assert_eq!((status.sync, status.health), (Sync::OutOfSync, Health::Healthy));
    let told: Vec<_> = status.drift.iter().map(|drift| (drift.kind.as_str(), drift.name.as_str())).collect();
    assert_eq!(told, [("log group", "/codeloc/locations/orders")]);

    // A commit is told as well, and not rolled out.
    deployment.branches.push("orders", 2);
    deployment.idle().await;
    assert_untouched(&deployment, &before).await;
    deployment.branches.push("orders", 1);

    deployment.commit("orders", config("orders"));
    deployment.until_healthy(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), ["PutRetentionPolicy"]);
    assert_eq!(picture(&deployment).await, right);
    assert!(deployment.status("orders").unwrap().drift.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_repository_is_left_alone_and_catches_up_when_it_is_resumed() {
    let mut deployment = TestDeployment::converged(&["billing", "orders"]).await;
    deployment.commit("orders", format!("{}mode: suspended\n", config("orders")));
    until_held(&deployment, &["orders"], Reason::Suspended).await;
    drift_away(&deployment).await;
    let before = picture(&deployment).await;
    deployment.branches.push("orders", 2);
    assert_untouched(&deployment, &before).await;
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.health, Health::Suspended);
    assert!(deployment.healthy("billing"));

    deployment.commit("orders", config("orders"));
    deployment.until_healthy(&["orders"]).await;
    deployment.idle().await;
    let called = operations(&deployment);
    assert_eq!(called, ["PutRetentionPolicy", "RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.commit, Some(format!("{:040x}", 2)));
    assert_eq!(status.serving, status.revision);
}

/// The whole daemon in `mode`, with a drift, a new location and a removal before it: nothing is done.
async fn daemon_in(mode: Mode, reason: Reason) {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    deployment.kill().await;
    drift_away(&deployment).await;
    let before = picture(&deployment).await;
    deployment.settings.mode = mode;
    deployment.remove("stock");
    // A config may ask for less than the daemon does, not for more.
    deployment.commit("sales", format!("{}mode: enforce\n", config("sales")));
    deployment.start().await;
    until_held(&deployment, &["orders", "billing", "crm", "sales", "stock"], reason).await;
    assert_untouched(&deployment, &before).await;
    assert_eq!(drifted(&deployment), mode == Mode::Detect, "drift is told where it is looked for");

    deployment.kill().await;
    deployment.settings.mode = Mode::Enforce;
    deployment.start().await;
    deployment.until_healthy(&["orders", "billing", "crm", "sales"]).await;
    until_gone(&deployment, &["stock"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "orders", "sales"]);
    assert!(operations(&deployment).contains(&"PutRetentionPolicy".to_owned()));
    let calls = deployment.mutating_calls().len();
    deployment.idle().await;
    assert_eq!(deployment.mutating_calls().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_in_detect_mode_changes_nothing_at_all_and_converges_when_it_may() {
    daemon_in(Mode::Detect, Reason::DetectOnly).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_daemon_changes_nothing_at_all_and_converges_when_it_may() {
    daemon_in(Mode::Suspended, Reason::Suspended).await;
}

fn told(deployment: &TestDeployment, name: &str, words: &str) -> bool {
    deployment.status(name).is_some_and(|status| status.message.contains(words))
}

/// The folder `orders` becomes `folder` with this config, which does not pass and says that it is `orders`.
async fn renamed(folder: &str, config: &str) {
    let mut deployment = TestDeployment::converged(&["billing", "crm", "orders"]).await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    deployment.configs.remove("orders");
    deployment.commit(folder, config);
    deployment.until("kept", |this| told(this, "orders", "unchanged: ")).await;
    assert_untouched(&deployment, &before).await;
    let message = deployment.status("orders").expect("orders has a status").message;
    for words in [&format!("{folder}/config.yml says `name: orders`"), &format!("rename the folder {folder} to orders")]
    {
        assert!(message.contains(words.as_str()), "{message}");
    }
    assert!(deployment.healthy("billing") && deployment.healthy("crm"));

    // A daemon that starts now knows no other past.
    deployment.kill().await;
    deployment.start().await;
    deployment.until("kept again", |this| told(this, "orders", "unchanged: ")).await;
    assert_untouched(&deployment, &before).await;

    // Nothing says any more that it is meant to be there.
    deployment.remove(folder);
    until_gone(&deployment, &["orders"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm"]);
}

#[tokio::test(start_paused = true)]
async fn a_location_stays_while_a_config_in_another_folder_names_it() {
    renamed("orders-eu", &config("orders")).await;
}

#[tokio::test(start_paused = true)]
async fn a_location_stays_while_a_folder_without_a_valid_name_holds_its_config() {
    renamed("Orders", &config("orders")).await;
}

#[tokio::test(start_paused = true)]
async fn a_location_stays_while_a_torn_config_names_it() {
    renamed("orders-eu", "name: orders\ngit_url: [\n<<<<<<< HEAD\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_rename_goes_through_once_folder_and_name_agree() {
    let mut deployment = TestDeployment::converged(&["billing", "crm", "orders"]).await;
    let text = deployment.configs.remove("orders").unwrap();
    deployment.commit("orders-eu", text);
    deployment.until("kept", |this| told(this, "orders", "rename the folder")).await;
    deployment.commit("orders-eu", config("orders-eu"));
    until_gone(&deployment, &["orders"]).await;
    deployment.until_healthy(&["orders-eu"]).await;
    deployment.idle().await;
    assert_eq!(owned(&deployment).await, ["billing", "crm", "orders-eu"]);
}

#[tokio::test(start_paused = true)]
async fn all_folders_renamed_at_once_keep_all_locations() {
    let mut deployment = TestDeployment::converged(&FOUR).await;
    let before = picture(&deployment).await;
    deployment.cloud.reset_calls();
    let configs = std::mem::take(&mut deployment.configs);
    deployment.configs = configs.into_iter().map(|(name, text)| (format!("{name}-eu"), text)).collect();
    deployment.publish();
    deployment.until("kept", |this| FOUR.iter().all(|name| told(this, name, "rename the folder"))).await;
    assert_untouched(&deployment, &before).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_runs_nowhere_is_not_shown_because_a_config_says_it() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    deployment.commit("billing", config("ghost"));
    deployment.until("refused", |this| told(this, "billing", "differs from its folder")).await;
    deployment.idle().await;
    assert_eq!(deployment.status("ghost"), None);
    assert_eq!(operations(&deployment), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_config_that_reaches_for_anothers_prefix_stops_only_itself() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.commit("aaa", format!("{}s3_prefix: repos/orders\n", config("aaa")));
    deployment.until("refused", |this| told(this, "aaa", "belongs to the location `orders`")).await;
    deployment.branches.push("orders", 2);
    let second = Some(format!("{:040x}", 2));
    deployment
        .until("rolled out", |this| this.healthy("orders") && this.status("orders").unwrap().commit == second)
        .await;
    assert_eq!(owned(&deployment).await, ["orders"]);
}

#[tokio::test(start_paused = true)]
async fn a_free_folder_stays_with_the_location_that_runs_with_it() {
    let with_folder = |name: &str| format!("{}s3_prefix: teams/a\n", config(name));
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", with_folder("orders"));
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;

    // Neither an earlier name nor another start of the daemon takes it away.
    deployment.commit("aaa", with_folder("aaa"));
    deployment.until("refused", |this| told(this, "aaa", "overlaps `teams/a` of `orders`")).await;
    deployment.kill().await;
    deployment.start().await;
    deployment.until("refused again", |this| told(this, "aaa", "overlaps `teams/a` of `orders`")).await;
    deployment.branches.push("orders", 2);
    let second = Some(format!("{:040x}", 2));
    deployment
        .until("rolled out", |this| this.healthy("orders") && this.status("orders").unwrap().commit == second)
        .await;
    assert_eq!(owned(&deployment).await, ["orders"]);

    // Once it is given up, it is free.
    deployment.commit("orders", config("orders"));
    deployment.until_healthy(&["aaa", "orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn two_new_locations_that_take_the_same_folder_are_both_refused() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    for name in ["aaa", "bbb"] {
        deployment.commit(name, format!("{}s3_prefix: teams/a/{name}\n", config(name)));
    }
    deployment.until_healthy(&["aaa", "bbb"]).await;
    deployment.cloud.reset_calls();
    for name in ["ccc", "ddd"] {
        deployment.configs.insert(name.to_owned(), format!("{}s3_prefix: teams/b\n", config(name)));
    }
    deployment.publish();
    deployment.until("refused", |this| ["ccc", "ddd"].iter().all(|name| told(this, name, "overlaps `teams/b`"))).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn no_file_keeps_another_locations_change_from_being_made() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.commit("long", format!("{}: x\n{}", "k".repeat(70_000), config("long")));
    let keys: String = (0..4000).map(|number| format!("unknown{number}: x\n")).collect::<Vec<_>>().concat();
    deployment.commit("many", config("many") + &keys);
    deployment.commit("new", config("new"));
    deployment.until_healthy(&["new", "orders"]).await;
    assert!(told(&deployment, "many", "and 3999 more problems"));
    assert!(told(&deployment, "long", "repos/long/config.yml:1:"));
}
