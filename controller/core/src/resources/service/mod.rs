//! ECS service: keeps a location's tasks running and replaces them by rolling update, with the circuit breaker on.
//!
//! Guarantees: a revision whose rollout failed is remembered on the service and not tried again; the desired count is
//! set when the service is made and is then left to scaling, where there is any. A rollout that failed through no fault of its revision is
//! tried again.

mod settings;
pub mod stop_reason;
#[cfg(test)]
mod tests;

use codeloc_crds::Location;
use serde::Serialize;

use super::drift::{Found, TrackedField};
use super::task_definition::{self, Attempt};
use super::{Deferred, Description, Effect, Field, scaling};
use crate::deployment::Deployment;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub use settings::{DeploymentConfiguration, Network, ROLLING, ServiceOptions};

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("task_definition", "the ARN of what it runs", UPDATE),
    TrackedField::new(
        "desired_count",
        "the count, where minimum and maximum of the config are equal; elsewhere it belongs to scaling",
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
    TrackedField::new("capacity", "launch type `FARGATE`; a strategy of nothing but `FARGATE` is the same", UPDATE),
    TrackedField::new("platform_version", "`LATEST`; absent, and every number from 1.4.0 on, are the same", UPDATE),
    TrackedField::new("propagate_tags", "absent is `NONE`", UPDATE),
    TrackedField::new("managed_tags", "absent is off", UPDATE),
    TrackedField::new("execute_command", "absent is off", UPDATE),
    TrackedField::new("health_check_grace_period", "seconds; absent is 0", UPDATE),
    TrackedField::new("zone_rebalancing", "absent is off", UPDATE),
    TrackedField::tags("ecs:TagResource", Found::NextSweep),
];

/// Milliseconds from one attempt to the next, where the circumstances were to blame: they last minutes.
const TRY_AGAIN_MS: i64 = 5 * 60 * 1000;

/// What an attempt is over where there is no service.
const NO_DEPLOYMENT: &str = "-";

const UPDATE: &str = "ecs:UpdateService";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    /// Tasks to begin with: the minimum capacity.
    pub count: i32,
    /// Whether Application Auto Scaling owns the count from then on.
    pub scaled: bool,
    pub network: Network,
    pub deployment: DeploymentConfiguration,
    pub options: ServiceOptions,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: String,
    pub name: String,
    pub status: Status,
    /// ARN.
    pub task_definition: String,
    pub desired_count: i32,
    pub running: i32,
    /// The primary one first.
    pub deployments: Vec<ServiceDeployment>,
    pub network: Network,
    pub deployment: DeploymentConfiguration,
    pub options: ServiceOptions,
    /// ARN of the Cloud Map service.
    pub registry: Option<String>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    /// Deleted, with tasks still ending. Its name is not free yet.
    Draining,
    /// Deleted. AWS still describes it for a while; it counts as absent.
    Inactive,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceDeployment {
    pub id: String,
    /// Milliseconds since 1970, by ECS's clock.
    pub begun_ms: i64,
    pub task_definition: String,
    pub rollout: Rollout,
    /// ECS's own words on the rollout.
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

    /// Whether it runs this task definition, rolls it out or back, or remembers that it failed: tasks may start from it, or somebody
    /// asks why it did not work.
    pub fn names(&self, definition: &task_definition::Observed) -> bool {
        let failed = self.tags.get(tags::FAILED_REVISION);
        self.task_definition == definition.arn
            || self.deployments.iter().any(|deployment| deployment.task_definition == definition.arn)
            || failed.is_some_and(|failed| definition.revision() == Some(failed))
    }

    /// What [`Attempt::over`] says of a rollout that begins now.
    pub fn primary_id(&self) -> &str {
        self.primary().map_or(NO_DEPLOYMENT, |deployment| &deployment.id)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create {
        desired: Desired,
        task_definition: Deferred,
        registry: Deferred,
        revision: Deferred,
    },
    Deploy {
        name: String,
        task_definition: Deferred,
        from: String,
        revision: Deferred,
    },
    Configure {
        name: String,
        network: Network,
        deployment: DeploymentConfiguration,
        options: ServiceOptions,
        /// What of that is only sent where it differs.
        from: ServiceOptions,
        registry: Deferred,
        fields: Vec<Field>,
    },
    /// The same revision anew.
    Redeploy {
        name: String,
        task_definition: String,
        reason: &'static str,
    },
    SetCount {
        name: String,
        from: i32,
        to: i32,
    },
    RememberFailed {
        arn: String,
        name: String,
        revision: String,
    },
    Tag {
        arn: String,
        name: String,
        tags: Tags,
    },
    Delete {
        name: String,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::service(location.name.as_str()),
        count: scaling::count(location.scaling.min_capacity),
        scaled: location.scaling.min_capacity != location.scaling.max_capacity,
        network: Network::new(&deployment.subnets, &deployment.security_groups, deployment.assign_public_ip),
        deployment: ROLLING,
        options: ServiceOptions::ours(),
        tags: tags::wanted(location, deployment),
    }
}

/// Where a service stands with respect to the revision that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not there, or about to be given the wanted revision.
    Begin,
    /// Deleted before, and not gone yet.
    Draining,
    Rolling(ServiceDeployment),
    Steady,
    /// The wanted revision failed; the service stays with what it has until the spec or the commit changes, or for a while, where
    /// what it failed of `passes`.
    Held {
        reason: String,
        passes: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    pub phase: Phase,
    pub changes: Vec<Change>,
    /// Whether the wanted revision has to be marked as attempted (registered so, or tagged) before these changes.
    pub attempts: bool,
}

/// What of the other kinds decides a service's change.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub revision: &'a Deferred,
    /// The live task definition that says what is wanted.
    pub wanted: Option<&'a task_definition::Observed>,
    pub task_definitions: &'a [Shared<task_definition::Observed>],
    pub registry: &'a Deferred,
    /// Whether what a failed rollout is known to have failed of was not its revision's fault.
    pub passes: bool,
    /// Whether tasks run and none of them has been in Cloud Map for long.
    pub unregistered: bool,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

pub fn diff(desired: &Desired, observed: Option<&Observed>, context: Context<'_>) -> ServicePlan {
    let task_definition = context.wanted.map_or(Deferred::AfterApply, |wanted| Deferred::Known(wanted.arn.clone()));
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

    if let Some(reason) = failure(observed, context) {
        if !context.passes {
            let revision = context.revision.known().unwrap_or_default().to_owned();
            if observed.tags.get(tags::FAILED_REVISION) != Some(&revision) {
                changes.push(Change::RememberFailed {
                    arn: observed.arn.clone(),
                    name: observed.name.clone(),
                    revision,
                });
            }
            return ServicePlan { phase: Phase::Held { reason, passes: false }, changes, attempts: false };
        }
        let long_ago = |wanted: &&task_definition::Observed| {
            wanted.attempt().is_none_or(|attempt| context.now_ms - attempt.at >= TRY_AGAIN_MS)
        };
        let Some(wanted) = context.wanted.filter(long_ago) else {
            return ServicePlan { phase: Phase::Held { reason, passes: true }, changes, attempts: false };
        };
        let (name, task_definition) = (desired.name.clone(), wanted.arn.clone());
        let reason = "it failed of something that passes: it is tried again";
        changes.push(Change::Redeploy { name, task_definition, reason });
        return ServicePlan { phase: Phase::Begin, changes, attempts: true };
    }

    changes.extend(configuration(desired, observed, context.registry));
    if !desired.scaled && observed.desired_count != desired.count {
        changes.push(Change::SetCount { name: desired.name.clone(), from: observed.desired_count, to: desired.count });
    }
    if context.wanted.is_some_and(|wanted| wanted.arn == observed.task_definition) {
        let phase = match observed.primary() {
            Some(primary) if primary.rollout == Rollout::InProgress => Phase::Rolling(primary.clone()),
            _ => Phase::Steady,
        };
        if phase == Phase::Steady && context.unregistered && changes.is_empty() {
            // ECS registers only tasks that start, also in a registry that was made anew (terraform-provider-aws#46930).
            let (name, task_definition) = (desired.name.clone(), observed.task_definition.clone());
            let reason = "its tasks run, and none of them is in Cloud Map";
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
    let attempted = context.wanted.and_then(task_definition::Observed::attempt);
    let attempts = attempted.is_none_or(|attempt| attempt.over != observed.primary_id());
    ServicePlan { phase: Phase::Begin, changes, attempts }
}

/// Why the wanted revision must not be tried again, if it failed before.
fn failure(observed: &Observed, context: Context<'_>) -> Option<String> {
    let revision = context.revision.known()?;
    if completed(observed, revision, context.task_definitions) {
        // Whatever the marks say: they may come from an attempt over a state that was read too late.
        return None;
    }
    let wanted = context.wanted;
    let rolls = |wanted: &task_definition::Observed| {
        observed.primary().is_some_and(|one| one.task_definition == wanted.arn && one.rollout == Rollout::InProgress)
    };
    if wanted.is_some_and(rolls) {
        // However it went before: how it goes now is not known yet.
        return None;
    }
    let remembered = observed.tags.get(tags::FAILED_REVISION).is_some_and(|failed| failed == revision);
    let failed = wanted.and_then(|wanted| {
        observed
            .deployments
            .iter()
            .find(|deployment| deployment.task_definition == wanted.arn && deployment.rollout == Rollout::Failed)
    });
    if let Some(failed) = failed {
        return Some(failed.reason.clone());
    }
    if remembered {
        return Some("its rollout failed before".to_owned());
    }
    wanted
        .is_some_and(|wanted| rolled_back(observed, wanted, context.task_definitions))
        .then(|| "ECS rolled it back".to_owned())
}

/// Whether a definition of this very revision is what the service runs, rolled out whole.
fn completed(observed: &Observed, revision: &str, all: &[Shared<task_definition::Observed>]) -> bool {
    let runs = all.iter().find(|one| one.arn == observed.task_definition).and_then(|one| one.revision());
    runs == Some(revision) && observed.primary().is_some_and(|primary| primary.rollout == Rollout::Completed)
}

/// Whether `wanted` was rolled out and replaced by an older one while nobody looked: see [`Attempt`]. Over no service nothing is rolled
/// back to; and a deployment that was there before the attempt replaced nothing of it: the attempt was written over a state that was
/// read too late.
fn rolled_back(
    observed: &Observed,
    wanted: &task_definition::Observed,
    all: &[Shared<task_definition::Observed>],
) -> bool {
    if wanted.arn == observed.task_definition
        || observed.deployments.iter().any(|deployment| deployment.task_definition == wanted.arn)
    {
        return false;
    }
    let attempt_of_serving =
        all.iter().find(|other| other.arn == observed.task_definition).and_then(|other| other.attempt());
    let (Some(attempt), Some(serving), Some(primary)) = (wanted.attempt(), attempt_of_serving, observed.primary())
    else {
        return false;
    };
    attempt.over != NO_DEPLOYMENT
        && attempt.over != primary.id
        && attempt.at > serving.at
        && primary.begun_ms > attempt.at
}

/// The last commit other than `present` that is known to have served: what was rolled out whole, or else what served before that, as
/// [`tags::SERVED_BEFORE`] remembers it.
pub fn served_before<'a>(
    observed: &Observed,
    all: &'a [Shared<task_definition::Observed>],
    present: Option<&str>,
) -> Option<&'a str> {
    if !observed.exists() {
        return None;
    }
    let serving = rolled_out(observed, all);
    let primary =
        || all.iter().find(|one| observed.primary().is_some_and(|primary| primary.task_definition == one.arn));
    let before = serving.or_else(|| primary().map(|one| &**one))?.served_before();
    serving.and_then(|one| one.commit()).into_iter().chain(before).find(|commit| Some(*commit) != present)
}

/// What was rolled out whole last, and so serves; also while ECS rolls back to it.
pub fn rolled_out<'a>(
    observed: &Observed,
    all: &'a [Shared<task_definition::Observed>],
) -> Option<&'a task_definition::Observed> {
    let definition = |deployment: &ServiceDeployment| all.iter().find(|one| one.arn == deployment.task_definition);
    let attempted = |deployment: &ServiceDeployment| definition(deployment)?.attempt().map(|attempt| attempt.at);
    let failed = observed.deployments.iter().filter(|one| one.rollout == Rollout::Failed).filter_map(attempted).max();
    // ECS rolls back to what was whole before: that counts from its first moment on.
    let whole = |one: &&ServiceDeployment| match one.rollout {
        Rollout::Completed => true,
        Rollout::InProgress => attempted(one).zip(failed).is_some_and(|(at, failed)| at < failed),
        Rollout::Failed => false,
    };
    observed.deployments.iter().find(whole).and_then(definition).map(|one| &**one)
}

fn configuration(desired: &Desired, observed: &Observed, registry: &Deferred) -> Option<Change> {
    let live_registry = observed.registry.clone().unwrap_or_else(|| "none".to_owned());
    let (network, deployment) = (&observed.network, &observed.deployment);
    let (wanted, rolling) = (&desired.network, &desired.deployment);
    let mut fields: Vec<Field> = [
        Field::differing("subnets", &network.subnets.join(", "), &wanted.subnets.join(", ")),
        Field::differing("security_groups", &network.security_groups.join(", "), &wanted.security_groups.join(", ")),
        Field::differing("assign_public_ip", &network.assign_public_ip, &wanted.assign_public_ip),
        Field::differing("circuit_breaker", &deployment.circuit_breaker, &rolling.circuit_breaker),
        Field::differing("rollback", &deployment.rollback, &rolling.rollback),
        Field::differing(
            "minimum_healthy_percent",
            &deployment.minimum_healthy_percent,
            &rolling.minimum_healthy_percent,
        ),
        Field::differing("maximum_percent", &deployment.maximum_percent, &rolling.maximum_percent),
        Field::differing("registry", &live_registry, &registry.to_string()),
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

/// The mark a rollout that begins now leaves on its task definition.
pub fn attempt(observed: Option<&Observed>, served_before: Option<&str>, now_ms: i64) -> Attempt {
    let over = observed.filter(|observed| observed.exists()).map_or(NO_DEPLOYMENT, Observed::primary_id).to_owned();
    Attempt { at: now_ms, over, served_before: served_before.map(str::to_owned) }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Create { .. } => Effect::CreatesAndRollsOut,
            Self::Deploy { .. } | Self::Redeploy { .. } => Effect::RollsOut,
            Self::Configure { .. }
            | Self::SetCount { .. }
            | Self::RememberFailed { .. }
            | Self::Tag { .. }
            | Self::Delete { .. } => Effect::Modifies,
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
                "another revision is wanted",
            ),
            Self::Configure { name, fields, .. } => {
                Description::updated(name, fields.clone(), "differs from the settings")
            }
            Self::Redeploy { name, task_definition, reason } => {
                Description::updated(name, vec![Field::set("task_definition", task_definition)], reason)
            }
            Self::SetCount { name, from, to } => Description::updated(
                name,
                vec![Field::changed("desired_count", from, to)],
                "there is no scaling that would own the count",
            ),
            Self::RememberFailed { name, revision, .. } => Description::updated(
                name,
                vec![Field::set("failed_revision", revision)],
                "its rollout failed: it is not tried again",
            ),
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name } => Description::deleted(name),
        }
    }
}
