//! Upgrades of codeloc that change the form of a task definition.

use super::model::*;
use crate::ids::Arn;
use crate::resources::{DesiredResources, ObservedResources, role, task_form};
use crate::tags;

/// A model in sync, as an earlier release of codeloc left it.
fn from_an_earlier_release(desire: &Desire) -> Model {
    let Desire::Present(location, image) = desire else { panic!("a location") };
    let mut model = Model::default();
    model.converge(desire);
    let older = task_form::tests::desired_in_older_form(location, image, &deployment());
    let DesiredResources { task_definition: server, run_definition, .. } = older;
    let (run, revision) = (run_definition.expect("the image is known"), server.revision.to_string());
    let ObservedResources { task_definitions, run_definitions, .. } = &mut model.observed;
    let definition = &mut task_definitions[0];
    definition.content = server.content;
    definition.tags.insert(tags::REVISION.to_owned(), revision.clone());
    let definition = &mut run_definitions[0];
    definition.arn = Arn::from(format!("arn:task-definition/{}:1", run.family));
    definition.content = Some(run.content);
    definition.tags.insert(tags::REVISION.to_owned(), run.tags[tags::REVISION].clone());
    model.shown = Some(revision);
    model
}

#[test]
fn an_upgrade_with_another_form_changes_nothing() {
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(1));
    let mut model = from_an_earlier_release(&desire);
    let plan = model.plan(&desire);
    assert!(plan.is_settled(), "{plan:#?}");
    assert_eq!(plan.garbage, []);
}

#[test]
fn the_next_commit_uses_the_newest_form() {
    let location = Box::new(location(512, 2, None));
    let mut model = from_an_earlier_release(&Desire::Present(location.clone(), image(1)));
    let next = image(2);
    model.converge(&Desire::Present(location.clone(), next.clone()));
    let newest = DesiredResources::matching(
        &location,
        Some(&next),
        &role::Kept::default(),
        &deployment(),
        &ObservedResources::default(),
    );
    let runs = model.observed.runs().expect("it runs");
    assert_eq!(runs.revision().as_ref(), newest.task_definition.revision.known());
}
