//! Task definition of a location's runs: its image, its role, its environment and its log group, so that each run is a task of its own
//! in the location's own room. Dagster's launcher is pointed at it by the code server's container context.
//!
//! Guarantees: the family's name is made of a hash of what the definition says. So the code server can name it before it is registered,
//! a queued run keeps the definition of the moment it was created, and one that was lost comes back under its name.

use codeloc_crds::Location;
use serde::Serialize;
use serde_json::json;

use super::drift::{Found, TrackedField};
use super::task_definition::{self, Content, Observed};
use super::{Description, Effect, Field};
use crate::deployment::Deployment;
use crate::image::Image;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

/// The one container of a run's task: the launcher puts the run's command into it.
pub const CONTAINER: &str = "run";

/// Seconds between SIGTERM and SIGKILL: the most that Fargate gives, for a run that has something to put away.
const STOP_TIMEOUT: i32 = 120;

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new(
        "content",
        "the newest revision of the family that the code server names says what its name stands for, in every field that a code \
         server's definition has",
        "ecs:RegisterTaskDefinition",
    ),
    TrackedField::tags("ecs:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub family: String,
    pub content: Content,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Register {
        desired: Box<Desired>,
        /// Whether somebody registered another revision of this family.
        again: bool,
    },
    Tag {
        arn: String,
        tags: Tags,
    },
    Deregister {
        arn: String,
    },
}

impl Desired {
    /// See [`task_definition::aws_mismatch`].
    pub fn aws_mismatch(&self, observed: &[Shared<Observed>]) -> Option<String> {
        task_definition::aws_mismatch(&self.content, self.tags.get(tags::REVISION)?, observed)
    }
}

pub fn desired(location: &Location, image: &Image, deployment: &Deployment) -> Desired {
    let name = location.name.as_str();
    let (cpu, memory) = resources(location);
    let mut content = Content {
        cpu,
        memory,
        architecture: task_definition::architecture(location, deployment),
        task_role_arn: super::role::arn(location, deployment),
        execution_role_arn: super::role::execution_arn(location, deployment),
        image: image.reference.clone(),
        command: vec![],
        environment: task_definition::shared_environment(location, image, deployment),
        secrets: task_definition::secrets(location, deployment),
        container: CONTAINER.to_owned(),
        port: None,
        log_group: names::log_group(&deployment.id, name),
        log_region: deployment.region.clone(),
        log_stream_prefix: String::new(),
        health_check: None,
        stop_timeout: STOP_TIMEOUT,
    };
    let hash = task_definition::revision(&content);
    content.log_stream_prefix = format!("runs/{hash}");
    let mut tags = tags::wanted(location, deployment);
    tags.insert(tags::REVISION.to_owned(), hash.clone());
    Desired { family: names::run_family(&deployment.id, name, &hash), content, tags }
}

fn resources(location: &Location) -> (String, String) {
    let server = location.resources;
    let (cpu, memory) = location.run_resources.map_or((server.cpu, server.memory), |run| (run.cpu, run.memory));
    (cpu.to_string(), memory.to_string())
}

/// What the code server hands on to the launcher: where to find the definition. Everything else is in there.
pub fn container_context(location: &Location, run: &Desired) -> String {
    let (cpu, memory) = resources(location);
    json!({"ecs": {
        "task_definition_arn": run.family,
        "container_name": CONTAINER,
        "run_resources": {"cpu": cpu, "memory": memory},
    }})
    .to_string()
}

/// The newest revision of the desired family: a launcher uses that one.
fn newest<'a>(desired: &Desired, observed: &'a [Shared<Observed>]) -> Option<&'a Observed> {
    let family = observed.iter().filter(|observed| observed.family() == desired.family);
    family.max_by_key(|observed| observed.number).map(|observed| &**observed)
}

/// The definition that runs use, if it has the desired content.
pub fn equal<'a>(desired: &Desired, observed: &'a [Shared<Observed>]) -> Option<&'a Observed> {
    newest(desired, observed).filter(|observed| observed.matches(&desired.content))
}

/// `observed` contains the location's run definitions of all families.
pub fn diff(desired: &Desired, observed: &[Shared<Observed>]) -> Vec<Change> {
    let Some(equal) = equal(desired, observed) else {
        let again = newest(desired, observed).is_some();
        return vec![Change::Register { desired: Box::new(desired.clone()), again }];
    };
    let missing = tags::missing(&equal.tags, &desired.tags);
    if missing.is_empty() { vec![] } else { vec![Change::Tag { arn: equal.arn.clone(), tags: missing }] }
}

pub fn delete(observed: &Observed) -> Change {
    Change::Deregister { arn: observed.arn.clone() }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Register { .. } => Effect::Creates,
            Self::Tag { .. } | Self::Deregister { .. } => Effect::Modifies,
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Register { desired, again: false } => Description::created(
                &desired.family,
                vec![
                    Field::set("image", &desired.content.image),
                    Field::set("cpu", &desired.content.cpu),
                    Field::set("memory", &desired.content.memory),
                    Field::set("task_role", &desired.content.task_role_arn),
                    Field::set("log_group", &desired.content.log_group),
                ],
            ),
            Self::Register { desired, again: true } => Description::updated(
                &desired.family,
                vec![Field::set("content", "registered again")],
                "the newest revision of its family says something else",
            ),
            Self::Tag { arn, tags } => Description::tagged(arn, tags),
            Self::Deregister { arn } => Description::deleted(arn),
        }
    }
}
