//! The plan for a location whose config is gone.
//!
//! Guarantees: codeloc deletes only resources that this deployment owns, in the reverse order of creation: the workspace entry first, and
//! everything that tasks use after the last task has stopped. A protected location keeps everything.

use super::ownership::is_owned;
use super::{Hold, Input, Plan, assess, protection};
use crate::resources::{
    ObservedResources, Step, discovery, image_repository, log_group, role, run_definition, scaling, service,
    task_definition, workspace,
};

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
    let later = if service.is_some() {
        used_by_tasks
    } else {
        steps.extend(used_by_tasks);
        vec![]
    };
    let report = assess::absent(service.is_some(), steps.is_empty() && later.is_empty());
    let plan = Plan::of(steps, later, report);
    let is_reported = matches!(input.hold, Some(Hold::Protected | Hold::Left(_)));
    // After a restart, only the tags say what the config said.
    if protection::protected(input) && !is_reported { plan.held(&Hold::Protected) } else { plan }
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
