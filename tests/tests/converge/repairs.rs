//! Repairs that need no new image: codeloc makes them whatever revision serves.

use codeloc_core::status::Health;
use codeloc_tests::simulation::configs::many_tags;
use codeloc_tests::simulation::invariants::unrepaired;
use codeloc_tests::simulation::{ManualChange, change};
use codeloc_tests::{TestDeployment, commit_id, config};
use localcloud::driver::simulated::Script;
use localcloud::model::ecs::rollout::RolloutState;
use localcloud::model::launch::TransientStop;

/// The default scaling of a config.
const BOUNDS: (i64, i64) = (1, 2);

/// Changes of the service, and of what belongs to it, that a person makes in AWS.
const CHANGES: [ManualChange; 8] = [
    ManualChange::OtherSubnets,
    ManualChange::NoCircuitBreaker,
    ManualChange::DeleteScaling,
    ManualChange::OtherCapacity,
    ManualChange::DeletePolicy,
    ManualChange::DeleteRegistry,
    ManualChange::DeleteLogGroup,
    ManualChange::DeleteRolePolicy,
];

fn differs(deployment: &TestDeployment) -> Option<String> {
    deployment.cloud.with_cloud(|cloud| unrepaired(cloud, "orders", BOUNDS))
}

/// Makes each change, and asserts that codeloc repairs it and that the location serves.
async fn assert_repaired(deployment: &TestDeployment) {
    assert_eq!(differs(deployment), None);
    for manual in CHANGES {
        change(deployment, "orders", manual).await;
        assert!(differs(deployment).is_some(), "{manual:?} changed nothing");
        deployment.idle().await;
        assert_eq!(differs(deployment), None, "after {manual:?}: {:?}", deployment.status("orders"));
        deployment.wait_until("serves", |this| this.serves("orders")).await;
    }
}

fn break_commit(deployment: &TestDeployment, number: u32, script: Script) {
    let image = deployment.status("orders").and_then(|status| status.image).expect("it has an image");
    let (repository, _) = image.split_once('@').expect("it has a digest");
    deployment.cloud.simulated().script(&format!("{repository}@sha256:{number:064x}"), script);
}

async fn wait_until_degraded(deployment: &TestDeployment) {
    let degraded = |this: &TestDeployment| this.status("orders").is_some_and(|one| one.health == Health::Degraded);
    deployment.wait_until("degraded", degraded).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_is_repaired_while_its_newest_commit_serves() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    assert_repaired(&deployment).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_is_repaired_while_a_revision_is_held() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    break_commit(&deployment, 2, Script::exits(1));
    deployment.branches.push("orders", 2);
    wait_until_degraded(&deployment).await;
    deployment.idle().await;
    assert_repaired(&deployment).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_is_repaired_while_its_commit_does_not_build() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.builds.fail_commit(2);
    deployment.branches.push("orders", 2);
    wait_until_degraded(&deployment).await;
    assert_repaired(&deployment).await;
}

#[tokio::test(start_paused = true)]
async fn the_service_is_repaired_while_git_does_not_answer() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.kill().await;
    deployment.branches.set_unreachable(true);
    deployment.start().await;
    deployment.idle().await;
    assert_repaired(&deployment).await;
}

#[tokio::test(start_paused = true)]
async fn corrected_subnets_reach_a_service_that_never_started() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.aws.subnets = vec!["subnet-wrong".to_owned()];
    let wrong = Script::stops_for(TransientStop::NetworkInterface);
    deployment.cloud.simulated().script_default(wrong);
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    let failed = |this: &TestDeployment| {
        this.cloud.with_cloud(|cloud| {
            let service = cloud.ecs.service_mut("dagster", "orders-service");
            let primary = service.as_ref().and_then(|service| service.rollout.primary());
            primary.is_some_and(|primary| primary.state == RolloutState::Failed)
        })
    };
    deployment.wait_until("failed", failed).await;
    deployment.kill().await;
    deployment.settings.aws.subnets = vec!["subnet-a".to_owned()];
    deployment.start().await;
    deployment.wait_until("corrected", |this| differs(this).is_none()).await;
    deployment.cloud.simulated().script_default(Script::default());
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_count_set_to_zero_by_hand_comes_back() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    change(&deployment, "orders", ManualChange::SetCountToZero).await;
    deployment.wait_until("stopped", |this| !this.serves("orders")).await;
    deployment.wait_until("serves again", |this| this.serves("orders")).await;
    deployment.wait_until_healthy(&["orders"]).await;
    assert_eq!(differs(&deployment), None);
}

#[tokio::test(start_paused = true)]
async fn a_transient_stop_after_log_lines_is_retried() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let stops = Script::stops_for(TransientStop::ServiceDiscovery).logging(&["Started Dagster code server"]);
    break_commit(&deployment, 2, stops);
    deployment.branches.push("orders", 2);
    wait_until_degraded(&deployment).await;
    break_commit(&deployment, 2, Script::default());
    deployment.wait_until_commit("orders", 2).await;
}

#[tokio::test(start_paused = true)]
async fn renamed_tags_stay_below_the_limit_of_aws() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", format!("{}{}", config("orders"), many_tags("before")));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.commit("orders", format!("{}{}", config("orders"), many_tags("after")));
    deployment.branches.push("orders", 2);
    deployment.wait_until_commit("orders", 2).await;
    let tags = deployment.cloud.with_cloud(|cloud| cloud.logs.groups["/codeloc/locations/orders"].tags.clone());
    assert!(tags.contains_key("after-0") && !tags.contains_key("before-0"), "{tags:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rollback_by_hand_while_no_daemon_ran_is_repaired() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.branches.push("orders", 2);
    deployment.wait_until_commit("orders", 2).await;
    deployment.kill().await;
    change(&deployment, "orders", ManualChange::RollBack).await;
    deployment.idle().await;
    deployment.start().await;
    deployment.wait_until_commit("orders", 2).await;
    assert_eq!(deployment.status("orders").unwrap().commit, Some(commit_id(2)));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_by_hand_is_repaired() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.branches.push("orders", 2);
    deployment.wait_until_commit("orders", 2).await;
    let before = deployment.status("orders").unwrap().serving;
    change(&deployment, "orders", ManualChange::RollBack).await;
    let at_first = |this: &TestDeployment| this.status("orders").unwrap().serving != before;
    deployment.wait_until("rolled back", at_first).await;
    deployment.wait_until_commit("orders", 2).await;
    assert_eq!(deployment.status("orders").unwrap().serving, before);
}
