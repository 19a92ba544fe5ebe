//! Task definition of a location's runs: its image, its role, its environment and its log group, so that each run is a task of its own
//! in the location's own room. Dagster's launcher is pointed at it by the code server's container context.
//!
//! Guarantees: the family's name is made of a hash of what the definition says. So the code server can name it before it is registered,
//! a queued run keeps the definition of the moment it was created, and one that was lost comes back under its name.

use codeloc_crds::Repository;
use serde::Serialize;
use serde_json::json;

use super::drift::{Found, Watched};
use super::task_definition::{self, Content, Live};
use super::{Description, Field};
use crate::image::Image;
use crate::names;
use crate::place::Place;
use crate::shared::Shared;
use crate::tags::{self, Tags};

/// The one container of a run's task: the launcher puts the run's command into it.
pub const CONTAINER: &str = "run";

/// Seconds between SIGTERM and SIGKILL: the most that Fargate gives, for a run that has something to put away.
const STOP_TIMEOUT: i32 = 120;

pub const WATCHED: &[Watched] = &[
    Watched::new(
        "content",
        "the newest revision of the family that the code server names says what its name stands for, in every field that a code \
         server's definition has",
        "ecs:RegisterTaskDefinition",
    ),
    Watched::tags("ecs:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub family: String,
    pub content: Content,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Register {
        want: Box<Want>,
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

impl Want {
    /// See [`task_definition::kept_otherwise`].
    pub fn kept_otherwise(&self, live: &[Shared<Live>]) -> Option<String> {
        task_definition::kept_otherwise(&self.content, self.tags.get(tags::REVISION)?, live)
    }
}

pub fn want(repository: &Repository, image: &Image, place: &Place) -> Want {
    let name = repository.name.as_str();
    let (cpu, memory) = resources(repository);
    let mut content = Content {
        cpu,
        memory,
        architecture: task_definition::architecture(repository, place),
        task_role_arn: super::role::arn(repository, place),
        execution_role_arn: super::role::execution_arn(repository, place),
        image: image.reference.clone(),
        command: vec![],
        environment: task_definition::shared_environment(repository, image, place),
        secrets: task_definition::secrets(repository, place),
        container: CONTAINER.to_owned(),
        port: None,
        log_group: names::log_group(&place.deployment, name),
        log_region: place.region.clone(),
        log_stream_prefix: String::new(),
        health_check: None,
        stop_timeout: STOP_TIMEOUT,
    };
    let hash = task_definition::revision(&content);
    content.log_stream_prefix = format!("runs/{hash}");
    let mut tags = tags::wanted(repository, place);
    tags.insert(tags::REVISION.to_owned(), hash.clone());
    Want { family: names::run_family(&place.deployment, name, &hash), content, tags }
}

fn resources(repository: &Repository) -> (String, String) {
    let server = repository.resources;
    let (cpu, memory) = repository.run_resources.map_or((server.cpu, server.memory), |run| (run.cpu, run.memory));
    (cpu.to_string(), memory.to_string())
}

/// What the code server hands on to the launcher: where to find the definition. Everything else is in there.
pub fn container_context(repository: &Repository, run: &Want) -> String {
    let (cpu, memory) = resources(repository);
    json!({"ecs": {
        "task_definition_arn": run.family,
        "container_name": CONTAINER,
        "run_resources": {"cpu": cpu, "memory": memory},
    }})
    .to_string()
}

/// `live` is every run definition of the location, of whatever family. A launcher takes a family's newest revision.
pub fn diff(want: &Want, live: &[Shared<Live>]) -> Vec<Change> {
    let newest = live.iter().filter(|live| live.family() == want.family).max_by_key(|live| live.number);
    let equal = newest.filter(|live| live.says(&want.content));
    let Some(equal) = equal else {
        return vec![Change::Register { want: Box::new(want.clone()), again: newest.is_some() }];
    };
    let missing = tags::missing(&equal.tags, &want.tags);
    if missing.is_empty() { vec![] } else { vec![Change::Tag { arn: equal.arn.clone(), tags: missing }] }
}

pub fn delete(live: &Live) -> Change {
    Change::Deregister { arn: live.arn.clone() }
}

impl Change {
    pub fn describe(&self) -> Description {
        match self {
            Self::Register { want, again: false } => Description::created(
                &want.family,
                vec![
                    Field::set("image", &want.content.image),
                    Field::set("cpu", &want.content.cpu),
                    Field::set("memory", &want.content.memory),
                    Field::set("task_role", &want.content.task_role_arn),
                    Field::set("log_group", &want.content.log_group),
                ],
            ),
            Self::Register { want, again: true } => Description::updated(
                &want.family,
                vec![Field::set("content", "registered again")],
                "the newest revision of its family says something else",
            ),
            Self::Tag { arn, tags } => Description::tagged(arn, tags),
            Self::Deregister { arn } => Description::deleted(arn),
        }
    }
}
