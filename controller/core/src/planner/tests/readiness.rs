//! Which answers publish a location, and what codeloc reports until then.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Answered, Input, Plan, Runs, WebserverState, lint, plan};
use super::model::*;
use crate::dagster::{Answer, Entry, WebLocation};
use crate::deployment::{Address, Deployment};
use crate::resources::service::Rollout;
use crate::resources::{Step, workspace};
use crate::status::{ConditionKind, ConditionStatus, Health, Reason};

/// The server id of another location's task.
const FOREIGN: &str = "0123456789abcdef";

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 4000))
}

fn entry(deployment: &Deployment, number: u8) -> Entry {
    let host = match deployment.address {
        Address::Dns { .. } => "orders-service.dagster.internal".to_owned(),
        Address::Discovered => address(number).ip().to_string(),
    };
    Entry { host, port: 4000 }
}

/// A location in sync, and its server id.
fn converged() -> (Model, String) {
    let mut model = Model::default();
    model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
    let id = model.serving_id().expect("it serves");
    (model, id)
}

/// The plan when these ids answer at the addresses 1, 2 and so on. `published` is the number of the published address.
fn plan_with(model: &Model, deployment: &Deployment, ids: &[&str], published: Option<u8>, shown: Option<&str>) -> Plan {
    plan_after(model, deployment, Duration::ZERO, ids, published, shown)
}

/// The same after the revision was steady for a time.
fn plan_after(
    model: &Model,
    deployment: &Deployment,
    steady_for: Duration,
    ids: &[&str],
    published: Option<u8>,
    shown: Option<&str>,
) -> Plan {
    let answer = |(number, id): (u8, &&str)| Answered {
        address: address(number),
        answer: Answer::Loaded { server_id: (*id).to_owned(), repositories: vec![] },
    };
    let answers: Vec<Answered> = (1..).zip(ids).map(answer).collect();
    let (location, image) = (location(512, 2, None), image(1));
    let input = Input {
        name: &NAME,
        desired: &present(&location, &image),
        deployment,
        observed: &model.observed,
        workspace: &workspace::Observed {
            entry: published.map(|number| entry(deployment, number)),
            web: shown.map(|id| WebLocation::Loaded { server_id: Some(id.to_owned()) }),
        },
        webserver: WebserverState::Answers,
        answers: &answers,
        failure_excerpt: None,
        record: None,
        steady_for,
        unlisted_for: steady_for,
        now_ms: model.now_ms,
        hold: None,
        may_protect: false,
        runs: &Runs::None,
    };
    let plan = plan(input);
    assert_eq!(lint(&input, &plan), Ok(()));
    plan
}

fn changes(plan: &Plan) -> Vec<&workspace::Change> {
    plan.steps
        .iter()
        .filter_map(|step| match step {
            Step::Workspace(change) => Some(change),
            _ => None,
        })
        .collect()
}

fn deployments() -> [Deployment; 2] {
    [deployment(), Deployment { address: Address::Discovered, ..deployment() }]
}

fn condition(plan: &Plan, kind: ConditionKind) -> (ConditionStatus, Reason, &str) {
    let condition =
        plan.report.conditions.iter().find(|condition| condition.kind == kind).expect("a condition of this kind");
    (condition.status, condition.reason, &condition.message)
}

#[test]
fn a_location_without_tasks_becomes_degraded() {
    let (model, id) = converged();
    for (seconds, status, health) in
        [(0, ConditionStatus::Unknown, Health::Progressing), (3600, ConditionStatus::False, Health::Degraded)]
    {
        let plan = plan_after(&model, &deployment(), Duration::from_secs(seconds), &[], Some(1), Some(&id));
        let (found, reason, _) = condition(&plan, ConditionKind::Loaded);
        assert_eq!((found, reason, plan.report.health), (status, Reason::NoInstance, health));
    }
}

#[test]
fn a_foreign_id_publishes_nothing() {
    let (model, _) = converged();
    for deployment in deployments() {
        let plan = plan_with(&model, &deployment, &[FOREIGN], None, None);
        assert_eq!(changes(&plan), Vec::<&workspace::Change>::new());
        let (status, reason, message) = condition(&plan, ConditionKind::Loaded);
        assert_eq!((status, reason), (ConditionStatus::Unknown, Reason::OtherRevision));
        assert!(message.contains(FOREIGN) && plan.report.message == message, "{message}");
    }
}

#[test]
fn an_entry_that_leads_to_a_foreign_id_is_withdrawn() {
    let (model, _) = converged();
    for deployment in deployments() {
        let plan = plan_with(&model, &deployment, &[FOREIGN], Some(1), Some(FOREIGN));
        let changes = changes(&plan);
        assert!(matches!(&changes[..], [workspace::Change::Withdraw { found, .. }] if found == FOREIGN), "{changes:?}");
        assert_eq!(condition(&plan, ConditionKind::Registered).1, Reason::OtherRevision);
    }
}

#[test]
fn an_entry_moves_from_a_foreign_id_to_an_own_task() {
    let (model, own) = converged();
    let deployment = Deployment { address: Address::Discovered, ..deployment() };
    let plan = plan_with(&model, &deployment, &[FOREIGN, &own], Some(1), Some(FOREIGN));
    let changes = changes(&plan);
    let second = address(2).ip().to_string();
    assert!(matches!(&changes[..], [workspace::Change::Publish { host, .. }] if *host == second), "{changes:?}");
}

#[test]
fn an_entry_with_another_address_than_the_foreign_id_stays() {
    let (model, _) = converged();
    let deployment = Deployment { address: Address::Discovered, ..deployment() };
    let plan = plan_with(&model, &deployment, &[FOREIGN], Some(9), None);
    assert_eq!(changes(&plan), Vec::<&workspace::Change>::new());
}

#[test]
fn an_id_of_a_possibly_deregistered_revision_withdraws_nothing() {
    let (mut model, own) = converged();
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(2));
    model.converge(&desire);
    // The running definition was deregistered, and another one is desired.
    let runs = model.observed.service.as_ref().unwrap().task_definition.clone();
    model.observed.task_definitions.retain(|observed| observed.arn != runs);
    for deployment in deployments() {
        let plan = plan_with(&model, &deployment, &[FOREIGN], Some(1), None);
        assert_eq!(changes(&plan), Vec::<&workspace::Change>::new(), "{own}");
    }
}

#[test]
fn without_answers_the_webserver_must_show_the_running_revision() {
    let (model, own) = converged();
    for deployment in deployments() {
        let registered = |shown| {
            let plan = plan_with(&model, &deployment, &[], Some(1), shown);
            condition(&plan, ConditionKind::Registered).1
        };
        assert_eq!(registered(Some(own.as_str())), Reason::UpToDate);
        assert_eq!(registered(Some(FOREIGN)), Reason::OtherRevision);
    }
}

#[test]
fn nothing_serves_before_the_first_complete_rollout() {
    let mut model = Model::default();
    let broken = image(1);
    model.broken.push(broken.reference.clone());
    let desire = Desire::Present(Box::new(location(512, 2, None)), broken);
    let plan = model.converge(&desire);
    assert_eq!((plan.report.health, plan.report.serving.as_deref()), (Health::Degraded, None));
    let message = condition(&plan, ConditionKind::Deployed).2;
    assert!(message.contains("no revision serves"), "{message}");
    // A running task proves nothing either.
    let service = model.observed.service.as_mut().unwrap();
    (service.running, service.deployments[0].running) = (1, 1);
    assert_eq!(model.plan(&desire).report.serving, None);
}

#[test]
fn nothing_serves_without_a_running_task() {
    let (mut model, own) = converged();
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(1));
    assert_eq!(model.plan(&desire).report.serving.as_deref(), Some(own.as_str()));
    let service = model.observed.service.as_mut().unwrap();
    (service.running, service.deployments[0].running) = (0, 0);
    assert_eq!(model.plan(&desire).report.serving, None);
}

#[test]
fn the_target_of_a_rollback_serves_during_the_rollback() {
    let (mut model, own) = converged();
    let broken = image(2);
    model.broken.push(broken.reference.clone());
    let desire = Desire::Present(Box::new(location(512, 2, None)), broken);
    let steps = model.plan(&desire).steps;
    for step in &steps {
        model.apply(step);
    }
    let service = model.observed.service.as_mut().unwrap();
    let mut back = service.deployments[1].clone();
    (back.id, back.rollout) = ("ecs-svc/9".to_owned(), Rollout::InProgress);
    service.deployments[0].rollout = Rollout::Failed;
    service.task_definition.clone_from(&back.task_definition);
    service.deployments = vec![back, service.deployments[0].clone()];
    let report = model.plan(&desire).report;
    assert_eq!(report.serving.as_deref(), Some(own.as_str()));
    assert!(report.message.contains(&format!("{own} still serves")), "{}", report.message);
}
