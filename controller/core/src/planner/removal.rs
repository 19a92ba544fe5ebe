//! The plan for a location whose config is gone.
//!
//! Guarantees: codeloc deletes only resources that this deployment owns, in the reverse order of creation: the workspace entry first, and
//! everything that tasks use after the last task has stopped. Runs are tasks too, and may be queued in Dagster before ECS has a task of
//! them. A service that lost its tags keeps them too. A protected location keeps everything.

use super::ownership::is_owned;
use super::{Hold, Input, Plan, Runs, assess, protection};
use crate::resources::{
    ObservedResources, Step, discovery, image_repository, log_group, role, run_definition, scaling, service,
    task_definition, workspace,
};
use crate::tags::{self, TagChange, Tags};

const HOUR_MS: i64 = 60 * 60 * 1000;

pub(super) fn absent(input: &Input<'_>) -> Plan {
    let observed = input.observed;
    let service = observed.service.as_ref().filter(|service| service.exists() && is_owned(input, &service.tags));

    let mut steps = Vec::new();
    if input.workspace.entry.is_some() {
        steps.push(Step::Workspace(workspace::Change::Remove { name: input.name.clone() }));
    }
    // A scalable target belongs to the owner of its service. codeloc also deletes one whose service is gone.
    let foreign_service = observed.service.as_deref().is_some_and(service::Observed::exists) && service.is_none();
    if !foreign_service {
        steps.extend(observed.scaling.iter().map(|observed| Step::Scaling(scaling::delete(observed))));
    }
    let active = service.iter().filter(|service| service.status == service::Status::Active);
    steps.extend(active.map(|observed| Step::Service(service::delete(observed))));

    let used_by_tasks = used_by_tasks(input);
    let plan = if foreign_service && !used_by_tasks.is_empty() {
        Plan::of(steps, used_by_tasks, assess::used_by_a_foreign_service(input))
    } else if used_by_tasks.is_empty() {
        let report = assess::absent(service.is_some(), steps.is_empty());
        Plan::of(steps, vec![], report)
    } else if service.is_some() {
        Plan::of(steps, used_by_tasks, assess::absent(true, false))
    } else if may_affect_runs(input) && waits_for_runs(input) {
        steps.extend(mark(input));
        Plan::of(steps, used_by_tasks, assess::waiting_for_runs(input))
    } else {
        steps.extend(used_by_tasks);
        Plan::of(steps, vec![], assess::absent(false, false))
    };
    let is_reported = matches!(input.hold, Some(Hold::Protected | Hold::Left(_)));
    // After a restart, only the tags say what the config said.
    if protection::protected(input) && !is_reported { plan.held(&Hold::Protected) } else { plan }
}

/// Whether this plan deletes what runs need.
pub(super) fn may_affect_runs(input: &Input<'_>) -> bool {
    let service = input.observed.service.as_deref().is_some_and(service::Observed::exists);
    input.hold.is_none() && !service && !protection::protected(input) && !used_by_tasks(input).is_empty()
}

/// Whether a run may still need the resources. It needs the role most of all: without it, the run has failed already. After
/// [`crate::deployment::Deployment::run_wait_hours`], codeloc no longer waits, because a run that hangs must not keep a removed location
/// forever.
fn waits_for_runs(input: &Input<'_>) -> bool {
    let unfinished = match input.runs {
        Runs::None | Runs::Abandoned => false,
        Runs::NotAsked | Runs::Tasks(_) | Runs::Queued | Runs::Unknown(_) => true,
    };
    let limit_ms = i64::from(input.deployment.run_wait_hours) * HOUR_MS;
    let in_time = |role: &role::Observed| removed_at(input, role).is_none_or(|at| input.now_ms - at < limit_ms);
    // A role that lost its tags still serves the runs. codeloc cannot mark it, so the wait has no limit.
    let waits = |role: &role::Observed| !is_owned(input, &role.tags) || in_time(role);
    unfinished && input.observed.role.as_deref().is_some_and(waits)
}

fn own_role<'a>(input: &Input<'a>) -> Option<&'a role::Observed> {
    input.observed.role.as_deref().filter(|role| is_owned(input, &role.tags))
}

/// Since when codeloc waits for the runs. A time in the future is not codeloc's, or its clock was wrong.
fn removed_at(input: &Input<'_>, role: &role::Observed) -> Option<i64> {
    let at: Option<i64> = role.tags.get(tags::REMOVED_AT)?.parse().ok();
    at.filter(|at| (0..=input.now_ms).contains(at))
}

/// Remembers the start of the wait on the role, so that a restart does not begin it again.
fn mark(input: &Input<'_>) -> Option<Step> {
    let role = own_role(input).filter(|role| removed_at(input, role).is_none())?;
    let tags = Tags::from([(tags::REMOVED_AT.to_owned(), input.now_ms.to_string())]);
    Some(Step::Role(role::Change::Tag { name: role.name.clone(), tags: tags.into() }))
}

/// Ends the wait of an earlier removal: the config is back.
pub(super) fn unmark(input: &Input<'_>) -> Option<Step> {
    let role = own_role(input).filter(|role| role.tags.contains_key(tags::REMOVED_AT))?;
    let tags = TagChange { remove: [tags::REMOVED_AT.to_owned()].into(), set: Tags::new() };
    Some(Step::Role(role::Change::Tag { name: role.name.clone(), tags }))
}

/// Deletes everything that a task needs while it runs or stops.
fn used_by_tasks(input: &Input<'_>) -> Vec<Step> {
    let ObservedResources {
        log_group,
        image_repository,
        // Its repository is deleted with all images.
        images: _,
        role,
        execution_role,
        run_definitions,
        task_definitions,
        discovery,
        // Deleted before.
        service: _,
        scaling: _,
    } = input.observed;
    let mut steps = Vec::new();
    let owned = discovery.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(owned.map(|observed| Step::Discovery(discovery::delete(observed))));
    let owned = run_definitions.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(owned.map(|observed| Step::RunDefinition(run_definition::delete(observed))));
    let owned = task_definitions.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(
        owned.map(|observed| Step::TaskDefinition(task_definition::Change::Deregister { arn: observed.arn.clone() })),
    );
    let owned = execution_role.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(owned.map(|observed| Step::ExecutionRole(role::delete(observed))));
    let owned = role.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(owned.map(|observed| Step::Role(role::delete(observed))));
    let owned = image_repository.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(owned.map(|observed| Step::ImageRepository(image_repository::delete(observed))));
    let owned = log_group.iter().filter(|observed| is_owned(input, &observed.tags));
    steps.extend(owned.map(|observed| Step::LogGroup(log_group::delete(observed))));
    steps
}
