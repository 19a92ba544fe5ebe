//! The tag that keeps a location whose config is gone. It is codeloc's memory of the config's wish, and so is written where the config's mode
//! lets nothing else be changed.

use super::Input;
use crate::resources::{Kind, Live, Step, Wants, discovery, image_repository, log_group, role, service};
use crate::tags::{self, Owner, PROTECT, Tags};

/// Whether any resource of a location says that it stays. Definitions are not asked: the tags of old ones are never written again.
pub(super) fn protected(live: &Live) -> bool {
    live.log_group.as_ref().is_some_and(|live| says(&live.tags))
        || live.image_repository.as_ref().is_some_and(|live| says(&live.tags))
        || live.role.iter().chain(&live.execution_role).any(|live| says(&live.tags))
        || live.discovery.as_ref().is_some_and(|live| says(&live.tags))
        || live.service.as_ref().is_some_and(|live| live.exists() && says(&live.tags))
}

/// Writes the wish on every resource that is ours and does not say it yet.
pub(super) fn steps(input: &Input<'_>, protect: bool) -> Vec<Step> {
    let live = input.live;
    let lacks =
        |tags: &Tags| tags::owner(tags, &input.place.deployment) == Owner::Ours(input.name) && (says(tags) != protect);
    let tags = || Tags::from([(PROTECT.to_owned(), protect.to_string())]);
    let mut steps = Vec::new();
    if let Some(live) = live.log_group.as_ref().filter(|live| lacks(&live.tags)) {
        let (arn, name) = (live.arn.clone(), live.name.clone());
        steps.push(Step::LogGroup(log_group::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(live) = live.image_repository.as_ref().filter(|live| lacks(&live.tags)) {
        let (arn, name) = (live.arn.clone(), live.name.clone());
        steps.push(Step::ImageRepository(image_repository::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(live) = live.role.as_ref().filter(|live| lacks(&live.tags)) {
        steps.push(Step::Role(role::Change::Tag { name: live.name.clone(), tags: tags() }));
    }
    if let Some(live) = live.execution_role.as_ref().filter(|live| lacks(&live.tags)) {
        steps.push(Step::ExecutionRole(role::Change::Tag { name: live.name.clone(), tags: tags() }));
    }
    if let Some(live) = live.discovery.as_ref().filter(|live| lacks(&live.tags)) {
        let (arn, name) = (live.arn.clone(), live.name.clone());
        steps.push(Step::Discovery(discovery::Change::Tag { arn, name, tags: tags() }));
    }
    if let Some(live) = live.service.as_ref().filter(|live| live.exists() && lacks(&live.tags)) {
        let (arn, name) = (live.arn.clone(), live.name.clone());
        steps.push(Step::Service(service::Change::Tag { arn, name, tags: tags() }));
    }
    steps
}

/// The same for what the config has no use for any more: nothing else compares its tags, and they would keep the location for good.
pub(super) fn of_leftovers(input: &Input<'_>, protect: bool, wants: &Wants) -> impl Iterator<Item = Step> {
    let unused = [
        (Kind::ImageRepository, wants.image_repository.is_none()),
        (Kind::ExecutionRole, wants.execution_role.is_none()),
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
        | Step::Service(service::Change::Tag { tags, .. }) => tags.len() == 1 && says(tags),
        _ => false,
    }
}

fn says(tags: &Tags) -> bool {
    tags.get(PROTECT).is_some_and(|value| value == "true")
}
