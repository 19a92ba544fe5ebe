//! Runs keep what they need while they wait in Dagster's queue, while they run, and while their location changes.

use std::time::Duration;

use codeloc_core::status::Health;
use codeloc_tests::runs::NewRun;
use codeloc_tests::simulation::SECRETS;
use codeloc_tests::simulation::configs::secret;
use codeloc_tests::simulation::invariants::{cannot_run, cannot_start};
use codeloc_tests::{TestDeployment, config};
use localcloud::Rules;
use localcloud::driver::simulated::Script;

const MINUTE: Duration = Duration::from_secs(60);

/// A run of an hour, and one that starts in twenty minutes.
fn create_runs(deployment: &TestDeployment, name: &str) {
    for new in [NewRun::lasting(60 * MINUTE), NewRun::lasting(20 * MINUTE).queued(20 * MINUTE)] {
        deployment.runs.create(name, new).expect("it serves");
    }
}

/// Lets the runs end, and asserts that none lost anything.
async fn assert_runs_end(deployment: &TestDeployment, name: &str) {
    deployment.runs.pass(62 * MINUTE).await;
    assert!(!deployment.runs.are_unfinished(name));
}

async fn deployment_with_secrets() -> TestDeployment {
    let secrets = SECRETS.map(|arn| (arn.to_owned(), "value".to_owned())).into();
    let mut deployment = TestDeployment::with(Rules { secrets, ..Rules::default() }).await;
    deployment.commit("orders", format!("{}{}", config("orders"), secret(SECRETS[0])));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment
}

#[tokio::test(start_paused = true)]
async fn runs_keep_what_they_need_during_rollouts() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    create_runs(&deployment, "orders");
    deployment.runs.create("orders", NewRun { retries: 3, ..NewRun::lasting(10 * MINUTE) }).unwrap();
    for commit in 2..=9 {
        deployment.branches.push("orders", commit);
        deployment.wait_until_commit("orders", commit).await;
        deployment.runs.pass(5 * MINUTE).await;
    }
    deployment.kill().await;
    deployment.start().await;
    assert_runs_end(&deployment, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_location_keeps_what_its_runs_need() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    create_runs(&deployment, "orders");
    deployment.remove("orders");
    assert_runs_end(&deployment, "orders").await;
    deployment.wait_until("deleted", |this| this.status("orders").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_location_keeps_what_its_runs_need() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    create_runs(&deployment, "orders");
    deployment.configs.remove("orders");
    deployment.commit("orders-eu", config("orders-eu"));
    assert_runs_end(&deployment, "orders").await;
    deployment.wait_until_healthy(&["orders-eu"]).await;
    deployment.wait_until("deleted", |this| this.status("orders").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_queued_run_keeps_the_secret_of_its_definition() {
    let mut deployment = deployment_with_secrets().await;
    create_runs(&deployment, "orders");
    let before = deployment.status("orders").unwrap().serving;
    deployment.commit("orders", format!("{}{}", config("orders"), secret(SECRETS[1])));
    let serves = |this: &TestDeployment| this.healthy("orders") && this.status("orders").unwrap().serving != before;
    deployment.wait_until("the other secret", serves).await;
    assert_runs_end(&deployment, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn a_run_keeps_the_prefix_that_it_writes_to() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    create_runs(&deployment, "orders");
    deployment.commit("orders", format!("{}s3_prefix: teams/orders\n", config("orders")));
    assert_runs_end(&deployment, "orders").await;
    deployment.wait_until_healthy(&["orders"]).await;
}

/// Commits another secret and another prefix with commit 2 of the branch, which fails.
async fn assert_the_serving_revision_works_on(deployment: &mut TestDeployment) {
    deployment.branches.push("orders", 2);
    let changed = format!("{}{}s3_prefix: teams/orders\n", config("orders"), secret(SECRETS[1]));
    deployment.commit("orders", changed);
    let failed = |this: &TestDeployment| this.status("orders").is_some_and(|one| one.health == Health::Degraded);
    deployment.wait_until("failed", failed).await;
    deployment.idle().await;
    let lacks = deployment.cloud.with_cloud(|cloud| [cannot_start(cloud, "orders", true), cannot_run(cloud, "orders")]);
    assert_eq!(lacks, [None, None]);
    create_runs(deployment, "orders");
    assert_runs_end(deployment, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn the_serving_revision_works_while_the_next_does_not_build() {
    let mut deployment = deployment_with_secrets().await;
    deployment.builds.fail_commit(2);
    assert_the_serving_revision_works_on(&mut deployment).await;
}

#[tokio::test(start_paused = true)]
async fn the_serving_revision_works_while_the_next_is_held() {
    let mut deployment = deployment_with_secrets().await;
    let image = deployment.status("orders").unwrap().image.unwrap();
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 2);
    deployment.cloud.simulated().script(&broken, Script::exits(1));
    assert_the_serving_revision_works_on(&mut deployment).await;
}
