//! Exact numbers of AWS calls, the same on every machine.

use std::time::Duration;

use codeloc_core::status::Sync;
use codeloc_tests::{SWEEP_CALL, TestDeployment, config, names};
use localcloud::Quotas;
use localcloud::Rules;
use localcloud::calls::Call;
use localcloud::fault_injection::{Fault, Faults, Rule};

/// Healthy locations with a sweep every five minutes.
async fn healthy_locations(number: usize) -> TestDeployment {
    let mut deployment = TestDeployment::with(Rules { quotas: Quotas::lifted(), ..Rules::default() }).await;
    deployment.settings.reconcile.resync_seconds = 300;
    let names = names(number);
    deployment.commit_all(&names);
    deployment.start().await;
    while !names.iter().all(|name| deployment.healthy(name)) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(700)).await;
    deployment
}

/// The calls of the daemon since the last reset, except calls for the lease.
fn calls(deployment: &TestDeployment) -> Vec<Call> {
    deployment.cloud.calls().into_iter().filter(|call| call.service != "s3" && call.caller == "codeloc").collect()
}

fn operations(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.operation.as_str()).collect()
}

/// Four sweeps of healthy locations make at most `most` calls each, and change nothing.
async fn assert_sweeps_take(most: usize, locations: usize) {
    let deployment = healthy_locations(locations).await;
    for _ in 0..4 {
        deployment.cloud.reset_calls();
        tokio::time::sleep(Duration::from_secs(300)).await;
        let calls = calls(&deployment);
        assert!(calls.iter().all(|call| !call.mutating), "{:?}", operations(&calls));
        assert!((1..=most).contains(&calls.len()), "{}: {:?}", calls.len(), operations(&calls));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_of_100_locations_makes_at_most_39_calls() {
    assert_sweeps_take(39, 100).await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_of_1000_locations_makes_at_most_200_calls() {
    assert_sweeps_take(200, 1000).await;
}

#[tokio::test(start_paused = true)]
async fn resources_without_bulk_reads_are_all_read_in_turn() {
    let deployment = healthy_locations(20).await;
    deployment.cloud.reset_calls();
    // Sixty tags and forty task definitions, nine per sweep.
    tokio::time::sleep(Duration::from_secs(12 * 300)).await;
    let mut read: Vec<String> = calls(&deployment)
        .iter()
        .filter(|call| ["ListTagsForResource", "DescribeTaskDefinition"].contains(&call.operation.as_str()))
        .map(|call| format!("{} {}", call.service, call.resource.clone().unwrap_or_default()))
        .collect();
    read.sort();
    read.dedup();
    assert_eq!(read.len(), 100, "{read:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_makes_one_read_and_two_changes() {
    let deployment = healthy_locations(3).await;
    deployment.cloud.reset_calls();
    deployment.branches.push("location0001", 2);
    let updated = |this: &TestDeployment| calls(this).iter().any(|call| call.operation == "UpdateService");
    deployment.wait_until("updated", updated).await;
    assert_eq!(operations(&calls(&deployment)), ["DescribeServices", "RegisterTaskDefinition", "UpdateService"]);
    deployment.wait_until_healthy(&["location0001"]).await;
    let changes = deployment.mutating_calls();
    assert_eq!(operations(&changes), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
}

#[tokio::test(start_paused = true)]
async fn creating_a_location_makes_twelve_changes_and_one_instance_read() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    let names = names(30);
    deployment.commit_all(&names);
    deployment.start().await;
    deployment.wait_until_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(deployment.mutating_calls().len(), 30 * 12);
    let calls = calls(&deployment);
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    assert_eq!(count(SWEEP_CALL), 1, "one sweep");
    let called = operations(&calls);
    let first = called.iter().position(|operation| *operation == "RegisterTaskDefinition");
    let last = called.iter().rposition(|operation| *operation == "CreateLogGroup");
    assert!(first < last, "the first locations are registered before the last ones start");
    assert_eq!(count("ListInstances"), 30);
    // All other reads are the rest of one sweep, and refreshes of services that roll out, ten per call.
    let reads = calls.iter().filter(|call| !call.mutating).count();
    assert_eq!(reads - 30 - count("DescribeServices"), 10, "{:?}", operations(&calls));
    assert!(count("DescribeServices") <= 30, "{}", count("DescribeServices"));
}

#[tokio::test(start_paused = true)]
async fn codeloc_retries_a_failed_first_sweep_after_a_pause() {
    let denied = "application-autoscaling:DescribeScalableTargets".to_owned();
    let mut deployment = TestDeployment::with(Rules { denied: [denied].into(), ..Rules::default() }).await;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let calls = calls(&deployment);
    let sweeps = calls.iter().filter(|call| call.operation == SWEEP_CALL).count();
    assert!((2..=13).contains(&sweeps), "{sweeps} sweeps in a minute");
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.clear());
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_aws_stores_differently_is_not_registered_again() {
    let mut deployment = TestDeployment::with(Rules { fills_in: true, ..Rules::default() }).await;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let registered = |deployment: &TestDeployment| {
        calls(deployment).iter().filter(|call| call.operation == "RegisterTaskDefinition").count()
    };
    // The second registration of each confirms that the difference is not an accident.
    assert_eq!(registered(&deployment), 4);
    let status = deployment.status("orders").expect("a status");
    assert_eq!(status.sync, Sync::OutOfSync);
    assert!(
        status.message.contains("differently from how codeloc registered it: foreign: ephemeralStorage"),
        "{}",
        status.message
    );
    // A new daemon reads this from AWS.
    deployment.kill().await;
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(registered(&deployment), 4);
    // Without the difference, the next commit rolls out.
    deployment.cloud.with_cloud(|cloud| cloud.rules.fills_in = false);
    deployment.branches.push("orders", 2);
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn old_task_definitions_are_deregistered_except_the_newest() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    for commit in 2..12 {
        deployment.branches.push("orders", commit);
        let runs = |this: &TestDeployment| {
            let servers = this.code_server.servers_of("orders");
            this.healthy("orders") && servers.len() == 1 && servers[0].image.ends_with(&format!("{commit:064x}"))
        };
        deployment.wait_until("rolled out", runs).await;
    }
    deployment.idle().await;
    let observed = deployment.observed().await;
    let numbers: Vec<i32> = observed["orders"].task_definitions.iter().map(|one| one.number).collect();
    assert_eq!(numbers, [11, 10, 9, 8, 7, 6]);
    // A rollback to a definition that still exists registers none.
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 7);
    deployment
        .wait_until("rolled back", |this| {
            this.code_server.servers_of("orders").iter().all(|server| server.image.ends_with(&format!("{:064x}", 7)))
        })
        .await;
    let calls = deployment.mutating_calls();
    assert!(!operations(&calls).contains(&"RegisterTaskDefinition"), "{:?}", operations(&calls));
}

#[tokio::test(start_paused = true)]
async fn an_untagged_task_definition_is_never_deregistered() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let ecs = deployment.clients().ecs;
    let container = aws_sdk_ecs::types::ContainerDefinition::builder().name("code-server").image("theirs").build();
    let untagged = ecs.register_task_definition().family("codeloc-orders").container_definitions(container);
    let untagged = untagged.send().await.expect("a registration").task_definition.expect("a definition");
    for commit in 2..12 {
        deployment.branches.push("orders", commit);
        deployment.wait_until("noticed", |this| !this.healthy("orders")).await;
        deployment.wait_until_healthy(&["orders"]).await;
    }
    deployment.idle().await;
    let remaining = ecs.describe_task_definition().task_definition(untagged.task_definition_arn().expect("an ARN"));
    let remaining = remaining.send().await.expect("it is there").task_definition.expect("a definition");
    assert_eq!(remaining.status().map(aws_sdk_ecs::types::TaskDefinitionStatus::as_str), Some("ACTIVE"));
}

#[tokio::test(start_paused = true)]
async fn a_registration_with_a_lost_response_is_not_repeated() {
    let mut deployment = TestDeployment::new().await;
    let lost = Rule::at(1, Fault::ResetAfter).of("codeloc").on(&["RegisterTaskDefinition"]);
    deployment.cloud.set_faults(lost);
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    let registered =
        deployment.mutating_calls().iter().filter(|call| call.operation == "RegisterTaskDefinition").count();
    assert_eq!(registered, 2);
    let observed = &deployment.observed().await["orders"];
    assert_eq!((observed.task_definitions.len(), observed.run_definitions.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn images_of_each_location_are_listed_once_a_day() {
    let deployment = healthy_locations(20).await;
    deployment.cloud.reset_calls();
    tokio::time::sleep(Duration::from_hours(24)).await;
    let calls = calls(&deployment);
    let mut read: Vec<&str> = calls
        .iter()
        .filter(|call| call.operation == "DescribeImages")
        .map(|call| call.resource.as_deref().unwrap_or_default())
        .collect();
    assert_eq!(read.len(), 20, "{read:?}");
    read.sort_unstable();
    read.dedup();
    assert_eq!(read.len(), 20, "each repository once");
}

/// Nineteen healthy locations, and one whose role cannot be created, after the first attempt. No resync disturbs the count.
async fn one_that_cannot_be_created(fails: impl Fn(&TestDeployment)) -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    let names = names(19);
    deployment.commit_all(&names);
    deployment.start().await;
    deployment.wait_until_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    deployment.idle().await;
    fails(&deployment);
    deployment.cloud.reset_calls();
    deployment.commit("orders", config("orders"));
    let tried = |this: &TestDeployment| operations(&calls(this)).contains(&"CreateRole");
    deployment.wait_until("tried", tried).await;
    deployment.cloud.reset_calls();
    deployment
}

#[tokio::test(start_paused = true)]
async fn a_denied_creation_is_retried_alone_and_less_and_less() {
    let deny = |this: &TestDeployment| {
        this.cloud.with_cloud(|cloud| cloud.rules.denied.insert("iam:CreateRole".to_owned()));
    };
    let deployment = one_that_cannot_be_created(deny).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    // After 1, 2, 4, ... 256 s, and then every 300 s. AWS's refusal says that nothing changed, so no read follows.
    assert_eq!(operations(&calls(&deployment)), vec!["CreateRole"; 9 + 10]);
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.clear());
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_creation_without_answer_is_retried_without_a_sweep() {
    let fails = |this: &TestDeployment| this.cloud.set_faults(Rule::always(Fault::ServerError).on(&["CreateRole"]));
    let deployment = one_that_cannot_be_created(fails).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    let calls = calls(&deployment);
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    assert_eq!(count(SWEEP_CALL), 0, "{:?}", operations(&calls));
    // Each retry reads this location by itself.
    let retries = count("ListTaskDefinitionFamilies");
    assert!((15..=19).contains(&retries), "{retries}: {:?}", operations(&calls));
    deployment.cloud.set_faults(Faults::none());
    deployment.wait_until_healthy(&["orders"]).await;
}
