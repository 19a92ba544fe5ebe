//! Which images the planner collects.

use super::super::{DAY_MS, Plan};
use super::model::*;
use crate::ids::Digest;
use crate::resources::image_repository::garbage::Image;
use crate::resources::service::ServiceDeployment;
use crate::resources::{Step, image_repository};

/// A location that had these images, with one more image pushed each day, and its last plan.
fn after_images(versions: &[u8]) -> (Model, Plan) {
    let mut model = Model::default();
    let desire = |version: u8| Desire::Present(Box::new(location(512, 2, None)), image(version));
    for version in versions {
        let plan = model.converge(&desire(*version));
        plan.garbage.iter().for_each(|step| model.apply(step));
    }
    let last = versions.last().copied().unwrap_or_default();
    let pushed = |version: u8| Image {
        digest: Digest::from(format!("sha256:{version:064x}")),
        tags: vec![],
        pushed_ms: i64::from(version) * DAY_MS,
        parts: vec![],
        subject: None,
    };
    model.observed.images = Some((0..=45).map(pushed).collect());
    model.now_ms = 47 * DAY_MS + DAY_MS / 2;
    let plan = model.converge(&desire(last));
    (model, plan)
}

fn deleted(plan: &Plan) -> Vec<u8> {
    let digests = plan.garbage.iter().filter_map(|step| match step {
        Step::ImageRepository(image_repository::Change::DeleteImages { digests, .. }) => Some(digests),
        _ => None,
    });
    digests.flatten().map(|digest| u8::from_str_radix(&digest[digest.len() - 2..], 16).unwrap()).collect()
}

#[test]
fn old_images_that_no_task_definition_names_are_deleted() {
    let (model, plan) = after_images(&[1, 2, 3, 4, 5, 6, 7, 8]);
    // The newest definition runs, codeloc keeps five more, and the images from 41 on are younger than seven days.
    assert_eq!(model.observed.task_definitions.len(), 6);
    let expected: Vec<u8> = [0, 1, 2].into_iter().chain(9..=40).collect();
    assert_eq!(deleted(&plan), expected);
}

#[test]
fn no_image_is_deleted_while_a_definition_is_unreadable() {
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(2));
    let (mut model, plan) = after_images(&[1, 2]);
    assert!(!deleted(&plan).is_empty());
    model.observed.task_definitions[1].foreign = vec!["containers"];
    assert_eq!(deleted(&model.plan(&desire)), Vec::<u8>::new());
    model.observed.task_definitions[1].foreign = vec![];
    model.observed.run_definitions[0].content = None;
    assert_eq!(deleted(&model.plan(&desire)), Vec::<u8>::new());
}

#[test]
fn no_image_is_deleted_while_a_deregistered_definition_runs() {
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(2));
    let (mut model, _) = after_images(&[1, 2]);
    let draining = model.observed.service.as_ref().unwrap().deployments[0].clone();
    let gone = ServiceDeployment { id: "ecs-svc/0".to_owned(), task_definition: "arn:gone".into(), ..draining };
    model.observed.service.as_mut().unwrap().deployments.push(gone);
    assert_eq!(deleted(&model.plan(&desire)), Vec::<u8>::new());
}

#[test]
fn images_of_other_owners_and_of_collected_definitions_stay() {
    let (mut model, _) = after_images(&[1, 2]);
    model.observed.image_repository.as_mut().unwrap().tags.clear();
    let adopted = {
        let mut location = location(512, 2, None);
        location.adopt = true;
        Desire::Present(Box::new(location), image(2))
    };
    assert_eq!(deleted(&model.plan(&adopted)), Vec::<u8>::new());
    let (model, plan) = after_images(&[1, 2, 3, 4, 5, 6]);
    assert_eq!(model.observed.task_definitions.len(), 6);
    assert!(!deleted(&plan).is_empty());
    let mut model = model;
    let plan = model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(7)));
    assert!(!plan.garbage.is_empty());
    assert!(!deleted(&plan).contains(&1), "this plan deregisters its definition");
}
