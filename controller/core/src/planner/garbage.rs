//! Resources of a location that nothing uses any more: old definitions, images that no definition names, and an execution role without a
//! purpose.
//!
//! Guarantees: codeloc keeps everything that the service runs, rolls out or remembers as failed, and every image that a registered
//! definition names. Assumes a location in sync.

use std::collections::BTreeSet;

use super::ownership::is_owned;
use super::{DAY_MS, Input};
use crate::resources::{ObservedResources, Step, image_repository, role, run_definition, task_definition};
use crate::shared::Shared;

/// Steps that delete the garbage. Images of a definition that this plan deregisters follow in a later plan.
pub(super) fn garbage(input: &Input<'_>, has_execution_role: bool) -> Vec<Step> {
    let Some(service) = &input.observed.service else { return vec![] };
    let is_unused =
        |observed: &&Shared<task_definition::Observed>| is_owned(input, &observed.tags) && !service.names(observed);
    let mut unused: Vec<&Shared<task_definition::Observed>> =
        input.observed.task_definitions.iter().filter(is_unused).collect();
    unused.sort_by_key(|observed| std::cmp::Reverse(observed.number));
    let old: BTreeSet<&str> =
        unused.into_iter().skip(task_definition::KEPT).map(|observed| observed.arn.as_str()).collect();
    let (old, remaining): (Vec<_>, Vec<_>) =
        input.observed.task_definitions.iter().partition(|observed| old.contains(observed.arn.as_str()));
    // A run may still use a definition that no code server names. The executor asks ECS before it deregisters one.
    let named: BTreeSet<String> = remaining.into_iter().filter_map(|observed| observed.run_family()).collect();
    let unnamed = input
        .observed
        .run_definitions
        .iter()
        .filter(|observed| is_owned(input, &observed.tags) && !named.contains(observed.family()));
    let starts_tasks = |role: &role::Observed| {
        let mut definitions = input.observed.task_definitions.iter().chain(&input.observed.run_definitions);
        definitions.any(|one| one.content.as_ref().is_none_or(|content| content.execution_role_arn == role.arn))
    };
    // A location without secrets needs no execution role; it stays until no task can start with it.
    let role = input.observed.execution_role.iter().filter(|observed| is_owned(input, &observed.tags));
    let role = role.filter(|observed| !has_execution_role && !starts_tasks(observed));
    let deregister = |observed: &Shared<task_definition::Observed>| {
        Step::TaskDefinition(task_definition::Change::Deregister { arn: observed.arn.clone() })
    };
    old.into_iter()
        .map(deregister)
        .chain(unnamed.map(|observed| Step::RunDefinition(run_definition::delete(observed))))
        .chain(role.map(|observed| Step::ExecutionRole(role::delete(observed))))
        .chain(unused_images(input))
        .collect()
}

/// Images that no definition names. All of them stay while codeloc cannot read a definition in full, or a deployment runs a deregistered one:
/// the images of those are unknown.
fn unused_images(input: &Input<'_>) -> Option<Step> {
    let ObservedResources { service, image_repository, images, task_definitions, run_definitions, .. } = input.observed;
    let (service, repository, images) = (service.as_ref()?, image_repository.as_ref()?, images.as_ref()?);
    if !is_owned(input, &repository.tags) {
        return None;
    }
    let deployed = service.deployments.iter().map(|deployment| &deployment.task_definition);
    let mut deployed = deployed.chain([&service.task_definition]);
    if !deployed.all(|arn| task_definitions.iter().any(|observed| observed.arn == *arn)) {
        return None;
    }
    let mut named = Vec::new();
    for observed in task_definitions.iter().chain(run_definitions) {
        match &observed.content {
            Some(content) if observed.foreign.is_empty() => named.push(content.image.as_str()),
            _ => return None,
        }
    }
    let grace_ms = i64::from(input.deployment.image_grace_days) * DAY_MS;
    let digests = image_repository::garbage::unused(images, &named, input.now_ms - grace_ms);
    let name = repository.name.clone();
    (!digests.is_empty()).then_some(Step::ImageRepository(image_repository::Change::DeleteImages { name, digests }))
}
