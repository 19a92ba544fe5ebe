//! Who has to answer for a location to be published, and what is told of it meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Answered, Desired, ImageState, Input, Plan, WebserverState, lint, plan};
use super::model::*;
use crate::dagster::Entry;
use crate::dagster::{Answer, WebLocation};
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

/// A location that has converged, and the id of what it runs.
fn converged() -> (Model, String) {
    let mut model = Model::default();
    model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
    let id = model.serving_id().expect("it serves");
    (model, id)
}

/// The plan where these ids answer, each at an address of its own, the entry leads to one of those addresses, and the webserver shows that.
fn plan_where(
    model: &Model,
    deployment: &Deployment,
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
        name: NAME,
        desired: Desired::Present { location: &location, image: ImageState::Ready(&image) },
        deployment,
        observed: &model.observed,
        workspace: &workspace::Observed {
            entry: published.map(|number| entry(deployment, number)),
            web: shown.map(|id| WebLocation::Loaded { server_id: Some(id.to_owned()) }),
        },
        webserver: WebserverState::Answers,
        answers: &answers,
        failure_excerpt: None,
        steady_for: Duration::ZERO,
        now_ms: model.now_ms,
        hold: None,
        may_protect: false,
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

fn places() -> [Deployment; 2] {
    [deployment(), Deployment { address: Address::Discovered, ..deployment() }]
}

fn condition(plan: &Plan, kind: ConditionKind) -> (ConditionStatus, Reason, &str) {
    let condition = plan.report.conditions.iter().find(|condition| condition.kind == kind).expect("it is told");
    (condition.status, condition.reason, &condition.message)
}

#[test]
fn a_foreign_id_publishes_nothing() {
    let (model, _) = converged();
    for deployment in places() {
        let plan = plan_where(&model, &deployment, &[FOREIGN], None, None);
        assert_eq!(changes(&plan), Vec::<&workspace::Change>::new());
        let (status, reason, message) = condition(&plan, ConditionKind::Loaded);
        assert_eq!((status, reason), (ConditionStatus::Unknown, Reason::OtherRevision));
        assert!(message.contains(FOREIGN) && plan.report.message == message, "{message}");
    }
}

#[test]
fn an_entry_that_leads_to_a_foreign_id_is_taken_out() {
    let (model, _) = converged();
    for deployment in places() {
        let plan = plan_where(&model, &deployment, &[FOREIGN], Some(1), Some(FOREIGN));
        let changes = changes(&plan);
        assert!(matches!(&changes[..], [workspace::Change::Withdraw { found, .. }] if found == FOREIGN), "{changes:?}");
        assert_eq!(condition(&plan, ConditionKind::Registered).1, Reason::OtherRevision);
    }
}

#[test]
fn an_entry_that_leads_to_a_foreign_id_moves_to_a_task_of_its_own() {
    let (model, own) = converged();
    let deployment = Deployment { address: Address::Discovered, ..deployment() };
    let plan = plan_where(&model, &deployment, &[FOREIGN, &own], Some(1), Some(FOREIGN));
    let changes = changes(&plan);
    let second = address(2).ip().to_string();
    assert!(matches!(&changes[..], [workspace::Change::Publish { host, .. }] if *host == second), "{changes:?}");
}

#[test]
fn an_entry_that_leads_elsewhere_than_the_foreign_id_stays() {
    let (model, _) = converged();
    let deployment = Deployment { address: Address::Discovered, ..deployment() };
    let plan = plan_where(&model, &deployment, &[FOREIGN], Some(9), None);
    assert_eq!(changes(&plan), Vec::<&workspace::Change>::new());
}

#[test]
fn an_id_that_may_be_of_a_deregistered_revision_takes_nothing_out() {
    let (mut model, own) = converged();
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(2));
    model.converge(&desire);
    // What the service runs is registered no more, and something else is wanted.
    let runs = model.observed.service.as_ref().unwrap().task_definition.clone();
    model.observed.task_definitions.retain(|observed| observed.arn != runs);
    for deployment in places() {
        let plan = plan_where(&model, &deployment, &[FOREIGN], Some(1), None);
        assert_eq!(changes(&plan), Vec::<&workspace::Change>::new(), "{own}");
    }
}

#[test]
fn where_nothing_is_proven_the_webserver_has_to_show_what_runs() {
    let (model, own) = converged();
    for deployment in places() {
        let registered = |shown| {
            let plan = plan_where(&model, &deployment, &[], Some(1), shown);
            condition(&plan, ConditionKind::Registered).1
        };
        assert_eq!(registered(Some(own.as_str())), Reason::UpToDate);
        assert_eq!(registered(Some(FOREIGN)), Reason::OtherRevision);
    }
}

#[test]
fn nothing_serves_before_a_first_rollout_is_whole() {
    let mut model = Model::default();
    let broken = image(1);
    model.broken.push(broken.reference.clone());
    let desire = Desire::Present(Box::new(location(512, 2, None)), broken);
    let plan = model.converge(&desire);
    assert_eq!((plan.report.health, plan.report.serving.as_deref()), (Health::Degraded, None));
    let message = condition(&plan, ConditionKind::Deployed).2;
    assert!(message.contains("nothing serves"), "{message}");
    // Tasks that run are no proof either.
    let service = model.observed.service.as_mut().unwrap();
    (service.running, service.deployments[0].running) = (1, 1);
    assert_eq!(model.plan(&desire).report.serving, None);
}

#[test]
fn nothing_serves_where_no_task_of_a_whole_rollout_runs() {
    let (mut model, own) = converged();
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(1));
    assert_eq!(model.plan(&desire).report.serving, Some(own));
    let service = model.observed.service.as_mut().unwrap();
    (service.running, service.deployments[0].running) = (0, 0);
    assert_eq!(model.plan(&desire).report.serving, None);
}

#[test]
fn what_a_rollback_goes_to_serves_while_it_is_under_way() {
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
    assert_eq!(report.serving.as_ref(), Some(&own));
    assert!(report.message.contains(&format!("{own} still serves")), "{}", report.message);
}
