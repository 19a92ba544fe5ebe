//! Which tags protect a location whose config is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{Hold, Input, Plan, Runs, WebserverState, lint, plan};
use super::model::*;
use crate::resources::{Kind, ObservedResources, Step, workspace};
use crate::tags::{PROTECT, Tags};

/// A location that has a resource of every kind, and two revisions.
fn converged(protect: bool) -> Model {
    let mut model = Model::default();
    for version in [1, 2] {
        model.converge(&desire(protect, version));
    }
    model
}

fn desire(protect: bool, version: u8) -> Desire {
    let mut location = location(512, 2, None);
    location.protect = protect;
    location.secrets =
        [("TOKEN".to_owned(), "arn:aws:ssm:eu-central-1:123456789012:parameter/token".to_owned())].into();
    Desire::Present(Box::new(location), image(version))
}

/// The plan for a location whose config is gone.
fn plan_absent(observed: &ObservedResources, hold: Option<&Hold>) -> Plan {
    let deployment = deployment();
    let input = Input {
        name: &NAME,
        desired: &Desired::Absent,
        deployment: &deployment,
        observed,
        workspace: &workspace::Observed::default(),
        webserver: WebserverState::NotConfigured,
        answers: &[],
        failure_excerpt: None,
        record: None,
        steady_for: Duration::ZERO,
        unlisted_for: Duration::ZERO,
        now_ms: 0,
        hold,
        may_protect: true,
        runs: &Runs::None,
    };
    let plan = plan(input);
    assert_eq!(lint(&input, &plan), Ok(()));
    plan
}

fn unprotected(observed: &ObservedResources) -> Vec<(Kind, String)> {
    let lacks = |(kind, name, tags): (Kind, &str, &Tags)| {
        (tags.get(PROTECT).map(String::as_str) != Some("true")).then(|| (kind, name.to_owned()))
    };
    observed.owned().filter_map(lacks).collect()
}

#[test]
fn the_tag_on_one_resource_of_any_kind_protects() {
    let mut tagged = BTreeSet::new();
    for kind in Kind::ALL {
        let mut model = converged(false);
        let Some(tags) = tags_of(&mut model.observed, kind).pop() else { continue };
        tags.insert(PROTECT.to_owned(), "true".to_owned());
        tagged.insert(kind);
        let plan = plan_absent(&model.observed, None);
        assert_eq!(plan.steps, [], "{kind:?}");
        assert!(!plan.later.is_empty(), "{kind:?}: the plan shows what codeloc would delete");
    }
    let owned: BTreeSet<Kind> = converged(false).observed.owned().map(|(kind, ..)| kind).collect();
    assert_eq!(tagged, owned);
    assert!(!plan_absent(&converged(false).observed, None).steps.is_empty());
}

#[test]
fn an_image_repository_keeps_protecting_what_is_left_of_its_location() {
    let ObservedResources { image_repository, task_definitions, run_definitions, .. } = converged(true).observed;
    let all = ObservedResources { image_repository, run_definitions, task_definitions, ..ObservedResources::default() };
    assert_eq!(plan_absent(&all, None).steps, []);
    let one = ObservedResources { image_repository: all.image_repository, ..ObservedResources::default() };
    let plan = plan_absent(&one, None);
    assert_eq!(plan.steps, []);
    assert_eq!(plan.later.iter().map(Step::kind).collect::<Vec<_>>(), [Kind::ImageRepository]);
}

#[test]
fn a_resource_of_another_owner_does_not_protect() {
    let mut model = converged(false);
    let tags = tags_of(&mut model.observed, Kind::LogGroup).pop().unwrap();
    *tags = Tags::from([(PROTECT.to_owned(), "true".to_owned())]);
    assert!(!plan_absent(&model.observed, None).steps.is_empty());
}

#[test]
fn a_protected_location_has_the_tag_on_every_resource() {
    assert_eq!(unprotected(&converged(true).observed), []);
    // That includes resources that the config does not use any more.
    let mut model = converged(false);
    model.converge(&Desire::Present(Box::new(with_image()), image(3)));
    let mut location = with_image();
    location.protect = true;
    model.converge(&Desire::Present(Box::new(location), image(3)));
    assert_eq!(unprotected(&model.observed), []);
}

#[test]
fn under_a_hold_codeloc_writes_the_tag_on_every_resource() {
    let mut model = converged(false);
    let hold = Hold::Left(codeloc_crds::Mode::Suspended);
    for step in plan_absent(&model.observed, Some(&hold)).steps {
        model.apply(&step);
    }
    assert_eq!(unprotected(&model.observed), []);
    assert_eq!(plan_absent(&model.observed, Some(&hold)).steps, []);
}

#[test]
fn protection_that_the_config_revokes_leaves_no_tag_behind() {
    let mut model = converged(true);
    model.converge(&Desire::Present(Box::new(with_image()), image(3)));
    for kind in Kind::ALL {
        for tags in tags_of(&mut model.observed, kind) {
            assert_ne!(tags.get(PROTECT).map(String::as_str), Some("true"), "{kind:?}");
        }
    }
    model.converge(&Desire::Absent);
    assert!(!model.observed.any_owned(&NAME, "codeloc"), "{:#?}", model.observed);
}

/// The location with an image that was built elsewhere and without secrets: it needs neither an image repository nor an execution role.
fn with_image() -> codeloc_crds::Location {
    let mut location = location(512, 2, None);
    location.image = Some("registry/codeloc/orders:v1".to_owned());
    location
}
