use std::time::Duration;

use codeloc_core::planner::Report;
use codeloc_core::resources::{log_group, task_definition};
use codeloc_core::status::{Condition, ConditionKind, ConditionStatus, Health, Sync};

use super::*;
use crate::fixtures::location_name;

fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        steps,
        later: vec![],
        garbage: vec![],
        collects: false,
        aws_mismatch: None,
        report: Report {
            sync: Sync::Synced,
            health: Health::Healthy,
            message: String::new(),
            conditions: vec![],
            revision: None,
            serving: None,
            address: None,
            look_again: None,
        },
    }
}

fn delete_logs() -> Step {
    Step::LogGroup(log_group::Change::Delete { arn: "arn".into(), name: "/codeloc/orders".to_owned() })
}

fn deregister() -> Step {
    Step::TaskDefinition(task_definition::Change::Deregister { arn: "arn:1".into() })
}

fn reload() -> Step {
    let (name, expected, found) = (location_name("orders"), "r2".into(), "r1".to_owned());
    Step::Workspace(workspace::Change::Reload { name, expected, found })
}

fn round<'a>(reason: Reason, desired: &'a Desired, plan: &'a Plan) -> Round<'a> {
    Round { reason, desired, plan, lint: &Ok(()), complete: true, applied: None, reload_pause: None }
}

fn invalid() -> Desired {
    Desired::Invalid(codeloc_core::desired::Invalid::new("orders/config.yml", "bad"))
}

#[test]
fn a_plan_with_steps_is_executed() {
    let plan = plan(vec![delete_logs()]);
    assert_eq!(decide(&round(Reason::Resync, &Desired::Absent, &plan)), Decision::Execute);
}

#[test]
fn a_partial_observation_is_not_enough_for_a_deletion() {
    let (desired, plan) = (Desired::Absent, plan(vec![delete_logs()]));
    for reason in [Reason::ConfigChanged, Reason::Progress, Reason::Retry, Reason::Create, Reason::CollectGarbage] {
        let partial = Round { complete: false, ..round(reason, &desired, &plan) };
        assert_eq!(decide(&partial), Decision::ObserveAgain, "{reason:?}");
    }
}

#[test]
fn a_partial_observation_is_enough_to_wait() {
    let (desired, mut plan) = (invalid(), plan(vec![]));
    plan.report.look_again = Some(Duration::from_secs(5));
    let partial = Round { complete: false, ..round(Reason::Resync, &desired, &plan) };
    assert_eq!(decide(&partial), Decision::Rest);
    assert_eq!(at_rest(&plan, None), Outcome::Waiting(Duration::from_secs(5)));
}

#[test]
fn a_location_without_config_and_resources_is_gone() {
    let plan = plan(vec![]);
    assert_eq!(decide(&round(Reason::Resync, &Desired::Absent, &plan)), Decision::Gone);
    assert_eq!(decide(&round(Reason::Resync, &invalid(), &plan)), Decision::Rest);
}

#[test]
fn a_plan_that_the_lint_refuses_is_not_executed() {
    let (desired, plan, lint) = (Desired::Absent, plan(vec![delete_logs()]), Err(Violation::ChangesHeld));
    let refused = Round { lint: &lint, ..round(Reason::Resync, &desired, &plan) };
    assert!(matches!(decide(&refused), Decision::Unsafe(_)));
}

#[test]
fn a_plan_that_comes_back_does_not_converge() {
    let (desired, plan) = (Desired::Absent, plan(vec![delete_logs()]));
    let applied = plan.steps.clone();
    let again = Round { applied: Some(&applied), ..round(Reason::Resync, &desired, &plan) };
    assert!(matches!(decide(&again), Decision::NotConverging(message) if message.contains("log group")));
    let other = [deregister()];
    let progress = Round { applied: Some(&other), ..round(Reason::Resync, &desired, &plan) };
    assert_eq!(decide(&progress), Decision::Execute);
}

#[test]
fn a_reload_that_does_not_help_waits_for_the_webserver() {
    let (desired, mut plan) = (invalid(), plan(vec![reload()]));
    let (kind, status) = (ConditionKind::Registered, ConditionStatus::False);
    let (reason, message) = (status::Reason::WebserverError, "ImportError".to_owned());
    plan.report.conditions.push(Condition { kind, status, reason, message });
    assert_eq!(decide(&round(Reason::Resync, &desired, &plan)), Decision::Execute);
    let (applied, pause) = (plan.steps.clone(), Duration::from_secs(15));
    let again = Round {
        applied: Some(&applied),
        reload_pause: Some(pause),
        // To wait, a partial observation is enough.
        complete: false,
        ..round(Reason::Resync, &desired, &plan)
    };
    assert_eq!(decide(&again), Decision::WaitForWebserver(pause));
}

#[test]
fn a_reload_that_another_one_undid_is_no_alarm() {
    let (desired, plan) = (invalid(), plan(vec![reload()]));
    let applied = plan.steps.clone();
    let again = Round { applied: Some(&applied), ..round(Reason::Resync, &desired, &plan) };
    assert_eq!(decide(&again), Decision::WaitForWebserver(RELOADED));
}

#[test]
fn a_reload_pause_delays_no_other_step() {
    let (desired, plan) = (invalid(), plan(vec![reload(), delete_logs()]));
    let pause = Some(Duration::from_secs(15));
    // The webserver shows an old revision, not an error.
    assert_eq!(decide(&Round { reload_pause: pause, ..round(Reason::Resync, &desired, &plan) }), Decision::Execute);
}

#[test]
fn garbage_is_deleted_only_by_its_own_pass() {
    let (desired, mut plan) = (invalid(), plan(vec![]));
    plan.garbage.push(deregister());
    assert_eq!(decide(&round(Reason::Resync, &desired, &plan)), Decision::Rest);
    assert_eq!(decide(&round(Reason::CollectGarbage, &desired, &plan)), Decision::CollectGarbage);
}

#[test]
fn a_value_that_aws_changes_is_reported_after_all_steps() {
    let (desired, mut plan) = (invalid(), plan(vec![delete_logs()]));
    plan.aws_mismatch = Some("ECS changed cpu".to_owned());
    assert_eq!(decide(&round(Reason::Resync, &desired, &plan)), Decision::Execute);
    plan.steps.clear();
    let stuck = decide(&round(Reason::Resync, &desired, &plan));
    assert_eq!(stuck, Decision::NotConverging("ECS changed cpu".to_owned()));
}

#[test]
fn what_is_left_to_do_decides_how_a_pass_ends() {
    let mut plan = plan(vec![]);
    assert_eq!(at_rest(&plan, None), Outcome::Converged);
    plan.later.push(delete_logs());
    assert_eq!(at_rest(&plan, Some(&Hold::Detect)), Outcome::Held);
    assert_eq!(at_rest(&plan, Some(&Hold::Standby { holder: "other".to_owned() })), Outcome::Unleased);
}
