//! The tag that keeps a location whose config is gone. It is codeloc's memory of the config's wish, and so is written where the config's mode
//! lets nothing else be changed.

use super::Input;
use crate::resources::{
    DesiredResources, Kind, ObservedResources, Step, discovery, image_repository, log_group, role, service,
};
use crate::tags::{self, Owner, PROTECT, Tags};

/// Whether any resource of a location says that it stays. Definitions are not asked: the tags of old ones are never written again.
pub(super) fn protected(observed: &ObservedResources) -> bool {
    observed.log_group.as_ref().is_some_and(|observed| is_protected(&observed.tags))
        || observed.image_repository.as_ref().is_some_and(|observed| is_protected(&observed.tags))
        || observed.role.iter().chain(&observed.execution_role).any(|observed| is_protected(&observed.tags))
        || observed.discovery.as_ref().is_some_and(|observed| is_protected(&observed.tags))
        || observed.service.as_ref().is_some_and(|observed| observed.exists() && is_protected(&observed.tags))
}

/// Writes the wish on every resource that is ours and does not say it yet.
pub(super) fn steps(input: &Input<'_>, protect: bool) -> Vec<Step> {
    let observed = input.observed;
    let lacks = |tags: &Tags| {
        tags::owner(tags, &input.deployment.id) == Owner::Ours(input.name) && (is_protected(tags) != protect)
    };
    let tags = || Tags::from([(PROTECT.to_owned(), protect.to_string())]);
    let mut steps = Vec::new();
    if let Some(observed) = observed.log_group.as_ref().filter(|observed| lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::LogGroup(log_group::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(observed) = observed.image_repository.as_ref().filter(|observed| lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::ImageRepository(image_repository::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(observed) = observed.role.as_ref().filter(|observed| lacks(&observed.tags)) {
        steps.push(Step::Role(role::Change::Tag { name: observed.name.clone(), tags: tags() }));
    }
    if let Some(observed) = observed.execution_role.as_ref().filter(|observed| lacks(&observed.tags)) {
        steps.push(Step::ExecutionRole(role::Change::Tag { name: observed.name.clone(), tags: tags() }));
    }
    if let Some(observed) = observed.discovery.as_ref().filter(|observed| lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::Discovery(discovery::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(observed) = observed.service.as_ref().filter(|observed| observed.exists() && lacks(&observed.tags)) {
        let (arn, name) = (observed.arn.clone(), observed.name.clone());
        steps.push(Step::Service(service::Change::Tag { arn, name, tags: tags() }));
    }
    steps
}

/// The same for what the config has no use for any more: nothing else compares its tags, and they would keep the location for good.
pub(super) fn of_leftovers(input: &Input<'_>, protect: bool, desired: &DesiredResources) -> impl Iterator<Item = Step> {
    let unused = [
        (Kind::ImageRepository, desired.image_repository.is_none()),
        (Kind::ExecutionRole, desired.execution_role.is_none()),
    ];
    steps(input, protect).into_iter().filter(move |step| unused.contains(&(step.kind(), true)))
}

/// Whether a step writes this tag and nothing else.
pub(super) fn only_protects(step: &Step) -> bool {
    match step {
        Step::LogGroup(log_group::Change::Tag { tags, .. })
        | Step::ImageRepository(image_repository::Change::Tag { tags, .. })
        | Step::Role(role::Change::Tag { tags, .. })
        | Step::ExecutionRole(role::Change::Tag { tags, .. })
        | Step::Discovery(discovery::Change::Tag { tags, .. })
        | Step::Service(service::Change::Tag { tags, .. }) => tags.len() == 1 && is_protected(tags),
        _ => false,
    }
}

fn is_protected(tags: &Tags) -> bool {
    tags.get(PROTECT).is_some_and(|value| value == "true")
}
