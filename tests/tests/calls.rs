//! How many AWS calls things cost: exact, and the same on every machine.

use std::time::Duration;

use codeloc_core::status::Sync;
use codeloc_tests::{SWEPT, TestDeployment, config, names};
use localcloud::Quotas;
use localcloud::Rules;
use localcloud::calls::Call;
use localcloud::fault_injection::{Fault, Rule};

/// Locations made in virtual time, at rest, swept every five minutes.
async fn at_rest(number: usize) -> TestDeployment {
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

/// The controller's calls since the last reset, but for the lease's.
fn calls(deployment: &TestDeployment) -> Vec<Call> {
    deployment.cloud.calls().into_iter().filter(|call| call.service != "s3" && call.caller == "codeloc").collect()
}

fn operations(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.operation.as_str()).collect()
}

/// Four sweeps of a fleet at rest take at most so many calls each, and change nothing.
async fn sweeps_take(most: usize, locations: usize) {
    let deployment = at_rest(locations).await;
    for _ in 0..4 {
        deployment.cloud.reset_calls();
        tokio::time::sleep(Duration::from_secs(300)).await;
        let calls = calls(&deployment);
        assert!(calls.iter().all(|call| !call.mutating), "{:?}", operations(&calls));
        assert!((1..=most).contains(&calls.len()), "{}: {:?}", calls.len(), operations(&calls));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_of_a_hundred_locations_costs_39_calls_and_changes_nothing() {
    sweeps_take(39, 100).await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_of_a_thousand_locations_costs_200_calls_and_changes_nothing() {
    sweeps_take(200, 1000).await;
}

#[tokio::test(start_paused = true)]
async fn everything_that_is_read_in_turns_has_its_turn() {
    let deployment = at_rest(20).await;
    deployment.cloud.reset_calls();
    // Sixty tags and forty task definitions, nine of them in each sweep.
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
async fn a_commit_is_with_ecs_after_one_read_and_two_changes_and_its_runs_follow() {
    let deployment = at_rest(3).await;
    deployment.cloud.reset_calls();
    deployment.branches.push("location0001", 2);
    let updated = |this: &TestDeployment| calls(this).iter().any(|call| call.operation == "UpdateService");
    deployment.until("updated", updated).await;
    assert_eq!(operations(&calls(&deployment)), ["DescribeServices", "RegisterTaskDefinition", "UpdateService"]);
    deployment.until_healthy(&["location0001"]).await;
    let changes = deployment.mutating_calls();
    assert_eq!(operations(&changes), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
}

#[tokio::test(start_paused = true)]
async fn making_a_location_takes_twelve_changes_and_one_search_for_its_tasks_whatever_else_is_made() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    let names = names(30);
    deployment.commit_all(&names);
    deployment.start().await;
    deployment.until_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(deployment.mutating_calls().len(), 30 * 12);
    let calls = calls(&deployment);
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    assert_eq!(count(SWEPT), 1, "one sweep");
    let made = operations(&calls);
    let first = made.iter().position(|operation| *operation == "RegisterTaskDefinition");
    let last = made.iter().rposition(|operation| *operation == "CreateLogGroup");
    assert!(first < last, "the first are ended before the last are begun");
    assert_eq!(count("ListInstances"), 30);
    // The rest of the reads is glances at services on their way, ten a call: what one sweep reads beside, and no location by itself.
    let reads = calls.iter().filter(|call| !call.mutating).count();
    assert_eq!(reads - 30 - count("DescribeServices"), 10, "{:?}", operations(&calls));
    assert!(count("DescribeServices") <= 30, "{}", count("DescribeServices"));
}

#[tokio::test(start_paused = true)]
async fn a_first_sweep_that_fails_is_tried_again_after_a_pause_and_not_at_once() {
    let denied = "application-autoscaling:DescribeScalableTargets".to_owned();
    let mut deployment = TestDeployment::with(Rules { denied: [denied].into(), ..Rules::default() }).await;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let calls = calls(&deployment);
    let sweeps = calls.iter().filter(|call| call.operation == SWEPT).count();
    assert!((2..=13).contains(&sweeps), "{sweeps} in a minute");
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.clear());
    deployment.until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_aws_keeps_in_other_words_is_not_registered_for_ever_but_told() {
    let mut deployment = TestDeployment::with(Rules { fills_in: true, ..Rules::default() }).await;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let registered = |deployment: &TestDeployment| {
        calls(deployment).iter().filter(|call| call.operation == "RegisterTaskDefinition").count()
    };
    // The second one of each says that the first was no accident.
    assert_eq!(registered(&deployment), 4);
    let status = deployment.status("orders").expect("a status");
    assert_eq!(status.sync, Sync::OutOfSync);
    assert!(
        status.message.contains("differently from how codeloc registered it: foreign: ephemeralStorage"),
        "{}",
        status.message
    );
    // Another controller knows it from AWS alone.
    deployment.kill().await;
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(registered(&deployment), 4);
    // Once AWS keeps what it is given, a commit goes out.
    deployment.cloud.with_cloud(|cloud| cloud.rules.fills_in = false);
    deployment.branches.push("orders", 2);
    deployment.until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn old_task_definitions_are_taken_away_but_for_the_newest_and_what_runs() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    for commit in 2..12 {
        deployment.branches.push("orders", commit);
        let runs = |this: &TestDeployment| {
            let said = this.code_server.of_location("orders");
            this.healthy("orders") && said.len() == 1 && said[0].image.ends_with(&format!("{commit:064x}"))
        };
        deployment.until("rolled out", runs).await;
    }
    deployment.idle().await;
    let observed = deployment.observed().await;
    let numbers: Vec<i32> = observed["orders"].task_definitions.iter().map(|one| one.number).collect();
    assert_eq!(numbers, [11, 10, 9, 8, 7, 6]);
    // A way back to one that was kept is no registration.
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 7);
    deployment
        .until("rolled back", |this| {
            this.code_server.of_location("orders").iter().all(|said| said.image.ends_with(&format!("{:064x}", 7)))
        })
        .await;
    let calls = deployment.mutating_calls();
    assert!(!operations(&calls).contains(&"RegisterTaskDefinition"), "{:?}", operations(&calls));
}

#[tokio::test(start_paused = true)]
async fn a_task_definition_without_our_tag_is_never_taken_away() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let ecs = deployment.clients().ecs;
    let container = aws_sdk_ecs::types::ContainerDefinition::builder().name("code-server").image("theirs").build();
    let theirs = ecs.register_task_definition().family("codeloc-orders").container_definitions(container);
    let theirs = theirs.send().await.expect("a registration").task_definition.expect("a definition");
    for commit in 2..12 {
        deployment.branches.push("orders", commit);
        deployment.until("noticed", |this| !this.healthy("orders")).await;
        deployment.until_healthy(&["orders"]).await;
    }
    deployment.idle().await;
    let left = ecs.describe_task_definition().task_definition(theirs.task_definition_arn().expect("an ARN"));
    let left = left.send().await.expect("it is there").task_definition.expect("a definition");
    assert_eq!(left.status().map(aws_sdk_ecs::types::TaskDefinitionStatus::as_str), Some("ACTIVE"));
}

#[tokio::test(start_paused = true)]
async fn a_registration_whose_answer_was_lost_is_found_and_not_made_twice() {
    let mut deployment = TestDeployment::new().await;
    let lost = Rule::at(1, Fault::ResetAfter).of("codeloc").on(&["RegisterTaskDefinition"]);
    deployment.cloud.set_faults(lost);
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    let registered =
        deployment.mutating_calls().iter().filter(|call| call.operation == "RegisterTaskDefinition").count();
    assert_eq!(registered, 2);
    let observed = &deployment.observed().await["orders"];
    assert_eq!((observed.task_definitions.len(), observed.run_definitions.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn images_are_read_once_a_day_and_location_and_not_by_sweeps() {
    let deployment = at_rest(20).await;
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
    assert_eq!(read.len(), 20, "each of them once");
}
