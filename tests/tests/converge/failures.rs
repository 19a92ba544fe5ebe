//! Rollouts that fail, rollbacks, and load errors.

use std::time::Duration;

use codeloc::status::events::EventReason;
use codeloc_core::status::{ConditionKind, Health, Reason};
use codeloc_tests::{TestDeployment, commit_id, config};
use localcloud::driver::simulated::Script;
use localcloud::model::launch::TransientStop;

use super::revision;

#[tokio::test(start_paused = true)]
async fn code_that_fails_to_import_is_held_and_explained() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let good = revision(&deployment, "orders");
    let (workspace, image) = (deployment.workspace(), deployment.status("orders").unwrap().image.unwrap());
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 2);
    let mut script = Script::exits(1);
    script.log = vec!["dagster._core.errors.DagsterImportError: No module named 'pandas'".to_owned()];
    deployment.cloud.simulated().script(&broken, script);

    deployment.branches.push("orders", 2);
    deployment.wait_until("degraded", |this| this.status("orders").unwrap().health == Health::Degraded).await;
    deployment.idle().await;
    let status = deployment.status("orders").unwrap();
    let deployed = status.conditions.iter().find(|dated| dated.condition.kind == ConditionKind::Deployed).unwrap();
    assert_eq!(deployed.condition.reason, Reason::RolloutFailed);
    assert!(status.message.contains("No module named 'pandas'"), "{}", status.message);
    assert_eq!(status.serving.as_ref(), Some(&good));
    assert_eq!(deployment.workspace(), workspace);

    // codeloc does not retry the revision later or after a restart.
    let launched = deployment.cloud.simulated().launched();
    deployment.kill().await;
    deployment.start().await;
    deployment
        .wait_until("degraded", |this| this.status("orders").is_some_and(|status| status.health == Health::Degraded))
        .await;
    deployment.idle().await;
    assert_eq!(deployment.cloud.simulated().launched(), launched);
    assert!(deployment.status("orders").unwrap().message.contains("No module named 'pandas'"));

    deployment.branches.push("orders", 3);
    deployment.wait_until_healthy(&["orders"]).await;
    assert_ne!(revision(&deployment, "orders"), good);
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_rollout_says_that_nothing_serves() {
    let mut exits = Script::exits(1);
    exits.log = vec!["RuntimeError: cannot reach the warehouse".to_owned()];
    for (script, cause) in [(exits, "cannot reach the warehouse"), (Script::never_healthy(), "health checks")] {
        let mut deployment = TestDeployment::new().await;
        deployment.cloud.simulated().script_default(script);
        deployment.commit("orders", config("orders"));
        deployment.start().await;
        let degraded = |this: &TestDeployment| this.status("orders").is_some_and(|one| one.health == Health::Degraded);
        for _ in 0..2 {
            deployment.wait_until("degraded", degraded).await;
            deployment.idle().await;
            let status = deployment.status("orders").unwrap();
            assert_eq!((status.serving, status.running), (None, 0));
            let deployed = status.conditions.iter().find(|one| one.condition.kind == ConditionKind::Deployed).unwrap();
            assert_eq!(
                (deployed.condition.reason, &deployed.condition.message),
                (Reason::RolloutFailed, &status.message)
            );
            let message = status.message;
            assert!(message.contains(cause) && message.contains("no revision serves"), "{message}");
            assert!(!message.contains("still serves"), "{message}");
            deployment.kill().await;
            deployment.start().await;
        }
        deployment.cloud.simulated().script_default(Script::default());
        deployment.branches.push("orders", 2);
        deployment.wait_until_healthy(&["orders"]).await;
        assert_eq!(deployment.status("orders").unwrap().serving, deployment.status("orders").unwrap().revision);
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_the_load_error_of_the_webserver() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.webserver.fail("orders", Some("orders-service.dagster.internal cannot be resolved"));
    let reported = |this: &TestDeployment| this.status("orders").unwrap().message.contains("cannot be resolved");
    deployment.wait_until("reported", reported).await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(reported(&deployment), "{:?}", deployment.status("orders"));
        assert_eq!(deployment.not_converging(), None);
    }
    assert_eq!(deployment.status("orders").unwrap().health, Health::Degraded);
    deployment.webserver.fail("orders", None);
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_without_a_daemon_is_known_after_a_restart() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let image = deployment.status("orders").unwrap().image.unwrap();
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 2);
    deployment.cloud.simulated().script(&broken, Script::exits(1));
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 2);
    deployment.wait_until("updating", |this| this.mutating_operations().contains(&"UpdateService".to_owned())).await;
    deployment.kill().await;
    deployment.idle().await;
    deployment.idle().await;
    let launched = deployment.cloud.simulated().launched();
    deployment.start().await;
    deployment
        .wait_until("degraded", |this| this.status("orders").is_some_and(|status| status.health == Health::Degraded))
        .await;
    deployment.idle().await;
    assert_eq!(deployment.cloud.simulated().launched(), launched);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_knows_the_previous_commit() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let previous = |this: &TestDeployment| this.status("orders").and_then(|status| status.previous_commit);
    assert_eq!(previous(&deployment), None);
    deployment.branches.push("orders", 2);
    deployment.wait_until("on its second commit", |this| this.healthy("orders") && previous(this).is_some()).await;
    // Another size of the same commit does not change the previous commit.
    deployment.commit("orders", format!("{}resources: {{cpu: 256, memory: 1024}}\n", config("orders")));
    deployment.idle().await;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    assert_eq!(previous(&deployment), Some(commit_id(1)));

    let image = deployment.status("orders").unwrap().image.unwrap();
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 3);
    deployment.cloud.simulated().script(&broken, Script::exits(1));
    deployment.branches.push("orders", 3);
    deployment
        .wait_until("degraded", |this| this.status("orders").is_some_and(|status| status.health == Health::Degraded))
        .await;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until("status known", |this| this.status("orders").is_some()).await;
    assert_eq!(previous(&deployment), Some(commit_id(2)));
}

#[tokio::test(start_paused = true)]
async fn codeloc_retries_a_rollout_that_lost_its_log_group() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    let is_created =
        |this: &TestDeployment| this.mutating_calls().iter().any(|call| call.operation == "CreateLogGroup");
    deployment.wait_until("log group created", is_created).await;
    let logs = deployment.clients().logs;
    logs.delete_log_group().log_group_name("/codeloc/locations/orders").send().await.unwrap();
    let failed = |this: &TestDeployment| this.status("orders").is_some_and(|status| status.health == Health::Degraded);
    deployment.wait_until("the rollout fails", failed).await;
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn old_log_lines_do_not_hide_a_transient_failure() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let image = deployment.status("orders").unwrap().image.unwrap();
    let second = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 2);
    let logs = Script { log: vec!["Started Dagster code server".to_owned()], ..Script::default() };
    deployment.cloud.simulated().script(&second, logs.clone());
    for commit in [2, 1] {
        deployment.branches.push("orders", commit);
        deployment.wait_until_commit("orders", commit).await;
    }
    // The second revision has a log stream, and its tasks cannot start for a while.
    deployment.cloud.simulated().script(&second, Script::stops_for(TransientStop::NetworkInterface));
    deployment.branches.push("orders", 2);
    let explained = |this: &TestDeployment| {
        let message = this.status("orders").unwrap().message.to_lowercase();
        message.contains("timeout waiting for network interface")
    };
    deployment.wait_until("explained", explained).await;
    deployment.cloud.simulated().script(&second, logs);
    deployment.wait_until_commit("orders", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_location_that_never_loads_is_reloaded_less_and_less() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.webserver.fail("orders", Some("orders-service.dagster.internal cannot be resolved"));
    deployment.start().await;
    deployment.wait_until("reloaded", |this| this.webserver.reloads() == 1).await;
    let reported = |this: &TestDeployment| this.status("orders").unwrap().message.contains("cannot be resolved");
    deployment.wait_until("reported", reported).await;
    for _ in 0..60 * 60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(reported(&deployment), "{:?}", deployment.status("orders"));
        assert_eq!(deployment.not_converging(), None);
    }
    // After 15, 30, 60, 120 and 240 s, and then every 300 s.
    assert_eq!(deployment.webserver.reloads(), 1 + 5 + 10);
    deployment.webserver.fail("orders", None);
    deployment.wait_until_healthy(&["orders"]).await;
    assert_eq!(deployment.webserver.reloads(), 1 + 5 + 10 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_webserver_that_needs_a_moment_is_no_alarm() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.webserver.fail("orders", Some("orders-service.dagster.internal cannot be resolved"));
    deployment.start().await;
    deployment.wait_until("reloaded", |this| this.webserver.reloads() == 1).await;
    deployment.webserver.fail("orders", None);
    deployment.wait_until_healthy(&["orders"]).await;
    assert_eq!(deployment.webserver.reloads(), 2);
    assert_eq!(deployment.events_of(EventReason::NotConverging), 0);
}
