//! ECS service: keeps a location's tasks running and replaces them by rolling update, with the circuit breaker on.
//!
//! Guarantees: a revision whose rollout failed is remembered on the service and not tried again; the desired count is
//! set when the service is made and is then left to scaling, where there is any. A rollout that failed through no fault of its revision is
//! tried again.

mod settings;
pub mod stop_reason;
#[cfg(test)]
mod tests;

use codeloc_crds::Repository;
use serde::Serialize;

use super::drift::{Found, Watched};
use super::task_definition::{self, Attempt};
use super::{Deferred, Description, Field, scaling};
use crate::names;
use crate::place::Place;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub use settings::{DeploymentConfiguration, Manner, Network, ROLLING};

pub const WATCHED: &[Watched] = &[
    Watched::new("task_definition", "the ARN of what it runs", UPDATE),
    Watched::new(
        "desired_count",
        "the count, where minimum and maximum of the config are equal; elsewhere it belongs to scaling",
        UPDATE,
    ),
    Watched::new("subnets", "in any order", UPDATE),
    Watched::new("security_groups", "in any order", UPDATE),
    Watched::new("assign_public_ip", "absent is `DISABLED`", UPDATE),
    Watched::new("circuit_breaker", "absent is off", UPDATE),
    Watched::new("rollback", "absent is off", UPDATE),
    Watched::new("minimum_healthy_percent", "absent is 100", UPDATE),
    Watched::new("maximum_percent", "absent is 200", UPDATE),
    Watched::new("strategy", "absent is `ROLLING`", UPDATE),
    Watched::new("registry", "the ARN of its Cloud Map service", UPDATE),
    Watched::new("capacity", "launch type `FARGATE`; a strategy of nothing but `FARGATE` is the same", UPDATE),
    Watched::new("platform_version", "`LATEST`; absent, and every number from 1.4.0 on, are the same", UPDATE),
    Watched::new("propagate_tags", "absent is `NONE`", UPDATE),
    Watched::new("managed_tags", "absent is off", UPDATE),
    Watched::new("execute_command", "absent is off", UPDATE),
    Watched::new("health_check_grace_period", "seconds; absent is 0", UPDATE),
    Watched::new("zone_rebalancing", "absent is off", UPDATE),
    Watched::tags("ecs:TagResource", Found::NextSweep),
];

/// Milliseconds from one attempt to the next, where the circumstances were to blame: they last minutes.
const TRY_AGAIN_MS: i64 = 5 * 60 * 1000;

/// What an attempt is over where there is no service.
const NO_DEPLOYMENT: &str = "-";

const UPDATE: &str = "ecs:UpdateService";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub name: String,
    /// Tasks to begin with: the minimum capacity.
    pub count: i32,
    /// Whether Application Auto Scaling owns the count from then on.
    pub scaled: bool,
    pub network: Network,
    pub deployment: DeploymentConfiguration,
    pub manner: Manner,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    pub arn: String,
    pub name: String,
    pub status: Status,
    /// ARN.
    pub task_definition: String,
    pub desired: i32,
    pub running: i32,
    /// The primary one first.
    pub deployments: Vec<Deployment>,
    pub network: Network,
    pub deployment: DeploymentConfiguration,
    pub manner: Manner,
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
pub struct Deployment {
    pub id: String,
    /// Milliseconds since 1970, by ECS's clock.
    pub begun_ms: i64,
    pub task_definition: String,
    pub rollout: Rollout,
    /// ECS's own words on the rollout.
    pub reason: String,
    pub desired: i32,
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

impl Live {
    pub fn exists(&self) -> bool {
        self.status != Status::Inactive
    }

    pub fn primary(&self) -> Option<&Deployment> {
        self.deployments.first()
    }

    /// Whether it runs this task definition, rolls it out or back, or remembers that it failed: tasks may start from it, or somebody
    /// asks why it did not work.
    pub fn names(&self, definition: &task_definition::Live) -> bool {
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
        want: Want,
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
        manner: Manner,
        /// What of that is only sent where it differs.
        from: Manner,
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

pub fn want(repository: &Repository, place: &Place) -> Want {
    Want {
        name: names::service(repository.name.as_str()),
        count: scaling::count(repository.scaling.min_capacity),
        scaled: repository.scaling.min_capacity != repository.scaling.max_capacity,
        network: Network::new(&place.subnets, &place.security_groups, place.assign_public_ip),
        deployment: ROLLING,
        manner: Manner::ours(),
        tags: tags::wanted(repository, place),
    }
}

/// Where a service stands with respect to the revision that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not there, or about to be given the wanted revision.
    Begin,
    /// Deleted before, and not gone yet.
    Draining,
    Rolling(Deployment),
    Steady,
    /// The wanted revision failed; the service stays with what it has until the spec or the commit changes, or for a while, where
    /// what it failed of `passes`.
    Held {
        reason: String,
        passes: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
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
    pub wanted: Option<&'a task_definition::Live>,
    pub task_definitions: &'a [Shared<task_definition::Live>],
    pub registry: &'a Deferred,
    /// Whether what a failed rollout is known to have failed of was not its revision's fault.
    pub passes: bool,
    /// Whether tasks run and none of them has been in Cloud Map for long.
    pub unregistered: bool,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

pub fn diff(want: &Want, live: Option<&Live>, context: Context<'_>) -> Verdict {
    let task_definition = context.wanted.map_or(Deferred::AfterApply, |wanted| Deferred::Known(wanted.arn.clone()));
    let live = match live {
        None | Some(Live { status: Status::Inactive, .. }) => {
            let (want, registry, revision) = (want.clone(), context.registry.clone(), context.revision.clone());
            let create = Change::Create { want, task_definition, registry, revision };
            return Verdict { phase: Phase::Begin, changes: vec![create], attempts: false };
        }
        Some(Live { status: Status::Draining, .. }) => {
            return Verdict { phase: Phase::Draining, changes: vec![], attempts: false };
        }
        Some(live) => live,
    };

    let mut changes = Vec::new();
    let missing = tags::missing(&live.tags, &want.tags);
    if !missing.is_empty() {
        changes.push(Change::Tag { arn: live.arn.clone(), name: live.name.clone(), tags: missing });
    }

    if let Some(reason) = failure(live, context) {
        if !context.passes {
            let revision = context.revision.known().unwrap_or_default().to_owned();
            if live.tags.get(tags::FAILED_REVISION) != Some(&revision) {
                changes.push(Change::RememberFailed { arn: live.arn.clone(), name: live.name.clone(), revision });
            }
            return Verdict { phase: Phase::Held { reason, passes: false }, changes, attempts: false };
        }
        let long_ago = |wanted: &&task_definition::Live| {
            wanted.attempt().is_none_or(|attempt| context.now_ms - attempt.at >= TRY_AGAIN_MS)
        };
        let Some(wanted) = context.wanted.filter(long_ago) else {
            return Verdict { phase: Phase::Held { reason, passes: true }, changes, attempts: false };
        };
        let (name, task_definition) = (want.name.clone(), wanted.arn.clone());
        let reason = "it failed of something that passes: it is tried again";
        changes.push(Change::Redeploy { name, task_definition, reason });
        return Verdict { phase: Phase::Begin, changes, attempts: true };
    }

    changes.extend(configuration(want, live, context.registry));
    if !want.scaled && live.desired != want.count {
        changes.push(Change::SetCount { name: want.name.clone(), from: live.desired, to: want.count });
    }
    if context.wanted.is_some_and(|wanted| wanted.arn == live.task_definition) {
        let phase = match live.primary() {
            Some(primary) if primary.rollout == Rollout::InProgress => Phase::Rolling(primary.clone()),
            _ => Phase::Steady,
        };
        if phase == Phase::Steady && context.unregistered && changes.is_empty() {
            // ECS registers only tasks that start, also in a registry that was made anew (terraform-provider-aws#46930).
            let (name, task_definition) = (want.name.clone(), live.task_definition.clone());
            let reason = "its tasks run, and none of them is in Cloud Map";
            changes.push(Change::Redeploy { name, task_definition, reason });
        }
        return Verdict { phase, changes, attempts: false };
    }
    changes.push(Change::Deploy {
        name: want.name.clone(),
        task_definition,
        from: live.task_definition.clone(),
        revision: context.revision.clone(),
    });
    let attempted = context.wanted.and_then(task_definition::Live::attempt);
    let attempts = attempted.is_none_or(|attempt| attempt.over != live.primary_id());
    Verdict { phase: Phase::Begin, changes, attempts }
}

/// Why the wanted revision must not be tried again, if it failed before.
fn failure(live: &Live, context: Context<'_>) -> Option<String> {
    let revision = context.revision.known()?;
    if completed(live, revision, context.task_definitions) {
        // Whatever the marks say: they may come from an attempt over a state that was read too late.
        return None;
    }
    let wanted = context.wanted;
    let rolls = |wanted: &task_definition::Live| {
        live.primary().is_some_and(|one| one.task_definition == wanted.arn && one.rollout == Rollout::InProgress)
    };
    if wanted.is_some_and(rolls) {
        // However it went before: how it goes now is not known yet.
        return None;
    }
    let remembered = live.tags.get(tags::FAILED_REVISION).is_some_and(|failed| failed == revision);
    let failed = wanted.and_then(|wanted| {
        live.deployments
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
        .is_some_and(|wanted| rolled_back(live, wanted, context.task_definitions))
        .then(|| "ECS rolled it back".to_owned())
}

/// Whether a definition of this very revision is what the service runs, rolled out whole.
fn completed(live: &Live, revision: &str, all: &[Shared<task_definition::Live>]) -> bool {
    let runs = all.iter().find(|one| one.arn == live.task_definition).and_then(|one| one.revision());
    runs == Some(revision) && live.primary().is_some_and(|primary| primary.rollout == Rollout::Completed)
}

/// Whether `wanted` was rolled out and replaced by an older one while nobody looked: see [`Attempt`]. Over no service nothing is rolled
/// back to; and a deployment that was there before the attempt replaced nothing of it: the attempt was written over a state that was
/// read too late.
fn rolled_back(live: &Live, wanted: &task_definition::Live, all: &[Shared<task_definition::Live>]) -> bool {
    if wanted.arn == live.task_definition
        || live.deployments.iter().any(|deployment| deployment.task_definition == wanted.arn)
    {
        return false;
    }
    let attempt_of_serving =
        all.iter().find(|other| other.arn == live.task_definition).and_then(|other| other.attempt());
    let (Some(attempt), Some(serving), Some(primary)) = (wanted.attempt(), attempt_of_serving, live.primary()) else {
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
    live: &Live,
    all: &'a [Shared<task_definition::Live>],
    present: Option<&str>,
) -> Option<&'a str> {
    if !live.exists() {
        return None;
    }
    let serving = rolled_out(live, all);
    let primary = || all.iter().find(|one| live.primary().is_some_and(|primary| primary.task_definition == one.arn));
    let before = serving.or_else(|| primary().map(|one| &**one))?.served_before();
    serving.and_then(|one| one.commit()).into_iter().chain(before).find(|commit| Some(*commit) != present)
}

/// What was rolled out whole last, and so serves; also while ECS rolls back to it.
pub fn rolled_out<'a>(live: &Live, all: &'a [Shared<task_definition::Live>]) -> Option<&'a task_definition::Live> {
    let definition = |deployment: &Deployment| all.iter().find(|one| one.arn == deployment.task_definition);
    let attempted = |deployment: &Deployment| definition(deployment)?.attempt().map(|attempt| attempt.at);
    let failed = live.deployments.iter().filter(|one| one.rollout == Rollout::Failed).filter_map(attempted).max();
    // ECS rolls back to what was whole before: that counts from its first moment on.
    let whole = |one: &&Deployment| match one.rollout {
        Rollout::Completed => true,
        Rollout::InProgress => attempted(one).zip(failed).is_some_and(|(at, failed)| at < failed),
        Rollout::Failed => false,
    };
    live.deployments.iter().find(whole).and_then(definition).map(|one| &**one)
}

fn configuration(want: &Want, live: &Live, registry: &Deferred) -> Option<Change> {
    let live_registry = live.registry.clone().unwrap_or_else(|| "none".to_owned());
    let (network, deployment) = (&live.network, &live.deployment);
    let (wanted, rolling) = (&want.network, &want.deployment);
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
    fields.extend(live.manner.differing(&want.manner));
    (!fields.is_empty()).then(|| Change::Configure {
        name: want.name.clone(),
        network: want.network.clone(),
        deployment: want.deployment,
        manner: want.manner.clone(),
        from: live.manner.clone(),
        registry: registry.clone(),
        fields,
    })
}

pub fn delete(live: &Live) -> Change {
    Change::Delete { name: live.name.clone() }
}

/// The mark a rollout that begins now leaves on its task definition.
pub fn attempt(live: Option<&Live>, served_before: Option<&str>, now_ms: i64) -> Attempt {
    let over = live.filter(|live| live.exists()).map_or(NO_DEPLOYMENT, Live::primary_id).to_owned();
    Attempt { at: now_ms, over, served_before: served_before.map(str::to_owned) }
}

impl Change {
    pub fn describe(&self) -> Description {
        match self {
            Self::Create { want, task_definition, registry, revision } => Description::created(
                &want.name,
                vec![
                    Field::set("task_definition", task_definition),
                    Field::set("revision", revision),
                    Field::set("desired_count", want.count),
                    Field::set("subnets", want.network.subnets.join(", ")),
                    Field::set("security_groups", want.network.security_groups.join(", ")),
                    Field::set("registry", registry),
                    Field::set("tags", tags::render(&want.tags)),
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
