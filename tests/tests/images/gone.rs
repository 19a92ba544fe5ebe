//! Images that are gone from ECR, and builds that fail: codeloc builds the image again.

use std::time::Duration;

use codeloc_core::status::{ConditionKind, Reason};
use codeloc_tests::{TestDeployment, config, location_name};
use localcloud::driver::simulated::Script;
use localcloud::fault_injection::{Fault, Rule};
use localcloud::model::images::Images;

const REPOSITORY: &str = "codeloc/orders";

fn delete_images(deployment: &TestDeployment) {
    for image in deployment.images.images(REPOSITORY) {
        deployment.images.delete_image(REPOSITORY, &image.digest).expect("it is deleted");
    }
}

async fn delete_repository(deployment: &TestDeployment) {
    let ecr = deployment.clients().ecr;
    ecr.delete_repository().repository_name(REPOSITORY).force(true).send().await.expect("it is deleted");
}

/// The number of tasks that stopped because ECR did not have their image.
fn pull_failures(deployment: &TestDeployment) -> usize {
    deployment.cloud.with_cloud(|cloud| {
        let reasons = cloud.ecs.tasks.values().filter_map(|task| task.stopped_reason.as_deref());
        reasons.filter(|reason| reason.starts_with("CannotPullContainerError")).count()
    })
}

/// The reason of the condition `ImageReady`.
fn image_reason(deployment: &TestDeployment) -> Option<Reason> {
    let status = deployment.status("orders")?;
    let ready = status.conditions.iter().find(|dated| dated.condition.kind == ConditionKind::ImageReady)?;
    Some(ready.condition.reason)
}

#[tokio::test(start_paused = true)]
async fn a_deleted_repository_gets_its_image_back() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    deployment.cloud.reset_calls();
    delete_repository(&deployment).await;
    deployment.wait_until_images_exist(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), ["DeleteRepository", "CreateRepository"], "no rollout");
    assert_eq!(deployment.builds.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_image_is_built_again() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    delete_images(&deployment);
    deployment.wait_until_images_exist(&["orders"]).await;
    assert_eq!(deployment.builds.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_repository_created_again_by_hand_gets_its_image() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    delete_repository(&deployment).await;
    let create = deployment.clients().ecr.create_repository().repository_name(REPOSITORY);
    create.send().await.expect("a repository");
    // codeloc does not own it without its tags.
    deployment.commit("orders", format!("{}adopt: true\n", config("orders")));
    deployment.wait_until_images_exist(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_waits_until_ecr_has_its_image() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    delete_images(&deployment);
    deployment.commit("orders", format!("{}resources: {{cpu: 512, memory: 1024}}\n", config("orders")));
    deployment.wait_until("noticed", |this| !this.healthy("orders")).await;
    deployment.wait_until_images_exist(&["orders"]).await;
    assert_eq!(pull_failures(&deployment), 0);
}

#[tokio::test(start_paused = true)]
async fn a_config_that_returns_at_once_gets_its_image() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    deployment.cloud.reset_calls();
    deployment.confirm(&["orders"]);
    deployment.remove("orders");
    let deleted = |this: &TestDeployment| this.mutating_operations().contains(&"DeleteRepository".to_owned());
    deployment.wait_until("its repository is deleted", deleted).await;
    deployment.commit("orders", config("orders"));
    deployment.wait_until_images_exist(&["orders", "billing"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_looks_up_a_few_images_in_turn() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 300;
    let names = codeloc_tests::names(20);
    deployment.commit_all(&names);
    deployment.start().await;
    deployment.wait_until_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    deployment.idle().await;
    deployment.builds.take_lookups();
    let mut all = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(300)).await;
        let lookups = deployment.builds.take_lookups();
        assert_eq!(lookups.len(), 9);
        all.extend(lookups);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 20, "each image had its turn");
}

#[tokio::test(start_paused = true)]
async fn a_location_recovers_when_its_build_succeeds_later() {
    let mut deployment = TestDeployment::new().await;
    deployment.builds.fail(Some("No solution found"));
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.wait_until("failed", |this| image_reason(this) == Some(Reason::BuildFailed)).await;
    deployment.builds.fail(None);
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_found_no_image_is_repeated() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    deployment.cloud.reset_calls();
    // The repository is deleted after codeloc has checked the image, and before ECS starts a task.
    deployment.cloud.set_faults(Rule::at(1, Fault::Delay(Duration::from_secs(5))).on(&["UpdateService"]));
    deployment.branches.push("orders", 2);
    let registered = |this: &TestDeployment| this.mutating_operations().contains(&"RegisterTaskDefinition".to_owned());
    deployment.wait_until("the new revision is registered", registered).await;
    delete_repository(&deployment).await;
    let failed = |this: &TestDeployment| pull_failures(this) > 0;
    deployment.wait_until("a task finds no image", failed).await;
    deployment.wait_until_commit("orders", 2).await;
    deployment.wait_until_images_exist(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_serving_image_returns_while_the_newest_commit_does_not_build() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.builds.fail_commit(2);
    deployment.branches.push("orders", 2);
    deployment.wait_until("failed", |this| image_reason(this) == Some(Reason::BuildFailed)).await;
    deployment.idle().await;
    delete_images(&deployment);
    deployment.cloud.reset_calls();
    deployment.wait_until("ECR has the image", |this| this.missing_images().is_empty()).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new(), "no rollout");
}

#[tokio::test(start_paused = true)]
async fn the_serving_image_returns_after_a_failed_rollout() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let registry = deployment.cloud.with_cloud(|cloud| cloud.rules.registry.clone());
    let broken = format!("{registry}/{REPOSITORY}@sha256:{:064x}", 2);
    deployment.cloud.simulated().script(&broken, Script::exits(1));
    deployment.branches.push("orders", 2);
    let fails = |this: &TestDeployment| {
        let conditions = this.status("orders").map(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|dated| dated.condition.reason == Reason::RolloutFailed)
    };
    deployment.wait_until("the new revision fails", fails).await;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until("seen again", fails).await;
    deployment.idle().await;
    delete_repository(&deployment).await;
    deployment.wait_until("ECR has the image", |this| this.missing_images().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_starts_with_an_image_that_was_gone() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    // Without sweeps, codeloc has not looked for the image when the service is gone.
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    deployment.kill().await;
    deployment.start().await;
    deployment.builds.fail_commit(2);
    deployment.branches.push("orders", 2);
    deployment.wait_until("failed", |this| image_reason(this) == Some(Reason::BuildFailed)).await;
    deployment.idle().await;
    delete_images(&deployment);
    let ecs = deployment.clients().ecs;
    let delete = ecs.delete_service().cluster("dagster").service("orders-service").force(true);
    delete.send().await.expect("it is deleted");
    let serves = |this: &TestDeployment| !this.code_server.servers_of("orders").is_empty();
    deployment.wait_until("it stopped", |this| !serves(this)).await;
    deployment.wait_until("it serves", serves).await;
    assert_eq!(deployment.missing_images(), Vec::<String>::new());
    assert_eq!(pull_failures(&deployment), 0, "the service waits for the image");
}

#[tokio::test(start_paused = true)]
async fn a_sync_repeats_a_failed_build_at_once() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.builds.fail(Some("No solution found"));
    deployment.branches.push("orders", 2);
    deployment.wait_until("failed", |this| image_reason(this) == Some(Reason::BuildFailed)).await;
    // Until now, the pause has grown to an hour.
    tokio::time::sleep(Duration::from_hours(6)).await;
    deployment.builds.fail(None);
    let asked = tokio::time::Instant::now();
    deployment.daemon().sync(&location_name("orders"));
    deployment.wait_until_commit("orders", 2).await;
    assert!(asked.elapsed() < Duration::from_mins(10), "{:?}", asked.elapsed());
}
