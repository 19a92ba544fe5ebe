//! ECS service: keeps a location's tasks running and replaces them with a rolling update and the circuit breaker.
//!
//! Guarantees: codeloc remembers a failed revision with a tag on the service and does not retry it, except after a transient failure. It sets
//! the desired count when it creates the service, and afterwards only without scaling.

mod settings;
pub mod stop_reason;
#[cfg(test)]
mod tests;

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Deferred, Description, Effect, Field};
use super::scaling;
use super::task_definition::{self, Attempt};
use super::tracked_fields::{Found, TrackedField};
use crate::deployment::Deployment;
use crate::ids::{Arn, Commit, Revision};
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

pub use settings::{DeploymentConfiguration, Network, ROLLING, ServiceOptions};
pub use stop_reason::FailureExcerpt;

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("task_definition", "the ARN of the running definition", UPDATE),
    TrackedField::new(
        "desired_count",
        "the count if minimum and maximum capacity are equal; otherwise it belongs to scaling",
        UPDATE,
    ),
    TrackedField::new("subnets", "in any order", UPDATE),
    TrackedField::new("security_groups", "in any order", UPDATE),
    TrackedField::new("assign_public_ip", "absent is `DISABLED`", UPDATE),
    TrackedField::new("circuit_breaker", "absent is off", UPDATE),
    TrackedField::new("rollback", "absent is off", UPDATE),
    TrackedField::new("minimum_healthy_percent", "absent is 100", UPDATE),
    TrackedField::new("maximum_percent", "absent is 200", UPDATE),
    TrackedField::new("strategy", "absent is `ROLLING`", UPDATE),
    TrackedField::new("registry", "the ARN of its Cloud Map service", UPDATE),
    TrackedField::new("capacity", "launch type `FARGATE`; a strategy with only `FARGATE` is the same", UPDATE),
    TrackedField::new("platform_version", "`LATEST`; absent and every version from 1.4.0 on are the same", UPDATE),
    TrackedField::new("propagate_tags", "absent is `NONE`", UPDATE),
    TrackedField::new("managed_tags", "absent is off", UPDATE),
    TrackedField::new("execute_command", "absent is off", UPDATE),
    TrackedField::new("health_check_grace_period", "seconds; absent is 0", UPDATE),
    TrackedField::new("zone_rebalancing", "absent is off", UPDATE),
    TrackedField::tags("ecs:TagResource", Found::NextSweep),
];

/// Milliseconds between attempts after a transient failure, which usually lasts minutes.
const RETRY_MS: i64 = 5 * 60 * 1000;

/// The replaced deployment of an attempt without a service.
const NO_DEPLOYMENT: &str = "-";

const UPDATE: &str = "ecs:UpdateService";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    /// The initial number of tasks: the minimum capacity.
    pub count: i32,
    /// Whether Application Auto Scaling owns the count afterwards.
    pub scaled: bool,
    pub network: Network,
    pub deployment: DeploymentConfiguration,
    pub options: ServiceOptions,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: Arn,
    pub name: String,
    pub status: Status,
    /// ARN.
    pub task_definition: Arn,
    pub desired_count: i32,
    pub running: i32,
    /// The primary deployment is the first one.
    pub deployments: Vec<ServiceDeployment>,
    pub network: Network,
    pub deployment: DeploymentConfiguration,
    pub options: ServiceOptions,
    /// ARN of the Cloud Map service.
    pub registry: Option<Arn>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    /// Deleted, but its tasks are still stopping. Its name is not available yet.
    Draining,
    /// Deleted. AWS still describes it for some time; codeloc treats it as absent.
    Inactive,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceDeployment {
    pub id: String,
    /// Milliseconds since 1970, by the clock of ECS.
    pub started_ms: i64,
    pub task_definition: Arn,
    pub rollout: Rollout,
    /// The message of ECS about the rollout.
    pub reason: String,
    pub desired_count: i32,
    pub running: i32,
    pub failed: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rollout {
    InProgress,
    Completed,
    Failed,
}

impl Observed {
    pub fn exists(&self) -> bool {
        self.status != Status::Inactive
    }

    pub fn primary(&self) -> Option<&ServiceDeployment> {
        self.deployments.first()
    }

    /// Whether the service runs this task definition, rolls it out or back, or remembers its failure. codeloc must then keep it.
    pub fn names(&self, definition: &task_definition::Observed) -> bool {
        self.task_definition == definition.arn
            || self.deployments.iter().any(|deployment| deployment.task_definition == definition.arn)
            || definition.revision_tag().is_some_and(|revision| self.remembers_failure_of(revision))
    }

    fn remembers_failure_of(&self, revision: &str) -> bool {
        self.tags.get(tags::FAILED_REVISION).is_some_and(|failed| failed == revision)
    }

    /// Whether the rollout of the definition that it runs has failed, and there is no earlier one to which ECS rolls back.
    pub(super) fn has_failed_for_good(
        &self,
        runs: &task_definition::Observed,
        all: &[Shared<task_definition::Observed>],
    ) -> bool {
        let remembered = runs.revision_tag().is_some_and(|revision| self.remembers_failure_of(revision));
        let failed = self.primary().is_some_and(|primary| primary.rollout == Rollout::Failed);
        remembered && failed && rolled_out(self, all).is_none()
    }

    /// The value of [`Attempt::over`] for a rollout that starts now.
    pub fn primary_id(&self) -> &str {
        self.primary().map_or(NO_DEPLOYMENT, |deployment| &deployment.id)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create {
        desired: Desired,
        task_definition: Deferred<Arn>,
        registry: Deferred<Arn>,
        revision: Deferred<Revision>,
    },
    Deploy {
        name: String,
        task_definition: Deferred<Arn>,
        from: Arn,
        revision: Deferred<Revision>,
    },
    Configure {
        name: String,
        network: Network,
        deployment: DeploymentConfiguration,
        options: ServiceOptions,
        /// The observed options. codeloc sends some options only if they differ.
        from: ServiceOptions,
        registry: Deferred<Arn>,
        fields: Vec<Field>,
    },
    /// Starts another rollout of the same revision.
    Redeploy {
        name: String,
        task_definition: Arn,
        reason: &'static str,
    },
    SetCount {
        name: String,
        from: i32,
        to: i32,
    },
    RememberFailed {
        arn: Arn,
        name: String,
        revision: Revision,
    },
    Tag {
        arn: Arn,
        name: String,
        tags: TagChange,
    },
    Delete {
        name: String,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::service(&location.name),
        count: scaling::count(location.scaling.min_capacity),
        scaled: location.scaling.min_capacity != location.scaling.max_capacity,
        network: Network::new(&deployment.subnets, &deployment.security_groups, deployment.assign_public_ip),
        deployment: ROLLING,
        options: ServiceOptions::ours(),
        tags: tags::desired(location, deployment),
    }
}

/// The state of the rollout of the desired revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The service does not exist or runs another revision: codeloc starts the rollout.
    Begin,
    /// An earlier service with the same name is still draining.
    Draining,
    Rolling(ServiceDeployment),
    Steady,
    /// The rollout failed. codeloc changes nothing until the config or the commit changes, or, after a transient failure, for some minutes.
    Failed {
        reason: String,
        transient: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    pub phase: Phase,
    pub changes: Vec<Change>,
    /// Whether codeloc must write an [`Attempt`] on the desired definition before these changes.
    pub attempts: bool,
}

/// How the last rollout of a definition ended, by `ListServiceDeployments`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// ECS rolls it back or has done so, by itself or because a person stopped it with a rollback.
    RolledBack,
    /// It was complete, another deployment replaced it, or it never started: someone else has changed the service since.
    NotRolledBack,
    /// ECS still reports it as in progress, although the service runs another definition: one of the reads is late.
    InProgress,
}

/// ECS keeps the records of a service's deployments for 90 days.
const RECORDS_MS: i64 = 89 * 24 * 60 * 60 * 1000;

/// The state of other kinds on which the changes depend.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub revision: &'a Deferred<Revision>,
    /// The registered definition with the desired content.
    pub registered: Option<&'a task_definition::Observed>,
    pub task_definitions: &'a [Shared<task_definition::Observed>],
    pub registry: &'a Deferred<Arn>,
    /// Whether a failed rollout failed for a transient reason.
    pub transient: bool,
    /// Whether the reason cannot be read now: then the failure is not remembered yet.
    pub unexplained: bool,
    /// What ECS has recorded about the last rollout of the registered definition, if [`suspects_rollback`].
    pub record: Option<Record>,
    /// Whether tasks have run for minutes and Cloud Map lists none of them.
    pub unregistered: bool,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

pub fn diff(desired: &Desired, observed: Option<&Observed>, context: Context<'_>) -> ServicePlan {
    let task_definition =
        context.registered.map_or(Deferred::AfterApply, |registered| Deferred::Known(registered.arn.clone()));
    let observed = match observed {
        None | Some(Observed { status: Status::Inactive, .. }) => {
            let (desired, registry, revision) = (desired.clone(), context.registry.clone(), context.revision.clone());
            let create = Change::Create { desired, task_definition, registry, revision };
            return ServicePlan { phase: Phase::Begin, changes: vec![create], attempts: false };
        }
        Some(Observed { status: Status::Draining, .. }) => {
            return ServicePlan { phase: Phase::Draining, changes: vec![], attempts: false };
        }
        Some(observed) => observed,
    };

    let mut changes = Vec::new();
    let missing = tags::missing(&observed.tags, &desired.tags);
    if !missing.is_empty() {
        changes.push(Change::Tag { arn: observed.arn.clone(), name: observed.name.clone(), tags: missing });
    }

    // Whatever becomes of the revision, the service itself is repaired: a failed rollout may have failed because of these settings.
    let mut repairs: Vec<Change> = configuration(desired, observed, context.registry).into_iter().collect();
    if !desired.scaled && observed.desired_count != desired.count {
        repairs.push(Change::SetCount { name: desired.name.clone(), from: observed.desired_count, to: desired.count });
    }
    let failed = context.revision.known().and_then(|revision| Some((revision, failure(observed, revision, context)?)));
    if let Some((revision, reason)) = failed {
        // Once the cause was known, another task that stopped for another reason does not change it.
        let remembered = observed.remembers_failure_of(revision.as_str());
        if remembered || !context.transient {
            let is_certain = !context.unexplained && context.record != Some(Record::InProgress);
            if is_certain && !remembered {
                let (arn, name, revision) = (observed.arn.clone(), observed.name.clone(), revision.clone());
                changes.push(Change::RememberFailed { arn, name, revision });
            }
            changes.extend(repairs);
            return ServicePlan { phase: Phase::Failed { reason, transient: false }, changes, attempts: false };
        }
        let may_retry = |registered: &&task_definition::Observed| {
            registered.attempt().is_none_or(|attempt| context.now_ms - attempt.at >= RETRY_MS)
        };
        changes.extend(repairs);
        let Some(registered) = context.registered.filter(may_retry) else {
            return ServicePlan { phase: Phase::Failed { reason, transient: true }, changes, attempts: false };
        };
        let (name, task_definition) = (desired.name.clone(), registered.arn.clone());
        let reason = "retrying after a transient failure";
        changes.push(Change::Redeploy { name, task_definition, reason });
        return ServicePlan { phase: Phase::Begin, changes, attempts: true };
    }

    changes.extend(repairs);
    if context.registered.is_some_and(|registered| registered.arn == observed.task_definition) {
        let phase = match observed.primary() {
            Some(primary) if primary.rollout == Rollout::InProgress => Phase::Rolling(primary.clone()),
            _ => Phase::Steady,
        };
        let revision = context.revision.known().filter(|_| phase == Phase::Steady);
        if revision.is_some_and(|revision| {
            observed.remembers_failure_of(revision.as_str()) && completed(observed, revision, context.task_definitions)
        }) {
            // Its next failure may be a transient one.
            let tags = TagChange { remove: [tags::FAILED_REVISION.to_owned()].into(), ..TagChange::default() };
            changes.push(Change::Tag { arn: observed.arn.clone(), name: observed.name.clone(), tags });
        }
        if phase == Phase::Steady && context.unregistered && changes.is_empty() {
            // ECS registers a task only when it starts, even if the registry was created again (terraform-provider-aws#46930).
            let (name, task_definition) = (desired.name.clone(), observed.task_definition.clone());
            let reason = "its tasks are running, but Cloud Map lists none of them";
            changes.push(Change::Redeploy { name, task_definition, reason });
        }
        return ServicePlan { phase, changes, attempts: false };
    }
    changes.push(Change::Deploy {
        name: desired.name.clone(),
        task_definition,
        from: observed.task_definition.clone(),
        revision: context.revision.clone(),
    });
    let attempted = context.registered.and_then(task_definition::Observed::attempt);
    let attempts = attempted.is_none_or(|attempt| attempt.over != observed.primary_id());
    ServicePlan { phase: Phase::Begin, changes, attempts }
}

/// Whether the rollout of any revision fails or failed. Cheaper than the phase of [`diff`], which needs the desired revision: without one of
/// these marks, the phase is neither [`Phase::Failed`] nor a rollout with failed tasks.
pub fn has_failures(observed: &Observed, definitions: &[Shared<task_definition::Observed>]) -> bool {
    let attempted = |one: &Shared<task_definition::Observed>| one.attempt().map(|attempt| attempt.at);
    let serving = definitions.iter().find(|one| one.arn == observed.task_definition).and_then(attempted);
    observed.tags.contains_key(tags::FAILED_REVISION)
        || observed.deployments.iter().any(|one| one.failed > 0 || one.rollout == Rollout::Failed)
        || definitions.iter().filter_map(attempted).max() > serving
}

/// Why the rollout of this revision failed, if it did.
fn failure(observed: &Observed, revision: &Revision, context: Context<'_>) -> Option<String> {
    if completed(observed, revision, context.task_definitions) {
        // The marks may come from an attempt based on a stale read.
        return None;
    }
    let registered = context.registered;
    let rolls_out = |registered: &task_definition::Observed| {
        let is_primary = |one: &ServiceDeployment| one.task_definition == registered.arn;
        observed.primary().is_some_and(|one| is_primary(one) && one.rollout == Rollout::InProgress)
    };
    if registered.is_some_and(rolls_out) {
        // Earlier failures do not count while the rollout is in progress.
        return None;
    }
    let failed = registered.and_then(|registered| {
        observed
            .deployments
            .iter()
            .find(|deployment| deployment.task_definition == registered.arn && deployment.rollout == Rollout::Failed)
    });
    if let Some(failed) = failed {
        return Some(failed.reason.clone());
    }
    // If the running definition was deregistered by hand, it may be this revision, and may have been complete after its failure.
    let is_known =
        registered.is_some() || context.task_definitions.iter().any(|one| one.arn == observed.task_definition);
    if is_known && observed.remembers_failure_of(revision.as_str()) {
        return Some("an earlier rollout of this revision failed".to_owned());
    }
    let suspected = registered.is_some_and(|registered| rolled_back(observed, registered, context.task_definitions));
    (suspected && context.record != Some(Record::NotRolledBack)).then(|| "ECS rolled this revision back".to_owned())
}

/// Whether only the records of ECS tell if it rolled the definition back: a person who updates the service leaves the same traces.
pub fn suspects_rollback(
    observed: &Observed,
    registered: &task_definition::Observed,
    all: &[Shared<task_definition::Observed>],
    now_ms: i64,
) -> bool {
    let remembered = registered.revision_tag().is_some_and(|revision| observed.remembers_failure_of(revision));
    let has_record = registered.attempt().is_some_and(|attempt| now_ms - attempt.at < RECORDS_MS);
    !remembered && has_record && rolled_back(observed, registered, all)
}

/// Whether the service runs a definition of this revision, and its rollout is complete.
fn completed(observed: &Observed, revision: &Revision, all: &[Shared<task_definition::Observed>]) -> bool {
    let runs = all.iter().find(|one| one.arn == observed.task_definition);
    runs.is_some_and(|one| one.is_revision(revision))
        && observed.primary().is_some_and(|primary| primary.rollout == Rollout::Completed)
}

/// Whether ECS seems to have rolled the definition back while no process was running: see [`Attempt`]. Without a service, there is nothing to roll back to.
/// A primary deployment from before the attempt did not replace it: the attempt was based on a stale read.
fn rolled_back(
    observed: &Observed,
    registered: &task_definition::Observed,
    all: &[Shared<task_definition::Observed>],
) -> bool {
    if registered.arn == observed.task_definition
        || observed.deployments.iter().any(|deployment| deployment.task_definition == registered.arn)
    {
        return false;
    }
    let attempt_of_serving =
        all.iter().find(|other| other.arn == observed.task_definition).and_then(|other| other.attempt());
    let (Some(attempt), Some(serving), Some(primary)) = (registered.attempt(), attempt_of_serving, observed.primary())
    else {
        return false;
    };
    attempt.over != NO_DEPLOYMENT
        && attempt.over != primary.id
        && attempt.at > serving.at
        && primary.started_ms > attempt.at
}

/// The last commit other than `current` that served: the one of the last complete rollout, or the one before it in [`tags::SERVED_BEFORE`].
pub fn served_before(
    observed: &Observed,
    all: &[Shared<task_definition::Observed>],
    current: Option<&Commit>,
) -> Option<Commit> {
    if !observed.exists() {
        return None;
    }
    let serving = rolled_out(observed, all);
    let primary =
        || all.iter().find(|one| observed.primary().is_some_and(|primary| primary.task_definition == one.arn));
    let before = serving.or_else(|| primary().map(|one| &**one))?.served_before();
    serving.and_then(task_definition::Observed::commit).into_iter().chain(before).find(|commit| Some(commit) != current)
}

/// The definition of the last complete rollout, which serves. During a rollback, it is the one to which ECS rolls back.
pub fn rolled_out<'a>(
    observed: &Observed,
    all: &'a [Shared<task_definition::Observed>],
) -> Option<&'a task_definition::Observed> {
    let definition = |deployment: &ServiceDeployment| all.iter().find(|one| one.arn == deployment.task_definition);
    let attempted = |deployment: &ServiceDeployment| definition(deployment)?.attempt().map(|attempt| attempt.at);
    let failed = observed.deployments.iter().filter(|one| one.rollout == Rollout::Failed).filter_map(attempted).max();
    // The target of a rollback was complete before, so it counts while the rollback is in progress.
    let is_complete = |one: &&ServiceDeployment| match one.rollout {
        Rollout::Completed => true,
        Rollout::InProgress => attempted(one).zip(failed).is_some_and(|(at, failed)| at < failed),
        Rollout::Failed => false,
    };
    observed.deployments.iter().find(is_complete).and_then(definition).map(|one| &**one)
}

fn configuration(desired: &Desired, observed: &Observed, registry: &Deferred<Arn>) -> Option<Change> {
    let observed_registry = observed.registry.as_ref().map_or_else(|| "none".to_owned(), Arn::to_string);
    let (network, deployment) = (&observed.network, &observed.deployment);
    let (desired_network, desired_deployment) = (&desired.network, &desired.deployment);
    let mut fields: Vec<Field> = [
        Field::differing("subnets", &network.subnets.join(", "), &desired_network.subnets.join(", ")),
        Field::differing(
            "security_groups",
            &network.security_groups.join(", "),
            &desired_network.security_groups.join(", "),
        ),
        Field::differing("assign_public_ip", &network.assign_public_ip, &desired_network.assign_public_ip),
        Field::differing("circuit_breaker", &deployment.circuit_breaker, &desired_deployment.circuit_breaker),
        Field::differing("rollback", &deployment.rollback, &desired_deployment.rollback),
        Field::differing(
            "minimum_healthy_percent",
            &deployment.minimum_healthy_percent,
            &desired_deployment.minimum_healthy_percent,
        ),
        Field::differing("maximum_percent", &deployment.maximum_percent, &desired_deployment.maximum_percent),
        Field::differing("registry", &observed_registry, &registry.to_string()),
    ]
    .into_iter()
    .flatten()
    .collect();
    fields.extend(observed.options.differing(&desired.options));
    (!fields.is_empty()).then(|| Change::Configure {
        name: desired.name.clone(),
        network: desired.network.clone(),
        deployment: desired.deployment,
        options: desired.options.clone(),
        from: observed.options.clone(),
        registry: registry.clone(),
        fields,
    })
}

pub fn delete(observed: &Observed) -> Change {
    Change::Delete { name: observed.name.clone() }
}

/// The mark for the task definition of a rollout that starts now.
pub fn attempt(observed: Option<&Observed>, served_before: Option<Commit>, now_ms: i64) -> Attempt {
    let over = observed.filter(|observed| observed.exists()).map_or(NO_DEPLOYMENT, Observed::primary_id).to_owned();
    Attempt { at: now_ms, over, served_before }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Create { .. } => Effect::CreatesAndRollsOut,
            Self::Configure { from, options, registry: Deferred::Known(_), .. }
                if from.capacity == options.capacity =>
            {
                Effect::Modifies
            }
            // ECS starts another deployment for another capacity or registry.
            Self::Configure { .. } | Self::Deploy { .. } | Self::Redeploy { .. } => Effect::RollsOut,
            Self::SetCount { .. } | Self::RememberFailed { .. } | Self::Tag { .. } | Self::Delete { .. } => {
                Effect::Modifies
            }
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Create { desired, task_definition, registry, revision } => Description::created(
                &desired.name,
                vec![
                    Field::set("task_definition", task_definition),
                    Field::set("revision", revision),
                    Field::set("desired_count", desired.count),
                    Field::set("subnets", desired.network.subnets.join(", ")),
                    Field::set("security_groups", desired.network.security_groups.join(", ")),
                    Field::set("registry", registry),
                    Field::set("tags", tags::render(&desired.tags)),
                ],
            ),
            Self::Deploy { name, task_definition, from, revision } => Description::updated(
                name,
                vec![Field::changed("task_definition", from, task_definition), Field::set("revision", revision)],
                "does not run the desired revision",
            ),
            Self::Configure { name, fields, .. } => {
                Description::updated(name, fields.clone(), "differs from the settings")
            }
            Self::Redeploy { name, task_definition, reason } => {
                Description::updated(name, vec![Field::set("task_definition", task_definition)], reason)
            }
            Self::SetCount { name, from, to } => {
                let reason = "minimum and maximum capacity are equal, so codeloc sets the task count itself";
                Description::updated(name, vec![Field::changed("desired_count", from, to)], reason)
            }
            Self::RememberFailed { name, revision, .. } => Description::updated(
                name,
                vec![Field::set("failed_revision", revision)],
                "the rollout failed, and this tag stops codeloc from retrying the revision",
            ),
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name } => Description::deleted(name),
        }
    }
}
