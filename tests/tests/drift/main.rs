//! Each tracked field of docs/drift.md, changed by hand through the real SDK. codeloc reports kind and field, repairs it in time
//! with the documented calls, and the location serves throughout.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod manual_change;
mod tags;

use std::collections::BTreeSet;
use std::time::Duration;

use codeloc_core::resources::tracked_fields::{Found, Repair, TrackedField};
use codeloc_core::resources::{Kind, ObservedResources};
use codeloc_core::status::Sync;
use codeloc_tests::{TestDeployment, config};

const NAME: &str = "orders";
/// The duration of a sweep: a change can come just after one has read the field.
const MARGIN: Duration = Duration::from_secs(5);
/// The documented time limit for tags without a bulk read.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The launch type of a service, which has its own test.
const CAPACITY: &str = "capacity";

const SECRETS: &str = "secrets: [{name: TOKEN, value_from: 'arn:aws:ssm:eu-central-1:123456789012:parameter/token'}]\n";

/// A config with every tracked field. Its memory is valid with 512 CPU units too. Some fields exist only without scaling.
fn text(kind: Kind, field: &str) -> String {
    let fixed = matches!((kind, field), (Kind::Service, "desired_count") | (Kind::Scaling, "foreign_target"));
    let most = if fixed { 1 } else { 3 };
    let secrets = if kind == Kind::ExecutionRole || field == "secrets" { SECRETS } else { "" };
    format!(
        "{}{secrets}tags: {{team: data}}\nresources: {{cpu: 256, memory: 1024}}\nscaling: {{min_capacity: 1, max_capacity: {most}}}\n",
        config(NAME)
    )
}

/// The observed state without the parts that change with each rollout.
#[derive(Debug, PartialEq)]
struct State {
    observed: ObservedResources,
    workspace: String,
    shown: Vec<String>,
}

async fn state(deployment: &TestDeployment) -> State {
    let mut observed = deployment.observed().await.remove(NAME).unwrap();
    let runs = observed.runs().cloned();
    observed.task_definitions = runs.into_iter().map(Into::into).collect();
    for definition in &mut observed.task_definitions {
        definition.tags.remove(codeloc_core::tags::ATTEMPT);
    }
    // Runs use only the newest definition of a family.
    observed.run_definitions.truncate(1);
    for definition in &mut observed.run_definitions {
        (definition.number, definition.arn) = (0, "".into());
    }
    if let Some(service) = &mut observed.service {
        service.deployments.clear();
        service.running = service.desired_count;
    }
    if let Some(discovery) = &mut observed.discovery {
        discovery.instances = None;
    }
    let shown = deployment.webserver.shown();
    State { observed, workspace: deployment.workspace(), shown }
}

/// The drift that codeloc reports for a change, and the calls that repair it. Some changes affect two fields.
fn expected(kind: Kind, tracked: &TrackedField) -> (BTreeSet<(String, Option<String>)>, Vec<&'static str>) {
    let reported = |kind: Kind, field: Option<&str>| (kind.title().to_owned(), field.map(str::to_owned));
    let mut drift = BTreeSet::from([reported(kind, Some(tracked.field))]);
    let calls: Vec<&str> = match (kind, tracked.field, tracked.repair) {
        (_, _, Repair::ReportOnly(_)) | (Kind::Workspace, ..) => vec![],
        (Kind::TaskDefinition, field, _) if field != "tags" => {
            drift.insert(reported(Kind::Service, Some("task_definition")));
            vec!["TagResource", "UpdateService"]
        }
        (Kind::Service, "task_definition", _) => {
            drift.insert(reported(Kind::TaskDefinition, Some("stop_timeout")));
            vec!["TagResource", "UpdateService"]
        }
        (Kind::Scaling, "metric", _) => {
            vec!["DeleteScalingPolicy", "DeleteScalingPolicy", "PutScalingPolicy", "PutScalingPolicy"]
        }
        // The deleted policy of codeloc.
        (Kind::Scaling, "foreign_policy", _) => {
            drift.insert(reported(kind, None));
            vec!["DeleteScalingPolicy", "PutScalingPolicy"]
        }
        (Kind::Role | Kind::ExecutionRole, "permissions_boundary", _) => vec!["DeleteRolePermissionsBoundary"],
        (_, _, Repair::By(call)) => vec![call.split_once(':').unwrap().1],
    };
    (drift, calls)
}

fn reported(deployment: &TestDeployment) -> BTreeSet<(String, Option<String>)> {
    let drift = deployment.status(NAME).unwrap().drift;
    drift.into_iter().map(|drift| (drift.kind, drift.field)).collect()
}

/// Waits until `done`, at most for the documented time; the location serves throughout.
async fn wait_within(deployment: &TestDeployment, promised: Duration, what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + promised + MARGIN;
    while !done() {
        assert!(!deployment.code_server.servers_of(NAME).is_empty(), "{what}: nothing serves");
        assert!(
            tokio::time::Instant::now() <= deadline,
            "{what}: not within {promised:?}: {:#?}, {:?}",
            deployment.status(NAME),
            deployment.mutating_operations()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Changes one field by hand: first in mode enforce, then in mode detect.
async fn assert_drift_is_repaired(kind: Kind, tracked: &TrackedField) {
    let what = format!("{} {}", kind.title(), tracked.field);
    let secret = ("arn:aws:ssm:eu-central-1:123456789012:parameter/token".to_owned(), "value".to_owned());
    let mut deployment =
        TestDeployment::with(localcloud::Rules { secrets: [secret].into(), ..Default::default() }).await;
    deployment.commit(NAME, text(kind, tracked.field));
    deployment.start().await;
    deployment.wait_until_healthy(&[NAME]).await;
    let sweep = Duration::from_secs(deployment.settings.reconcile.resync_seconds);
    let promised = match tracked.found {
        Found::NextSweep => sweep,
        Found::InTurns => HOUR,
    };
    let (drift, repairs) = expected(kind, tracked);
    let before = state(&deployment).await;

    manual_change::change(&deployment, kind, tracked.field).await;
    let changed = state(&deployment).await;
    assert_ne!(changed, before, "{what}: the change had no effect");
    deployment.cloud.reset_calls();
    if let Repair::ReportOnly(_) = tracked.repair {
        wait_within(&deployment, promised, &what, || reported(&deployment) == drift).await;
        assert_eq!(deployment.status(NAME).unwrap().sync, Sync::OutOfSync, "{what}");
        tokio::time::sleep(sweep + MARGIN).await;
        assert_eq!(deployment.mutating_operations(), Vec::<String>::new(), "{what}");
        assert_eq!(state(&deployment).await, changed, "{what}: changed by codeloc");
        return;
    }
    wait_within(&deployment, promised, &what, || {
        let dagster = (deployment.workspace(), deployment.webserver.shown());
        deployment.mutating_operations().len() >= repairs.len()
            && dagster == (before.workspace.clone(), before.shown.clone())
    })
    .await;
    deployment.wait_until_healthy(&[NAME]).await;
    // The next sweep changes nothing.
    tokio::time::sleep(sweep + MARGIN).await;
    let mut repaired = deployment.mutating_operations();
    repaired.sort();
    assert_eq!(repaired, repairs, "{what}");
    assert_eq!(state(&deployment).await, before, "{what}");

    deployment.commit(NAME, format!("{}mode: detect\n", text(kind, tracked.field)));
    tokio::time::sleep(MARGIN).await;
    manual_change::change(&deployment, kind, tracked.field).await;
    let changed = state(&deployment).await;
    deployment.cloud.reset_calls();
    wait_within(&deployment, promised, &what, || reported(&deployment) == drift).await;
    tokio::time::sleep(sweep + MARGIN).await;
    assert_eq!((reported(&deployment), deployment.mutating_operations()), (drift, vec![]), "{what}");
    assert_eq!(state(&deployment).await, changed, "{what}: changed in mode detect");
}

async fn assert_every_field(kind: Kind, found: Found) {
    let fields = kind
        .tracked_fields()
        .iter()
        .filter(|tracked| tracked.found == found && (kind, tracked.field) != (Kind::Service, CAPACITY));
    for tracked in fields {
        Box::pin(assert_drift_is_repaired(kind, tracked)).await;
    }
}

/// The test of a kind. A new kind does not compile until it has one.
fn test_of(kind: Kind) -> fn() {
    match kind {
        Kind::LogGroup => drift_of_a_log_group_is_reported_and_repaired,
        Kind::ImageRepository => drift_of_an_image_repository_is_reported_and_repaired,
        Kind::Role => drift_of_a_role_is_reported_and_repaired,
        Kind::ExecutionRole => drift_of_an_execution_role_is_reported_and_repaired,
        Kind::TaskDefinition => drift_of_a_task_definition_is_reported_and_repaired,
        Kind::RunDefinition => drift_of_a_run_task_definition_is_reported_and_repaired,
        Kind::Discovery => drift_of_a_cloud_map_service_is_reported_and_repaired,
        Kind::Service => drift_of_a_service_is_reported_and_repaired,
        Kind::Scaling => drift_of_scaling_is_reported_and_repaired,
        Kind::Workspace => drift_of_a_workspace_entry_is_reported_and_repaired,
    }
}

#[test]
fn every_kind_has_its_own_test() {
    let tests: BTreeSet<usize> = Kind::ALL.into_iter().map(|kind| test_of(kind) as usize).collect();
    assert_eq!(tests.len(), Kind::ALL.len());
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_log_group_is_reported_and_repaired() {
    assert_every_field(Kind::LogGroup, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_an_image_repository_is_reported_and_repaired() {
    assert_every_field(Kind::ImageRepository, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_role_is_reported_and_repaired() {
    assert_every_field(Kind::Role, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_an_execution_role_is_reported_and_repaired() {
    assert_every_field(Kind::ExecutionRole, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_task_definition_is_reported_and_repaired() {
    assert_every_field(Kind::TaskDefinition, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_run_task_definition_is_reported_and_repaired() {
    assert_every_field(Kind::RunDefinition, Found::InTurns).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_cloud_map_service_is_reported_and_repaired() {
    assert_every_field(Kind::Discovery, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_service_is_reported_and_repaired() {
    assert_every_field(Kind::Service, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_the_capacity_provider_is_reported_and_repaired() {
    let capacity = Kind::Service.tracked_fields().iter().find(|tracked| tracked.field == CAPACITY).unwrap();
    assert_drift_is_repaired(Kind::Service, capacity).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_scaling_is_reported_and_repaired() {
    assert_every_field(Kind::Scaling, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_a_workspace_entry_is_reported_and_repaired() {
    assert_every_field(Kind::Workspace, Found::NextSweep).await;
}

#[tokio::test(start_paused = true)]
async fn drift_of_tags_is_repaired_within_an_hour() {
    // All fields of a run definition are read in turns: they have their own test.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::RunDefinition) {
        assert_every_field(kind, Found::InTurns).await;
    }
}
