//! Every field of the page of drift, changed by hand through the real SDK: told by kind and field, repaired by the next sweep with
//! the calls that the page names, and never at the cost of what serves.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

mod by_hand;

use std::collections::BTreeSet;
use std::time::Duration;

use codeloc_core::resources::tracked_fields::{Found, Repair, TrackedField};
use codeloc_core::resources::{Kind, ObservedResources};
use codeloc_core::status::Sync;
use codeloc_tests::{TestDeployment, config};

const NAME: &str = "orders";
/// A change may come just after a sweep has read it; then the next one begins after this time, and reads for a second or two.
const MARGIN: Duration = Duration::from_secs(5);
/// What the page promises of tags that have no bulk call.
const HOUR: Duration = Duration::from_secs(60 * 60);

const SECRETS: &str = "secrets: [{name: TOKEN, value_from: 'arn:aws:ssm:eu-central-1:123456789012:parameter/token'}]\n";

/// With a tag of its own, and with memory that goes with more CPU too. Some fields are only there without scaling.
fn text(kind: Kind, field: &str) -> String {
    let fixed = matches!((kind, field), (Kind::Service, "desired_count") | (Kind::Scaling, "foreign_target"));
    let most = if fixed { 1 } else { 3 };
    let secrets = if kind == Kind::ExecutionRole || field == "secrets" { SECRETS } else { "" };
    format!(
        "{}{secrets}tags: {{team: data}}\nresources: {{cpu: 256, memory: 1024}}\nscaling: {{min_capacity: 1, max_capacity: {most}}}\n",
        config(NAME)
    )
}

/// What is wanted of all that is live: without what comes and goes with each rollout.
#[derive(Debug, PartialEq)]
struct Shape {
    observed: ObservedResources,
    workspace: String,
    shown: Vec<String>,
}

async fn shape(deployment: &TestDeployment) -> Shape {
    let mut observed = deployment.observed().await.remove(NAME).unwrap();
    let runs = observed.runs().cloned();
    observed.task_definitions = runs.into_iter().map(Into::into).collect();
    for definition in &mut observed.task_definitions {
        definition.tags.remove(codeloc_core::tags::ATTEMPT);
    }
    // A launcher takes the newest one of a family; what is behind that counts for nothing.
    observed.run_definitions.truncate(1);
    for definition in &mut observed.run_definitions {
        (definition.number, definition.arn) = (0, String::new());
    }
    if let Some(service) = &mut observed.service {
        service.deployments.clear();
        service.running = service.desired_count;
    }
    if let Some(discovery) = &mut observed.discovery {
        discovery.instances = None;
    }
    let shown = deployment.webserver.shown();
    Shape { observed, workspace: deployment.workspace(), shown }
}

/// What a change of one field is told as, and the calls that put it right. Some changes by hand cannot be made alone.
fn expected(kind: Kind, tracked: &TrackedField) -> (BTreeSet<(String, Option<String>)>, Vec<&'static str>) {
    let told = |kind: Kind, field: Option<&str>| (kind.title().to_owned(), field.map(str::to_owned));
    let mut drift = BTreeSet::from([told(kind, Some(tracked.field))]);
    let calls: Vec<&str> = match (kind, tracked.field, tracked.repair) {
        (_, _, Repair::ReportOnly(_)) | (Kind::Workspace, ..) => vec![],
        (Kind::TaskDefinition, field, _) if field != "tags" => {
            drift.insert(told(Kind::Service, Some("task_definition")));
            vec!["TagResource", "UpdateService"]
        }
        (Kind::Service, "task_definition", _) => {
            drift.insert(told(Kind::TaskDefinition, Some("stop_timeout")));
            vec!["TagResource", "UpdateService"]
        }
        (Kind::Scaling, "metric", _) => {
            vec!["DeleteScalingPolicy", "DeleteScalingPolicy", "PutScalingPolicy", "PutScalingPolicy"]
        }
        // The policy whose metric it took.
        (Kind::Scaling, "foreign_policy", _) => {
            drift.insert(told(kind, None));
            vec!["DeleteScalingPolicy", "PutScalingPolicy"]
        }
        (Kind::Role | Kind::ExecutionRole, "permissions_boundary", _) => vec!["DeleteRolePermissionsBoundary"],
        (_, _, Repair::By(call)) => vec![call.split_once(':').unwrap().1],
    };
    (drift, calls)
}

fn told(deployment: &TestDeployment) -> BTreeSet<(String, Option<String>)> {
    let drift = deployment.status(NAME).unwrap().drift;
    drift.into_iter().map(|drift| (drift.kind, drift.field)).collect()
}

fn calls(deployment: &TestDeployment) -> Vec<String> {
    deployment.mutating_calls().into_iter().map(|call| call.operation).collect()
}

/// Until `done`, within what is promised; something serves all the time.
async fn within(deployment: &TestDeployment, promised: Duration, what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + promised + MARGIN;
    while !done() {
        assert!(!deployment.code_server.of_location(NAME).is_empty(), "{what}: nothing serves");
        assert!(
            tokio::time::Instant::now() <= deadline,
            "{what}: not within {promised:?}: {:#?}, {:?}",
            deployment.status(NAME),
            calls(deployment)
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One field changed by hand: first while codeloc may repair it, then while it may only tell.
async fn changed_by_hand(kind: Kind, tracked: &TrackedField) {
    let what = format!("{} {}", kind.title(), tracked.field);
    let secret = ("arn:aws:ssm:eu-central-1:123456789012:parameter/token".to_owned(), "value".to_owned());
    let mut deployment =
        TestDeployment::with(localcloud::Rules { secrets: [secret].into(), ..Default::default() }).await;
    deployment.commit(NAME, text(kind, tracked.field));
    deployment.start().await;
    deployment.until_healthy(&[NAME]).await;
    let sweep = Duration::from_secs(deployment.settings.reconcile.resync_seconds);
    let promised = match tracked.found {
        Found::NextSweep => sweep,
        Found::InTurns => HOUR,
    };
    let (drift, repairs) = expected(kind, tracked);
    let before = shape(&deployment).await;

    by_hand::change(&deployment, kind, tracked.field).await;
    let changed = shape(&deployment).await;
    assert_ne!(changed, before, "{what}: nothing was changed by hand");
    deployment.cloud.reset_calls();
    if let Repair::ReportOnly(_) = tracked.repair {
        within(&deployment, promised, &what, || told(&deployment) == drift).await;
        assert_eq!(deployment.status(NAME).unwrap().sync, Sync::OutOfSync, "{what}");
        tokio::time::sleep(sweep + MARGIN).await;
        assert_eq!(calls(&deployment), Vec::<String>::new(), "{what}");
        assert_eq!(shape(&deployment).await, changed, "{what}: nothing is deleted for it");
        return;
    }
    within(&deployment, promised, &what, || {
        let dagster = (deployment.workspace(), deployment.webserver.shown());
        calls(&deployment).len() >= repairs.len() && dagster == (before.workspace.clone(), before.shown.clone())
    })
    .await;
    deployment.until_healthy(&[NAME]).await;
    // A sweep more, which changes nothing.
    tokio::time::sleep(sweep + MARGIN).await;
    let mut made = calls(&deployment);
    made.sort();
    assert_eq!(made, repairs, "{what}");
    assert_eq!(shape(&deployment).await, before, "{what}");

    deployment.commit(NAME, format!("{}mode: detect\n", text(kind, tracked.field)));
    tokio::time::sleep(MARGIN).await;
    by_hand::change(&deployment, kind, tracked.field).await;
    let changed = shape(&deployment).await;
    deployment.cloud.reset_calls();
    within(&deployment, promised, &what, || told(&deployment) == drift).await;
    tokio::time::sleep(sweep + MARGIN).await;
    assert_eq!((told(&deployment), calls(&deployment)), (drift, vec![]), "{what}");
    assert_eq!(shape(&deployment).await, changed, "{what}: only told");
}

async fn every_field(kind: Kind, found: Found) {
    for tracked in kind.tracked_fields().iter().filter(|tracked| tracked.found == found) {
        Box::pin(changed_by_hand(kind, tracked)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_a_log_group_is_told_and_repaired() {
    every_field(Kind::LogGroup, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_an_image_repository_is_told_and_repaired() {
    every_field(Kind::ImageRepository, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_a_role_is_told_and_repaired() {
    every_field(Kind::Role, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_an_execution_role_is_told_and_repaired() {
    every_field(Kind::ExecutionRole, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_in_place_of_a_task_definition_is_told_and_replaced() {
    every_field(Kind::TaskDefinition, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_for_a_run_task_definition_is_told_and_replaced() {
    every_field(Kind::RunDefinition, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_a_cloud_map_service_is_told_and_repaired() {
    every_field(Kind::Discovery, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_a_service_is_told_and_repaired() {
    every_field(Kind::Service, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_scaling_is_told_and_repaired() {
    every_field(Kind::Scaling, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_of_a_workspace_entry_is_told_and_repaired() {
    every_field(Kind::Workspace, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn tags_that_no_bulk_call_carries_are_told_and_repaired_within_an_hour() {
    for kind in Kind::ALL {
        every_field(kind, Found::InTurns).await;
    }
}
