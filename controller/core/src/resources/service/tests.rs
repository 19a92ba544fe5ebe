//! The plan for each state of a service.

use super::*;

const OLD: &str = "arn:task-definition/codeloc-orders:1";
const NEW: &str = "arn:task-definition/codeloc-orders:2";
/// When the deployments of these tests started.
const STARTED_MS: i64 = 3000;

fn network() -> Network {
    Network::new(&["subnet-b".to_owned(), "subnet-a".to_owned()], &["sg-a".to_owned()], false)
}

fn desired() -> Desired {
    let (network, tags) = (network(), Tags::from([("codeloc:location".to_owned(), "orders".to_owned())]));
    let (deployment, options) = (ROLLING, ServiceOptions::ours());
    Desired { name: "orders-service".to_owned(), count: 1, scaled: true, network, deployment, options, tags }
}

fn deployment(id: &str, task_definition: &str, rollout: Rollout) -> ServiceDeployment {
    let (id, task_definition) = (id.to_owned(), Arn::from(task_definition));
    let (reason, started_ms) = (String::new(), STARTED_MS);
    ServiceDeployment { id, started_ms, task_definition, rollout, reason, desired_count: 1, running: 1, failed: 0 }
}

/// A steady service that runs `OLD` in deployment `ecs-svc/1`.
fn observed() -> Observed {
    Observed {
        arn: "arn:service".into(),
        name: "orders-service".to_owned(),
        status: Status::Active,
        task_definition: OLD.into(),
        desired_count: 1,
        running: 1,
        deployments: vec![deployment("ecs-svc/1", OLD, Rollout::Completed)],
        network: network(),
        deployment: ROLLING,
        options: ServiceOptions::ours(),
        registry: Some("arn:registry".into()),
        tags: desired().tags.into(),
    }
}

fn definition(arn: &str, number: i32, attempt: &str) -> Shared<task_definition::Observed> {
    let tags = Tags::from([(tags::ATTEMPT.to_owned(), attempt.to_owned())]);
    let tags = tags.into();
    task_definition::Observed { arn: arn.into(), number, content: None, foreign: vec![], tags }.into()
}

/// The plan for the desired revision `new`. `NEW` is its task definition, registered with this attempt.
fn service_plan(observed: &Observed, new: Option<&str>) -> ServicePlan {
    service_plan_after(observed, new, false)
}

/// The same after a transient failure, or after another one.
fn service_plan_after(observed: &Observed, new: Option<&str>, transient: bool) -> ServicePlan {
    plan_of_failure(observed, new, Cause { transient, ..Cause::default() })
}

fn of_new_revision(mut definition: Shared<task_definition::Observed>) -> Shared<task_definition::Observed> {
    definition.tags.insert(tags::REVISION.to_owned(), "new".to_owned());
    definition
}

/// The knowledge about a failed rollout.
#[derive(Clone, Copy, Default)]
struct Cause {
    transient: bool,
    unexplained: bool,
    record: Option<Record>,
}

fn plan_of_failure(observed: &Observed, new: Option<&str>, cause: Cause) -> ServicePlan {
    let definitions: Vec<Shared<task_definition::Observed>> =
        [Some(definition(OLD, 1, "1000 -")), new.map(|attempt| of_new_revision(definition(NEW, 2, attempt)))]
            .into_iter()
            .flatten()
            .collect();
    let context = Context {
        revision: &Deferred::Known("new".into()),
        registered: definitions.get(1).map(|one| &**one),
        task_definitions: &definitions,
        registry: &Deferred::Known("arn:registry".into()),
        transient: cause.transient,
        unexplained: cause.unexplained,
        record: cause.record,
        unregistered: false,
        now_ms: 10 * RETRY_MS,
    };
    let service_plan = diff(&desired(), Some(observed), context);
    let fails = match &service_plan.phase {
        Phase::Failed { .. } => true,
        Phase::Rolling(rolling) => rolling.failed > 0,
        Phase::Begin | Phase::Draining | Phase::Steady => false,
    };
    assert!(!fails || has_failures(observed, &definitions), "the planner would not see {:?}", service_plan.phase);
    service_plan
}

fn deploys(service_plan: &ServicePlan) -> bool {
    service_plan.changes.iter().any(|change| matches!(change, Change::Deploy { .. }))
}

#[test]
fn a_new_revision_is_registered_and_deployed() {
    let service_plan = service_plan(&observed(), None);
    assert!(deploys(&service_plan) && service_plan.attempts);
}

#[test]
fn a_crash_between_registration_and_rollout_is_not_a_failure() {
    // The deployment to replace is still the primary one: the rollout never started.
    let service_plan = service_plan(&observed(), Some("2000 ecs-svc/1"));
    assert_eq!(service_plan.phase, Phase::Begin);
    assert!(deploys(&service_plan) && !service_plan.attempts);
}

#[test]
fn a_rollback_is_a_failure_even_without_a_failed_deployment() {
    let mut observed = observed();
    observed.deployments = vec![deployment("ecs-svc/3", OLD, Rollout::Completed)];
    let service_plan = service_plan(&observed, Some("2000 ecs-svc/1"));
    assert!(matches!(service_plan.phase, Phase::Failed { .. }));
    assert!(matches!(service_plan.changes.as_slice(), [Change::RememberFailed { revision, .. }] if revision == "new"));
}

#[test]
fn an_attempt_based_on_a_stale_read_is_not_a_failure() {
    // The service or its newest deployment existed already, but the read missed it.
    let observed = observed();
    for attempt in ["2000 -", "4000 ecs-svc/0"] {
        let service_plan = service_plan(&observed, Some(attempt));
        assert!(deploys(&service_plan) && service_plan.attempts, "{attempt}: {service_plan:?}");
    }
}

#[test]
fn an_older_revision_that_is_desired_again_is_not_a_failure() {
    // Its attempt is older than the one of the serving revision.
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
    assert!(matches!(second.phase, Phase::Failed { .. }) && second.changes.is_empty());
}

#[test]
fn a_failure_of_unknown_cause_is_not_remembered() {
    let mut observed = observed();
    observed.deployments.push(deployment("ecs-svc/2", NEW, Rollout::Failed));
    let cause = Cause { unexplained: true, ..Cause::default() };
    let unknown = plan_of_failure(&observed, Some("2000 ecs-svc/1"), cause);
    assert!(matches!(unknown.phase, Phase::Failed { .. }) && unknown.changes.is_empty(), "{unknown:?}");
    let known = plan_of_failure(&observed, Some("2000 ecs-svc/1"), Cause::default());
    assert!(matches!(known.changes.as_slice(), [Change::RememberFailed { .. }]));
}

#[test]
fn a_remembered_failure_is_not_retried_for_a_later_cause() {
    let mut observed = observed();
    observed.deployments.push(deployment("ecs-svc/2", NEW, Rollout::Failed));
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let service_plan = service_plan_after(&observed, Some("2000 ecs-svc/1"), true);
    assert!(matches!(service_plan.phase, Phase::Failed { transient: false, .. }), "{service_plan:?}");
    assert_eq!(service_plan.changes, []);
}

#[test]
fn the_record_of_ecs_tells_a_rollback_from_a_change_by_hand() {
    let mut observed = observed();
    observed.deployments = vec![deployment("ecs-svc/3", OLD, Rollout::Completed)];
    let registered = definition(NEW, 2, "2000 ecs-svc/1");
    assert!(suspects_rollback(&observed, &registered, &[definition(OLD, 1, "1000 -"), registered.clone()], 9_000));
    let plan = |record| plan_of_failure(&observed, Some("2000 ecs-svc/1"), Cause { record, ..Cause::default() });
    let by_hand = plan(Some(Record::NotRolledBack));
    assert!(deploys(&by_hand) && by_hand.attempts, "{by_hand:?}");
    for record in [None, Some(Record::RolledBack), Some(Record::InProgress)] {
        assert!(matches!(plan(record).phase, Phase::Failed { .. }), "{record:?}");
    }
}

#[test]
fn a_failed_revision_does_not_block_another_one() {
    let mut observed = observed();
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "other".to_owned());
    assert!(deploys(&service_plan(&observed, None)));
}

#[test]
fn a_failure_is_forgotten_when_the_revision_serves() {
    let mut observed = observed();
    observed.task_definition = NEW.into();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Completed)];
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let plan = service_plan(&observed, Some("2000 ecs-svc/1"));
    let [Change::Tag { tags: change, .. }] = plan.changes.as_slice() else { panic!("{plan:?}") };
    assert!(plan.phase == Phase::Steady && change.remove.contains(tags::FAILED_REVISION), "{change:?}");
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "other".to_owned());
    assert_eq!(service_plan(&observed, Some("2000 ecs-svc/1")).changes, []);
}

#[test]
fn a_rollout_in_progress_needs_no_change() {
    let mut observed = observed();
    observed.task_definition = NEW.into();
    observed.deployments.insert(0, deployment("ecs-svc/2", NEW, Rollout::InProgress));
    let service_plan = service_plan(&observed, Some("2000 ecs-svc/1"));
    assert!(matches!(service_plan.phase, Phase::Rolling(_)) && service_plan.changes.is_empty());
}

#[test]
fn an_inactive_service_is_absent_and_a_draining_one_blocks() {
    let mut observed = observed();
    observed.status = Status::Inactive;
    assert!(matches!(service_plan(&observed, None).changes.as_slice(), [Change::Create { .. }]));
    observed.status = Status::Draining;
    let draining = service_plan(&observed, None);
    assert!(draining.phase == Phase::Draining && draining.changes.is_empty());
}

#[test]
fn another_subnet_is_drift_and_another_order_is_not() {
    let mut observed = observed();
    observed.task_definition = NEW.into();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Completed)];
    assert!(service_plan(&observed, Some("2000 ecs-svc/1")).changes.is_empty());
    observed.network = Network::new(&["subnet-a".to_owned()], &["sg-a".to_owned()], false);
    let changes = service_plan(&observed, Some("2000 ecs-svc/1")).changes;
    assert!(matches!(changes.as_slice(), [Change::Configure { fields, .. }] if fields.len() == 1), "{changes:?}");
}

#[test]
fn the_count_is_set_only_without_scaling() {
    let mut observed = observed();
    observed.task_definition = NEW.into();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Completed)];
    observed.desired_count = 3;
    assert!(service_plan(&observed, Some("2000 ecs-svc/1")).changes.is_empty());
    let desired = Desired { scaled: false, ..desired() };
    let definitions = [definition(NEW, 2, "2000 ecs-svc/1")];
    let context = Context {
        revision: &Deferred::Known("new".into()),
        registered: Some(&definitions[0]),
        task_definitions: &definitions,
        registry: &Deferred::Known("arn:registry".into()),
        transient: false,
        unexplained: false,
        record: None,
        unregistered: false,
        now_ms: 0,
    };
    let changes = diff(&desired, Some(&observed), context).changes;
    assert!(matches!(changes.as_slice(), [Change::SetCount { from: 3, to: 1, .. }]), "{changes:?}");
}

#[test]
fn the_tag_alone_is_enough_to_remember_a_failed_revision() {
    let mut observed = observed();
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let service_plan = service_plan(&observed, None);
    assert!(matches!(service_plan.phase, Phase::Failed { .. }) && service_plan.changes.is_empty());
}

#[test]
fn a_deregistered_running_definition_is_replaced_despite_the_tag() {
    let mut observed = observed();
    observed.tags.insert(tags::FAILED_REVISION.to_owned(), "new".to_owned());
    let context = Context {
        revision: &Deferred::Known("new".into()),
        registered: None,
        task_definitions: &[],
        registry: &Deferred::Known("arn:registry".into()),
        transient: false,
        unexplained: false,
        record: None,
        unregistered: false,
        now_ms: 10 * RETRY_MS,
    };
    let plan = diff(&desired(), Some(&observed), context);
    assert!(deploys(&plan) && plan.attempts, "{plan:?}");
}

#[test]
fn a_transient_failure_is_retried_after_some_minutes() {
    let mut observed = observed();
    observed.task_definition = NEW.into();
    observed.deployments = vec![deployment("ecs-svc/2", NEW, Rollout::Failed)];
    let retried = service_plan_after(&observed, Some("2000 -"), true);
    assert!(retried.attempts, "{retried:?}");
    assert!(matches!(&retried.changes[..], [Change::Redeploy { task_definition, .. }] if task_definition == NEW));
    let just_now = (10 * RETRY_MS - 1000).to_string() + " -";
    let waits = service_plan_after(&observed, Some(&just_now), true);
    assert!(waits.changes.is_empty() && matches!(waits.phase, Phase::Failed { transient: true, .. }), "{waits:?}");
    // An earlier failure does not count while the rollout is in progress.
    observed.deployments.insert(0, deployment("ecs-svc/3", NEW, Rollout::InProgress));
    assert!(matches!(service_plan_after(&observed, Some("2000 -"), false).phase, Phase::Rolling(_)));
}

/// `a` served before `b`, which serves. `c` was rolled out after it.
fn served_before(deployments: &[(&str, Rollout)], current: &str) -> Option<Commit> {
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
    super::served_before(&observed, &definitions, Some(&Commit::from(current)))
}

#[test]
fn the_previous_commit_is_known_during_a_rollout() {
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
    // A revision without a complete rollout has not served.
    assert_eq!(served_before(&[("c", InProgress)], "d").as_deref(), Some("b"));
}
