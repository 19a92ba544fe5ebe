//! Each situation a service can be found in, and what follows from it.

use super::*;

const OLD: &str = "arn:task-definition/codeloc-orders:1";
const NEW: &str = "arn:task-definition/codeloc-orders:2";
/// When the deployments of these tests began.
const BEGUN_MS: i64 = 3000;

fn network() -> Network {
    Network::new(&["subnet-b".to_owned(), "subnet-a".to_owned()], &["sg-a".to_owned()], false)
}

fn desired() -> Desired {
    let (network, tags) = (network(), Tags::from([("codeloc:location".to_owned(), "orders".to_owned())]));
    let (deployment, options) = (ROLLING, ServiceOptions::ours());
    Desired { name: "orders-service".to_owned(), count: 1, scaled: true, network, deployment, options, tags }
}

fn deployment(id: &str, task_definition: &str, rollout: Rollout) -> ServiceDeployment {
    let (id, task_definition) = (id.to_owned(), task_definition.to_owned());
    let (reason, begun_ms) = (String::new(), BEGUN_MS);
    ServiceDeployment { id, begun_ms, task_definition, rollout, reason, desired_count: 1, running: 1, failed: 0 }
}

/// A steady service that runs `OLD`, put there by deployment `ecs-svc/1`.
fn observed() -> Observed {
    Observed {
        arn: "arn:service".to_owned(),
        name: "orders-service".to_owned(),
        status: Status::Active,
        task_definition: OLD.to_owned(),
        desired_count: 1,
        running: 1,
        deployments: vec![deployment("ecs-svc/1", OLD, Rollout::Completed)],
        network: network(),
        deployment: ROLLING,
        options: ServiceOptions::ours(),
        registry: Some("arn:registry".to_owned()),
        tags: desired().tags.into(),
    }
}

fn definition(arn: &str, number: i32, attempt: &str) -> Shared<task_definition::Observed> {
    let tags = Tags::from([(tags::ATTEMPT.to_owned(), attempt.to_owned())]);
    let tags = tags.into();
    task_definition::Observed { arn: arn.to_owned(), number, content: None, foreign: vec![], tags }.into()
}

/// The verdict when revision `new` is wanted, which task definition `NEW` says if it is registered.
fn service_plan(observed: &Observed, new: Option<&str>) -> ServicePlan {
    verdict_where(observed, new, false)
}

/// The same, where what it failed of passes or does not.
fn verdict_where(observed: &Observed, new: Option<&str>, passes: bool) -> ServicePlan {
    let definitions: Vec<Shared<task_definition::Observed>> =
        [Some(definition(OLD, 1, "1000 -")), new.map(|attempt| definition(NEW, 2, attempt))]
            .into_iter()
            .flatten()
            .collect();
    let context = Context {
        revision: &Deferred::Known("new".to_owned()),
        wanted: definitions.get(1).map(|one| &**one),
        task_definitions: &definitions,
        registry: &Deferred::Known("arn:registry".to_owned()),
        passes,
        unregistered: false,
        now_ms: 10 * TRY_AGAIN_MS,
    };
    diff(&desired(), Some(observed), context)
}

fn deploys(service_plan: &ServicePlan) -> bool {
    service_plan.changes.iter().any(|change| matches!(change, Change::Deploy { .. }))
}

#[test]
fn a_revision_that_is_not_registered_yet_is_deployed_once_it_is() {
    let service_plan = service_plan(&observed(), None);
    assert!(deploys(&service_plan) && service_plan.attempts);
}

#[test]
fn a_crash_between_registering_and_deploying_is_no_failure() {
    // Registered over the deployment that is still the primary one: the rollout never began.
    let service_plan = service_plan(&observed(), Some("2000 ecs-svc/1"));
    assert_eq!(service_plan.phase, Phase::Begin);
    assert!(deploys(&service_plan) && !service_plan.attempts);
}

#[test]
fn a_rollback_that_left_no_trace_but_a_new_deployment_is_a_failure() {
    let mut observed = observed();
    observed.deployments = vec![deployment("ecs-svc/3", OLD, Rollout::Completed)];
    let service_plan = service_plan(&observed, Some("2000 ecs-svc/1"));
    assert!(matches!(service_plan.phase, Phase::Held { .. }));
    assert!(matches!(service_plan.changes.as_slice(), [Change::RememberFailed { revision, .. }] if revision == "new"));
}

#[test]
fn an_attempt_over_what_was_read_too_late_is_no_failure() {
    // The service, or its newest deployment, was there before and not seen.
    let observed = observed();
    for attempt in ["2000 -", "4000 ecs-svc/0"] {
        let service_plan = service_plan(&observed, Some(attempt));
        assert!(deploys(&service_plan) && service_plan.attempts, "{attempt}: {service_plan:?}");
    }
}

#[test]
fn an_older_revision_that_is_wanted_again_is_no_failure() {
    // It was attempted before what serves now was.
    let mut observed = observed();
    observed.deployments = vec![deployment("ecs-svc/3", OLD, Rollout::Completed)];
    let service_plan = service_plan(&observed, Some("500 ecs-svc/0"));
    assert!(deploys(&service_plan) && service_plan.attempts);
}

#[test]
fn a_failed_deployment_is_remembered_once() {
    let mut observed = observed();
    observed.deployments.push(deployment("ecs-svc/2", NEW, Rollout::Failed));
    let first = service_plan(&observed, Some("2000 ecs-svc/1"));
    assert!(matches!(first.changes.as_slice(), [Change::RememberFailed { .. }]));
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let second = service_plan(&observed, Some("2000 ecs-svc/1"));
    assert!(matches!(second.phase, Phase::Held { .. }) && second.changes.is_empty());
}

#[test]
fn another_revision_is_tried_although_one_failed() {
    let mut observed = observed();
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "other".to_owned());
    assert!(deploys(&service_plan(&observed, None)));
}

#[test]
fn a_rollout_of_the_wanted_revision_is_waited_for() {
    let mut observed = observed();
    observed.task_definition = NEW.to_owned();
    observed.deployments.insert(0, deployment("ecs-svc/2", NEW, Rollout::InProgress));
    let service_plan = service_plan(&observed, Some("2000 ecs-svc/1"));
    assert!(matches!(service_plan.phase, Phase::Rolling(_)) && service_plan.changes.is_empty());
}

#[test]
fn an_inactive_service_counts_as_absent_and_a_draining_one_is_waited_for() {
    let mut observed = observed();
    observed.status = Status::Inactive;
    assert!(matches!(service_plan(&observed, None).changes.as_slice(), [Change::Create { .. }]));
    observed.status = Status::Draining;
    let draining = service_plan(&observed, None);
    assert!(draining.phase == Phase::Draining && draining.changes.is_empty());
}

#[test]
fn the_order_of_subnets_is_no_difference_but_another_subnet_is() {
    let mut observed = observed();
    observed.task_definition = NEW.to_owned();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Completed)];
    assert!(service_plan(&observed, Some("2000 ecs-svc/1")).changes.is_empty());
    observed.network = Network::new(&["subnet-a".to_owned()], &["sg-a".to_owned()], false);
    let changes = service_plan(&observed, Some("2000 ecs-svc/1")).changes;
    assert!(matches!(changes.as_slice(), [Change::Configure { fields, .. }] if fields.len() == 1), "{changes:?}");
}

#[test]
fn the_count_is_left_to_scaling_and_set_only_without_it() {
    let mut observed = observed();
    observed.task_definition = NEW.to_owned();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Completed)];
    observed.desired_count = 3;
    assert!(service_plan(&observed, Some("2000 ecs-svc/1")).changes.is_empty());
    let desired = Desired { scaled: false, ..desired() };
    let definitions = [definition(NEW, 2, "2000 ecs-svc/1")];
    let context = Context {
        revision: &Deferred::Known("new".to_owned()),
        wanted: Some(&definitions[0]),
        task_definitions: &definitions,
        registry: &Deferred::Known("arn:registry".to_owned()),
        passes: false,
        unregistered: false,
        now_ms: 0,
    };
    let changes = diff(&desired, Some(&observed), context).changes;
    assert!(matches!(changes.as_slice(), [Change::SetCount { from: 3, to: 1, .. }]), "{changes:?}");
}

#[test]
fn a_revision_that_the_service_remembers_as_failed_is_held_without_any_other_trace() {
    let mut observed = observed();
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let service_plan = service_plan(&observed, None);
    assert!(matches!(service_plan.phase, Phase::Held { .. }) && service_plan.changes.is_empty());
}

#[test]
fn a_rollout_that_failed_of_something_that_passes_is_tried_again_a_while_later() {
    let mut observed = observed();
    observed.task_definition = NEW.to_owned();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Failed)];
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let long_ago = verdict_where(&observed, Some("2000 -"), true);
    assert!(long_ago.attempts, "{long_ago:?}");
    assert!(matches!(&long_ago.changes[..], [Change::Redeploy { task_definition, .. }] if task_definition == NEW));
    let just_now = (10 * TRY_AGAIN_MS - 1000).to_string() + " -";
    let waits = verdict_where(&observed, Some(&just_now), true);
    assert!(waits.changes.is_empty() && matches!(waits.phase, Phase::Held { passes: true, .. }), "{waits:?}");
    // While it rolls, how it went before is forgotten.
    observed.deployments.insert(0, deployment("ecs-svc/3", NEW, Rollout::InProgress));
    assert!(matches!(verdict_where(&observed, Some("2000 -"), false).phase, Phase::Rolling(_)));
}

/// Commit `a` served before `b`, which serves; `c` was attempted over it.
fn served_before(deployments: &[(&str, Rollout)], present: &str) -> Option<String> {
    let definitions: Vec<Shared<task_definition::Observed>> = [("a", 1, "-"), ("b", 2, "a"), ("c", 3, "b")]
        .map(|(commit, number, before)| {
            let mut definition = definition(commit, number, &format!("{number}000 ecs-svc/{number}"));
            definition.tags.insert(tags::COMMIT.to_owned(), commit.to_owned());
            definition.tags.insert(tags::SERVED_BEFORE.to_owned(), before.to_owned());
            definition
        })
        .into();
    let deployments = deployments.iter().map(|(commit, rollout)| deployment("ecs-svc/0", commit, *rollout)).collect();
    let observed = Observed { deployments, ..observed() };
    super::served_before(&observed, &definitions, Some(present)).map(str::to_owned)
}

#[test]
fn the_commit_that_served_before_is_known_at_every_moment_of_a_rollout() {
    use Rollout::{Completed, Failed, InProgress};
    let moments: [&[(&str, Rollout)]; 5] = [
        &[("b", Completed)],
        &[("c", InProgress), ("b", Completed)],
        &[("b", InProgress), ("c", Failed), ("b", Completed)],
        &[("b", InProgress), ("c", Failed)],
        &[("b", Completed), ("c", Failed)],
    ];
    for moment in moments {
        assert_eq!(served_before(moment, "c").as_deref(), Some("b"), "{moment:?}");
    }
    assert_eq!(served_before(&[("c", Completed)], "c").as_deref(), Some("b"));
    assert_eq!(served_before(&[("b", Completed)], "b").as_deref(), Some("a"));
    // What has not been whole yet has not served.
    assert_eq!(served_before(&[("c", InProgress)], "d").as_deref(), Some("b"));
}
