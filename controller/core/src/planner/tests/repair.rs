//! The service is repaired although its desired revision cannot be rolled out.

use std::time::Duration;

use super::super::{Input, Plan, Runs, WebserverState, lint, plan};
use super::model::*;
use crate::desired::{Desired, DesiredLocation};
use crate::image::ImageStatus;
use crate::resources::{Kind, Step, run_definition, service};

type Edit = fn(&mut Model);

/// Changes by hand, and the kind of the step that repairs each one.
const EDITS: [(Edit, Kind); 5] = [
    (|model| model.observed.service.as_mut().unwrap().network.subnets = vec!["subnet-other".to_owned()], Kind::Service),
    (|model| model.observed.service.as_mut().unwrap().deployment.rollback = false, Kind::Service),
    (|model| model.observed.discovery = None, Kind::Discovery),
    (|model| model.observed.scaling = None, Kind::Scaling),
    (|model| model.observed.service = None, Kind::Service),
];

fn scaled() -> codeloc_crds::Location {
    let mut location = location(512, 1, None);
    location.scaling.max_capacity = 3;
    location
}

fn converged() -> Model {
    let mut model = Model::default();
    model.converge(&Desire::Present(Box::new(scaled()), image(1)));
    model
}

/// The plan while the newest commit has no image.
fn plan_without_image(model: &Model) -> Plan {
    let (deployment, location) = (
        deployment(),
        DesiredLocation {
            config: scaled().into(),
            image: ImageStatus::Failed("no solution found".to_owned()),
            commit: None,
        },
    );
    let input = Input {
        name: &NAME,
        desired: &Desired::Present(Box::new(location)),
        deployment: &deployment,
        observed: &model.observed,
        workspace: &crate::resources::workspace::Observed { entry: model.entry.clone(), web: None },
        webserver: WebserverState::NotConfigured,
        answers: &[],
        failure_excerpt: None,
        record: None,
        steady_for: Duration::ZERO,
        unlisted_for: Duration::ZERO,
        now_ms: 1_000_000,
        hold: None,
        may_protect: true,
        runs: &Runs::NotAsked,
    };
    let plan = plan(input);
    assert_eq!(lint(&input, &plan), Ok(()));
    plan
}

fn apply(model: &mut Model, steps: &[Step]) {
    for step in steps {
        model.apply(step);
    }
}

/// Plans and applies until nothing is left to do.
fn settle_without_image(model: &mut Model) {
    for _ in 0..6 {
        let plan = plan_without_image(model);
        apply(model, &plan.steps);
        model.settle();
    }
    assert_eq!(plan_without_image(model).steps, []);
}

#[test]
fn a_missing_image_does_not_prevent_repairs() {
    for (edit, kind) in EDITS {
        let mut model = converged();
        assert_eq!(plan_without_image(&model).steps, [], "in sync with what serves");
        let definition = model.observed.service.as_ref().unwrap().task_definition.clone();
        edit(&mut model);
        let plan = plan_without_image(&model);
        assert!(plan.steps.iter().any(|step| step.kind() == kind), "{kind:?}: {plan:#?}");
        apply(&mut model, &plan.steps);
        model.settle();
        assert_eq!(plan_without_image(&model).steps, [], "{kind:?}");
        assert_eq!(model.observed.service.as_ref().unwrap().task_definition, definition);
    }
}

#[test]
fn a_repair_returns_to_the_revision_that_served() {
    let mut model = converged();
    let definition = model.observed.service.as_ref().unwrap().task_definition.clone();
    model.broken.push(image(2).reference);
    model.converge(&Desire::Present(Box::new(scaled()), image(2)));
    // With the service, the tag of the failed revision is gone.
    model.observed.service = None;
    settle_without_image(&mut model);
    let service = model.observed.service.as_ref().unwrap();
    assert_eq!(service.task_definition, definition);
    assert_eq!(service.primary().map(|primary| primary.rollout), Some(service::Rollout::Completed));
}

#[test]
fn a_repair_passes_over_other_revisions_that_failed() {
    let mut model = converged();
    let definition = model.observed.service.as_ref().unwrap().task_definition.clone();
    for version in [2, 3] {
        model.broken.push(image(version).reference);
        model.converge(&Desire::Present(Box::new(scaled()), image(version)));
    }
    model.observed.service = None;
    settle_without_image(&mut model);
    assert_eq!(model.observed.service.as_ref().unwrap().task_definition, definition);
}

#[test]
fn repairs_end_although_no_revision_ever_served() {
    let mut model = Model::default();
    for version in [1, 2] {
        model.broken.push(image(version).reference);
        model.converge(&Desire::Present(Box::new(scaled()), image(version)));
    }
    settle_without_image(&mut model);
    model.observed.service = None;
    settle_without_image(&mut model);
}

#[test]
fn a_lost_run_definition_of_the_serving_revision_is_registered() {
    let mut model = converged();
    let lost = std::mem::take(&mut model.observed.run_definitions);
    let registered = |plan: &Plan| -> Vec<String> {
        let changes = plan.steps.iter().filter_map(|step| match step {
            Step::RunDefinition(run_definition::Change::Register { desired, .. }) => Some(desired.family.clone()),
            _ => None,
        });
        changes.collect()
    };
    assert_eq!(registered(&plan_without_image(&model)), [lost[0].family()]);

    model.observed.run_definitions = lost.clone();
    model.broken.push(image(2).reference);
    let desire = Desire::Present(Box::new(scaled()), image(2));
    model.converge(&desire);
    model.observed.run_definitions.clear();
    assert_eq!(registered(&model.plan(&desire)), [lost[0].family()]);
}

#[test]
fn a_deregistered_serving_definition_does_not_prevent_repairs() {
    for (edit, kind) in &EDITS[..4] {
        let mut model = converged();
        model.observed.task_definitions.clear();
        edit(&mut model);
        let plan = plan_without_image(&model);
        assert!(plan.steps.iter().any(|step| step.kind() == *kind), "{kind:?}: {plan:#?}");
    }
}

#[test]
fn a_failed_revision_does_not_prevent_repairs() {
    for (edit, kind) in EDITS {
        let mut model = converged();
        model.broken.push(image(2).reference);
        let desire = Desire::Present(Box::new(scaled()), image(2));
        model.converge(&desire);
        edit(&mut model);
        let plan = model.plan(&desire);
        assert!(plan.steps.iter().any(|step| step.kind() == kind), "{kind:?}: {plan:#?}");
    }
}

#[test]
fn a_failed_first_rollout_is_repeated_with_corrected_settings() {
    let mut model = Model::default();
    model.broken.push(image(1).reference);
    let desire = Desire::Present(Box::new(scaled()), image(1));
    model.converge(&desire);
    model.observed.service.as_mut().unwrap().network.subnets = vec!["subnet-wrong".to_owned()];
    let plan = model.plan(&desire);
    let configures = |step: &Step| matches!(step, Step::Service(service::Change::Configure { .. }));
    assert!(plan.steps.iter().any(configures), "{plan:#?}");
}
