//! The plan for a location with a valid config: one diff per kind, in the order of creation.
//!
//! Guarantees: a step comes after everything that it needs. While the image is unknown, codeloc changes only what needs no image, and shows
//! the rest as later steps.

use std::time::Duration;

use super::ownership::{is_owned, not_owned};
use super::{Input, Plan, Report, assess, garbage, protection, readiness, removal};
use crate::desired::{Desired, DesiredLocation};
use crate::ids::{Arn, Revision};
use crate::resources::service::stop_reason::is_transient;
use crate::resources::service::{self, FailureExcerpt, Phase, ServicePlan};
use crate::resources::task_definition::{self, Attempt};
use crate::resources::task_form::FORMS;
use crate::resources::{
    Deferred, DesiredResources, ObservedResources, Step, discovery, image_repository, log_group, role, run_definition,
    scaling, workspace,
};
use crate::shared::Shared;
use crate::status::Sync;

/// ECS registers a task in Cloud Map within seconds of its start.
const UNREGISTERED: Duration = Duration::from_secs(5 * 60);

pub(super) fn present(input: &Input<'_>, location: &DesiredLocation) -> Plan {
    let not_owned = not_owned(input, location.config.adopt);
    if !not_owned.is_empty() {
        return Plan::nothing(assess::not_owned(input, &not_owned));
    }
    let observed = input.observed;
    let known = location.image.image();
    let desired =
        DesiredResources::matching(&location.config, known, &kept_permissions(input), input.deployment, observed);
    let DesiredResources {
        log_group,
        image_repository,
        role,
        execution_role,
        run_definition,
        task_definition,
        discovery,
        // Its steps are in the service plan.
        service: _,
        scaling,
    } = &desired;

    let mut steps = Vec::new();
    steps.extend(log_group::diff(log_group, observed.log_group.as_deref()).into_iter().map(Step::LogGroup));
    if let Some(desired) = image_repository {
        let changes = image_repository::diff(desired, observed.image_repository.as_deref());
        steps.extend(changes.into_iter().map(Step::ImageRepository));
    }
    steps.extend(role::diff(role, observed.role.as_deref()).into_iter().map(Step::Role));
    steps.extend(removal::unmark(input));
    if let Some(desired) = execution_role {
        steps.extend(role::diff(desired, observed.execution_role.as_deref()).into_iter().map(Step::ExecutionRole));
    }

    // Everything from the task definition on needs the image.
    let registered = task_definition::equal(task_definition, &observed.task_definitions, observed.runs());
    let service_plan = service_plan(input, &desired);
    let failed = matches!(service_plan.phase, Phase::Failed { .. });
    let desired_run = run_definition.as_ref().filter(|_| !failed);
    let registered_run = desired_run.and_then(|desired| run_definition::equal(desired, &observed.run_definitions));
    steps.extend(protection::of_leftovers(input, location.config.protect, &desired, [registered, registered_run]));

    let mismatch = task_definition.aws_mismatch(&observed.task_definitions).filter(|_| !failed);
    let mut deploy = Vec::new();
    match registered {
        None if !failed && mismatch.is_none() => {
            deploy.push(Step::TaskDefinition(register(input, task_definition)));
        }
        Some(registered) if service_plan.attempts => {
            deploy.push(Step::TaskDefinition(attempt(input, task_definition, registered)));
        }
        _ => {}
    }
    let untagged = registered.and_then(|registered| task_definition::tag(task_definition, registered));
    deploy.extend(untagged.map(Step::TaskDefinition));
    deploy.extend(discovery::diff(discovery, observed.discovery.as_deref()).into_iter().map(Step::Discovery));
    let scaling_steps: Vec<Step> = scaling::diff(scaling.as_ref(), observed.scaling.as_deref(), active_count(observed))
        .into_iter()
        .map(Step::Scaling)
        .collect();
    let service = service_plan.changes.into_iter().map(Step::Service);
    let service: Vec<Step> = service.filter(|step| mismatch.is_none() || !step.rolls_out()).collect();
    // The rollout starts before the run definition is registered: runs need it only after the new revision serves.
    let run_mismatch = run_definition.as_ref().and_then(|desired| desired.aws_mismatch(&observed.run_definitions));
    let runs = desired_run.into_iter().flat_map(|desired| run_steps(desired, observed, run_mismatch.is_some()));
    let runs = runs.chain(serving_run_steps(input, location, registered));
    // A scalable target overrides the count: delete it before codeloc sets the count, and create it after the service.
    if scaling.is_none() {
        deploy.extend(scaling_steps);
        deploy.extend(service);
        deploy.extend(runs);
    } else {
        deploy.extend(service);
        deploy.extend(runs);
        deploy.extend(scaling_steps);
    }

    let revision = task_definition.revision.known();
    let ready = readiness::ready(input, revision);
    let workspace_step = readiness::change(input, ready.as_ref(), revision);

    let mut later = Vec::new();
    if service_plan.phase == Phase::Draining {
        later.extend(deploy);
    } else if known.is_some() {
        steps.extend(deploy);
    } else {
        let repairs = repairs(input, location, &desired);
        later.extend(deploy.into_iter().filter(|step| !repairs.contains(step)));
        steps.extend(repairs);
    }
    match workspace_step {
        Some(change) => steps.push(Step::Workspace(change)),
        // codeloc publishes it after a task answers.
        None if ready.is_none() && input.workspace.entry.is_none() && !failed => {
            later.push(Step::Workspace(publish(input)));
        }
        None => {}
    }
    let aws_mismatch = mismatch.or(run_mismatch);
    let (reported, steps): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(Step::is_report_only);
    let synced = steps.is_empty() && later.is_empty() && aws_mismatch.is_none();
    let report = assess::present(input, &location.image, &desired, &service_plan.phase, ready.as_ref(), synced);
    let report = report_unchangeable(report, &reported, aws_mismatch.as_deref());
    later.extend(reported);
    let mut plan = Plan { aws_mismatch, ..Plan::of(steps, later, report) };
    if plan.is_settled() {
        plan.collects = true;
        plan.garbage = garbage::garbage(input, execution_role.is_some());
    }
    plan
}

/// Repairs the service with the definition that it runs, or ran last, while the desired image is unknown: what serves must not wait for a
/// build or for a git host.
fn repairs(input: &Input<'_>, location: &DesiredLocation, desired: &DesiredResources) -> Vec<Step> {
    let observed = input.observed;
    let Some(Repair { registered, plan, .. }) = repair(input, desired) else { return vec![] };
    let mut steps: Vec<Step> =
        discovery::diff(&desired.discovery, observed.discovery.as_deref()).into_iter().map(Step::Discovery).collect();
    if let (Some(registered), true) = (registered, plan.attempts) {
        let served_before = observed.served_before(registered.commit().as_ref());
        steps.push(Step::TaskDefinition(task_definition::Change::Attempt {
            arn: registered.arn.clone(),
            attempt: service::attempt(observed.service.as_deref(), served_before, input.now_ms),
            fields: vec![],
        }));
    }
    let service = plan.changes.into_iter().map(Step::Service);
    let scaling = scaling::diff(desired.scaling.as_ref(), observed.scaling.as_deref(), active_count(observed))
        .into_iter()
        .map(Step::Scaling);
    // A scalable target overrides the count: delete it before codeloc sets the count, and create it after the service.
    if desired.scaling.is_none() {
        steps.extend(scaling);
        steps.extend(service);
    } else {
        steps.extend(service);
        steps.extend(scaling);
    }
    steps.extend(serving_run_steps(input, location, None));
    steps
}

/// The part of [`repairs`] for the ECS service.
pub(super) struct Repair<'a> {
    /// The definition with which the service is repaired. Without one, because a person deregistered it, only its settings are.
    registered: Option<&'a task_definition::Observed>,
    pub revision: Option<Revision>,
    pub plan: ServicePlan,
}

pub(super) fn repair<'a>(input: &Input<'a>, desired: &DesiredResources) -> Option<Repair<'a>> {
    let observed = input.observed;
    let registered = observed.repairable();
    let is_foreign = registered.is_some_and(|one| !is_owned(input, &one.tags));
    let nothing_ran = registered.is_none() && !observed.service.as_deref().is_some_and(service::Observed::exists);
    if is_foreign || nothing_ran {
        return None;
    }
    let revision = registered.and_then(task_definition::Observed::revision);
    let (known, registry) = (revision.clone().map_or(Deferred::AfterApply, Deferred::Known), registry(observed));
    let context = service_context(input, &known, registered, &registry);
    let mut plan = service::diff(&desired.service, observed.service.as_deref(), context);
    if revision.is_none() {
        plan.changes
            .retain(|change| !matches!(change, service::Change::Create { .. } | service::Change::Deploy { .. }));
    }
    Some(Repair { registered, revision, plan })
}

/// Registers the run definition that the serving revision names, if it is lost: until the desired revision serves, runs start from that one.
/// `registered` is the definition with the desired content.
fn serving_run_steps(
    input: &Input<'_>,
    location: &DesiredLocation,
    registered: Option<&task_definition::Observed>,
) -> Vec<Step> {
    let serving = input.observed.serving().filter(|serving| registered.is_none_or(|one| one.arn != serving.arn));
    let Some((image, family)) = serving.and_then(|one| Some((&one.content.as_ref()?.image, one.run_family()?))) else {
        return vec![];
    };
    let in_form = |form| run_definition::desired(&location.config, image, input.deployment, form);
    // Another family means that the config has changed since: then its content is not known.
    let desired = FORMS.iter().map(in_form).find(|desired| desired.family == family);
    let changes = desired.map(|desired| run_definition::diff(&desired, &input.observed.run_definitions));
    let is_lost =
        |change: &run_definition::Change| matches!(change, run_definition::Change::Register { again: false, .. });
    changes.into_iter().flatten().filter(is_lost).map(Step::RunDefinition).collect()
}

/// The desired count of the service; absent while there is no active one.
fn active_count(observed: &ObservedResources) -> Option<i32> {
    let service = observed.service.as_ref().filter(|service| service.status == service::Status::Active);
    service.map(|service| service.desired_count)
}

fn registry(observed: &ObservedResources) -> Deferred<Arn> {
    observed.discovery.as_ref().map_or(Deferred::AfterApply, |observed| Deferred::Known(observed.arn.clone()))
}

/// What the definitions need that serve, roll out, or that a queued run may start from.
fn kept_permissions(input: &Input<'_>) -> role::Kept {
    let service = input.observed.service.as_ref().filter(|service| service.exists());
    let is_named = |one: &&Shared<task_definition::Observed>| service.is_some_and(|service| service.names(one));
    let servers = input.observed.task_definitions.iter().filter(is_named);
    let named = servers.chain(&input.observed.run_definitions).map(|one| &**one).chain(input.observed.repairable());
    let named = named.filter(|one| is_owned(input, &one.tags));
    let mut kept = role::Kept::default();
    named.filter_map(|one| one.content.as_ref()).for_each(|content| kept.add(content));
    kept
}

fn publish(input: &Input<'_>) -> workspace::Change {
    let (host, port) = (readiness::host(input.deployment, input.name), input.deployment.port);
    workspace::Change::Publish { name: input.name.clone(), host, port, from: None }
}

/// Steps for the definition of runs. If `mismatch`, another registration would not help.
fn run_steps(
    desired: &run_definition::Desired,
    observed: &ObservedResources,
    mismatch: bool,
) -> impl Iterator<Item = Step> {
    let registers = |change: &run_definition::Change| matches!(change, run_definition::Change::Register { .. });
    let changes = run_definition::diff(desired, &observed.run_definitions).into_iter();
    changes.filter(move |change| !(mismatch && registers(change))).map(Step::RunDefinition)
}

/// Reports a difference that no step removes, unless codeloc still waits for something else.
fn report_unchangeable(mut report: Report, reported: &[Step], aws_mismatch: Option<&str>) -> Report {
    if let (Some(first), None) = (reported.first(), report.look_again) {
        report.sync = Sync::OutOfSync;
        let description = first.describe();
        report.message = format!("{} {}: {}", first.kind().title(), description.name, description.reason);
    }
    if let Some(mismatch) = aws_mismatch {
        mismatch.clone_into(&mut report.message);
    }
    report
}

fn register(input: &Input<'_>, desired: &task_definition::Desired) -> task_definition::Change {
    let runs = input.observed.runs();
    task_definition::Change::Register {
        desired: Box::new(desired.clone()),
        from: runs.map(|runs| task_definition::differing(desired, Some(runs))),
        attempt: new_attempt(input, desired),
    }
}

/// The part of the plan for the ECS service, and the phase of its rollout.
pub(super) fn service_plan(input: &Input<'_>, desired: &DesiredResources) -> ServicePlan {
    let observed = input.observed;
    let (revision, registry) = (&desired.task_definition.revision, registry(observed));
    let registered = task_definition::equal(&desired.task_definition, &observed.task_definitions, observed.runs());
    service::diff(
        &desired.service,
        observed.service.as_deref(),
        service_context(input, revision, registered, &registry),
    )
}

fn service_context<'a>(
    input: &Input<'a>,
    revision: &'a Deferred<Revision>,
    registered: Option<&'a task_definition::Observed>,
    registry: &'a Deferred<Arn>,
) -> service::Context<'a> {
    service::Context {
        revision,
        registered,
        task_definitions: &input.observed.task_definitions,
        registry,
        transient: input.failure_excerpt.is_some_and(|excerpt| is_transient(excerpt, builds_image(input))),
        unexplained: input.failure_excerpt.is_some_and(FailureExcerpt::is_unexplained),
        record: input.record,
        unregistered: is_unregistered(input),
        now_ms: input.now_ms,
    }
}

fn builds_image(input: &Input<'_>) -> bool {
    matches!(input.desired, Desired::Present(location) if location.config.image.is_none())
}

/// Marks a registered definition before its rollout starts.
fn attempt(
    input: &Input<'_>,
    desired: &task_definition::Desired,
    registered: &task_definition::Observed,
) -> task_definition::Change {
    task_definition::Change::Attempt {
        arn: registered.arn.clone(),
        attempt: new_attempt(input, desired),
        fields: task_definition::differing(desired, input.observed.runs()),
    }
}

fn new_attempt(input: &Input<'_>, desired: &task_definition::Desired) -> Attempt {
    let served_before = input.observed.served_before(desired.commit().as_ref());
    service::attempt(input.observed.service.as_deref(), served_before, input.now_ms)
}

/// Whether tasks have run for minutes and Cloud Map has listed none of them in that time. Tasks that fail one after another are listed
/// most of the time.
fn is_unregistered(input: &Input<'_>) -> bool {
    let runs = input.observed.service.as_ref().is_some_and(|service| service.exists() && service.running > 0);
    runs && input.observed.discovery.is_some() && input.answers.is_empty() && input.unlisted_for >= UNREGISTERED
}
