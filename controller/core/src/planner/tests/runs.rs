//! Runs of a location whose config is gone.

use std::time::Duration;

use super::super::{Input, Plan, Purpose, Runs, WebserverState, lint, needs, plan};
use super::model::*;
use crate::desired::Desired;
use crate::resources::{Kind, Step, role, workspace};
use crate::status::Reason;
use crate::tags::{REMOVED_AT, Tags};

const HOUR_MS: i64 = 60 * 60 * 1000;

/// A location whose service has been deleted, and whose entry is gone.
fn without_service() -> Model {
    let mut model = Model::default();
    model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
    model.observed.service = None;
    model.observed.scaling = None;
    model
}

fn with_input<T>(model: &Model, runs: &Runs, now_ms: i64, use_input: impl FnOnce(Input<'_>) -> T) -> T {
    let deployment = deployment();
    use_input(Input {
        name: &NAME,
        desired: &Desired::Absent,
        deployment: &deployment,
        observed: &model.observed,
        workspace: &workspace::Observed::default(),
        webserver: WebserverState::NotConfigured,
        answers: &[],
        failure_excerpt: None,
        record: None,
        steady_for: Duration::ZERO,
        unlisted_for: Duration::ZERO,
        now_ms,
        hold: None,
        may_protect: true,
        runs,
    })
}

fn plan_absent(model: &Model, runs: &Runs, now_ms: i64) -> Plan {
    with_input(model, runs, now_ms, |input| {
        let plan = plan(input);
        assert_eq!(lint(&input, &plan), Ok(()));
        plan
    })
}

fn kinds(steps: &[Step]) -> Vec<Kind> {
    steps.iter().map(Step::kind).collect()
}

#[test]
fn a_removal_without_runs_deletes_everything() {
    let plan = plan_absent(&without_service(), &Runs::None, 0);
    assert!(plan.later.is_empty());
    for kind in [Kind::Discovery, Kind::RunDefinition, Kind::TaskDefinition, Kind::Role, Kind::LogGroup] {
        assert!(kinds(&plan.steps).contains(&kind), "{kind:?}");
    }
}

#[test]
fn unfinished_runs_keep_everything_they_use() {
    for runs in [Runs::NotAsked, Runs::Tasks(2), Runs::Queued, Runs::Unknown("no answer".to_owned())] {
        let mut model = without_service();
        let plan = plan_absent(&model, &runs, HOUR_MS);
        let tags = Tags::from([(REMOVED_AT.to_owned(), HOUR_MS.to_string())]);
        assert_eq!(
            plan.steps,
            [Step::Role(role::Change::Tag { name: "codeloc-orders".to_owned(), tags: tags.into() })]
        );
        assert!(kinds(&plan.later).contains(&Kind::ImageRepository));
        assert_eq!(plan.report.conditions[0].reason, Reason::WaitingForRuns);
        for step in &plan.steps {
            model.apply(step);
        }
        let again = plan_absent(&model, &runs, 24 * HOUR_MS);
        assert!(again.steps.is_empty() && again.report.look_again.is_some(), "{again:#?}");
    }
}

#[test]
fn the_wait_for_runs_is_limited() {
    let mut model = without_service();
    let first = plan_absent(&model, &Runs::Tasks(1), HOUR_MS);
    for step in &first.steps {
        model.apply(step);
    }
    let last = plan_absent(&model, &Runs::Tasks(1), 25 * HOUR_MS);
    assert!(last.later.is_empty() && kinds(&last.steps).contains(&Kind::Role), "{last:#?}");
}

#[test]
fn abandoned_runs_keep_nothing() {
    assert!(plan_absent(&without_service(), &Runs::Abandoned, 0).later.is_empty());
}

#[test]
fn the_lint_refuses_to_delete_what_runs_use() {
    let model = without_service();
    let deletion = plan_absent(&model, &Runs::None, 0);
    with_input(&model, &Runs::Tasks(1), 0, |input| {
        assert!(lint(&input, &deletion).unwrap_err().to_string().contains("although runs may need it"));
    });
}

#[test]
fn runs_are_asked_for_only_before_a_deletion() {
    let asks = |model: &Model| with_input(model, &Runs::NotAsked, 0, |input| needs(&input, Purpose::Converge).runs);
    assert!(asks(&without_service()));
    let mut model = Model::default();
    assert!(!asks(&model), "nothing is left");
    model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
    assert!(!asks(&model), "the service is deleted first");
}

#[test]
fn a_service_without_tags_keeps_what_its_tasks_use() {
    let mut model = Model::default();
    model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
    let service = model.observed.service.as_mut().unwrap();
    service.tags.clear();
    let plan = plan_absent(&model, &Runs::None, 0);
    assert!(plan.steps.iter().all(|step| step.kind() == Kind::Workspace), "{:?}", plan.steps);
    assert!(kinds(&plan.later).contains(&Kind::Role));
    assert!(plan.report.message.contains("the ECS service orders-service"), "{}", plan.report.message);
}

#[test]
fn a_role_without_tags_keeps_what_unfinished_runs_use() {
    let mut model = without_service();
    model.observed.role.as_mut().unwrap().tags.clear();
    for now in [HOUR_MS, 100 * HOUR_MS] {
        let plan = plan_absent(&model, &Runs::Tasks(1), now);
        assert_eq!(plan.steps, []);
        assert!(kinds(&plan.later).contains(&Kind::LogGroup));
    }
    assert!(kinds(&plan_absent(&model, &Runs::None, 0).steps).contains(&Kind::LogGroup));
}

#[test]
fn a_mark_in_the_future_is_written_again() {
    let mut model = without_service();
    model.observed.role.as_mut().unwrap().tags.insert(REMOVED_AT.to_owned(), i64::MAX.to_string());
    let plan = plan_absent(&model, &Runs::Tasks(1), HOUR_MS);
    let tags = Tags::from([(REMOVED_AT.to_owned(), HOUR_MS.to_string())]);
    assert_eq!(plan.steps, [Step::Role(role::Change::Tag { name: "codeloc-orders".to_owned(), tags: tags.into() })]);
}
