//! The tag that keeps a location whose config is gone. codeloc remembers with it what the config said, and therefore writes it even when the
//! config's mode allows no other change.
//!
//! Guarantees: every kind whose tags codeloc reads carries the tag, and the tag on any one resource protects the whole location.

use super::Input;
use super::ownership::is_owned;
use crate::resources::{
    DesiredResources, ObservedResources, Step, discovery, image_repository, log_group, role, run_definition, service,
    task_definition,
};
use crate::tags::{PROTECT, TagChange, Tags};

/// Whether any resource that this deployment owns carries the tag. codeloc could not remove the tag from a resource of another owner.
pub(super) fn protected(input: &Input<'_>) -> bool {
    input.observed.is_protected(input.name, &input.deployment.id)
}

/// Writes the tag on every owned resource that lacks it, or revokes it.
pub(super) fn steps(input: &Input<'_>, protect: bool) -> Vec<Step> {
    let ObservedResources {
        log_group,
        image_repository,
        images: _,
        role,
        execution_role,
        run_definitions,
        task_definitions,
        discovery,
        service,
        // codeloc does not read the tags of a scalable target, so it could not find this one again.
        scaling: _,
    } = input.observed;
    let lacks = |tags: &Tags| is_owned(input, tags) && is_protected(tags) != protect;
    let tags = || TagChange::from(Tags::from([(PROTECT.to_owned(), protect.to_string())]));
    let mut steps = Vec::new();
    if let Some(observed) = log_group.as_ref().filter(|observed| lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::LogGroup(log_group::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(observed) = image_repository.as_ref().filter(|observed| lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::ImageRepository(image_repository::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(observed) = role.as_ref().filter(|observed| lacks(&observed.tags)) {
        steps.push(Step::Role(role::Change::Tag { name: observed.name.clone(), tags: tags() }));
    }
    if let Some(observed) = execution_role.as_ref().filter(|observed| lacks(&observed.tags)) {
        steps.push(Step::ExecutionRole(role::Change::Tag { name: observed.name.clone(), tags: tags() }));
    }
    if let Some(observed) = discovery.as_ref().filter(|observed| lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::Discovery(discovery::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(observed) = service.as_ref().filter(|observed| observed.exists() && lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::Service(service::Change::Tag { arn, name, tags: tags() }));
    }
    for observed in task_definitions.iter().filter(|observed| lacks(&observed.tags)) {
        steps.push(Step::TaskDefinition(task_definition::Change::Tag { arn: observed.arn.clone(), tags: tags() }));
    }
    for observed in run_definitions.iter().filter(|observed| lacks(&observed.tags)) {
        steps.push(Step::RunDefinition(run_definition::Change::Tag { arn: observed.arn.clone(), tags: tags() }));
    }
    steps
}

/// The same for everything that the config does not use any more: no diff compares its tags, and a leftover tag would protect the
/// location permanently. `compared` are the definitions whose tags a diff compares.
pub(super) fn of_leftovers(
    input: &Input<'_>,
    protect: bool,
    desired: &DesiredResources,
    compared: [Option<&task_definition::Observed>; 2],
) -> impl Iterator<Item = Step> {
    let is_leftover = move |step: &Step| match step {
        Step::ImageRepository(_) => desired.image_repository.is_none(),
        Step::ExecutionRole(_) => desired.execution_role.is_none(),
        Step::TaskDefinition(task_definition::Change::Tag { arn, .. })
        | Step::RunDefinition(run_definition::Change::Tag { arn, .. }) => {
            !compared.iter().flatten().any(|definition| definition.arn == *arn)
        }
        Step::LogGroup(_)
        | Step::Role(_)
        | Step::TaskDefinition(_)
        | Step::RunDefinition(_)
        | Step::Discovery(_)
        | Step::Service(_)
        | Step::Scaling(_)
        | Step::Workspace(_) => false,
    };
    steps(input, protect).into_iter().filter(is_leftover)
}

/// Whether a step writes this tag and nothing else.
pub(super) fn only_protects(step: &Step) -> bool {
    let tags = match step {
        Step::LogGroup(log_group::Change::Tag { tags, .. })
        | Step::ImageRepository(image_repository::Change::Tag { tags, .. })
        | Step::Role(role::Change::Tag { tags, .. })
        | Step::ExecutionRole(role::Change::Tag { tags, .. })
        | Step::TaskDefinition(task_definition::Change::Tag { tags, .. })
        | Step::RunDefinition(run_definition::Change::Tag { tags, .. })
        | Step::Discovery(discovery::Change::Tag { tags, .. })
        | Step::Service(service::Change::Tag { tags, .. }) => tags,
        Step::LogGroup(_)
        | Step::ImageRepository(_)
        | Step::Role(_)
        | Step::ExecutionRole(_)
        | Step::TaskDefinition(_)
        | Step::RunDefinition(_)
        | Step::Discovery(_)
        | Step::Service(_)
        | Step::Scaling(_)
        | Step::Workspace(_) => return false,
    };
    tags.remove.is_empty() && tags.set.len() == 1 && is_protected(&tags.set)
}

fn is_protected(tags: &Tags) -> bool {
    tags.get(PROTECT).is_some_and(|value| value == "true")
}
