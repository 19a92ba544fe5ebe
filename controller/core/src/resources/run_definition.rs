//! Task definition of a location's runs: each run is a separate task with the image, role, environment and log group of its location.
//! The code server's container context tells Dagster's launcher to use it.
//!
//! Guarantees: the name of the family contains a hash of the content. The code server can therefore name it before it is registered, a queued
//! run keeps the definition from the moment of its creation, and codeloc registers a lost one again under the same name.

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Description, Effect, Field};
use super::task_form::Form;
use super::task_spec::{self, Content, Observed};
use super::tracked_fields::{Found, TrackedField};
use crate::arns;
use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

/// The one container of a run's task. The launcher sets its command.
pub const CONTAINER: &str = "run";

/// Seconds between SIGTERM and SIGKILL: Fargate's maximum, so that a run has time to clean up.
const STOP_TIMEOUT: i32 = 120;

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new(
        "content",
        "the same fields as for a code server, in the newest revision of the family that the code server names",
        "ecs:RegisterTaskDefinition",
    )
    .in_turns(),
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
        /// Whether the family has a revision with other content.
        again: bool,
    },
    Tag {
        arn: Arn,
        tags: TagChange,
    },
    Deregister {
        arn: Arn,
    },
}

impl Desired {
    /// See [`task_spec::aws_mismatch`].
    pub fn aws_mismatch(&self, observed: &[Shared<Observed>]) -> Option<String> {
        task_spec::aws_mismatch(&self.content, &self.tags.get(tags::REVISION)?.as_str().into(), observed)
    }
}

/// `image` is the reference of the image.
pub fn desired(location: &Location, image: &str, deployment: &Deployment, form: &Form) -> Desired {
    let (cpu, memory) = resources(location);
    let mut content = Content {
        cpu,
        memory,
        architecture: task_spec::architecture(location, deployment),
        task_role_arn: arns::role(location, deployment),
        execution_role_arn: arns::execution_role(location, deployment),
        image: image.to_owned(),
        command: vec![],
        environment: task_spec::shared_environment(location, image, deployment),
        secrets: task_spec::secrets(location, deployment),
        container: CONTAINER.to_owned(),
        port: None,
        log_group: names::log_group(&deployment.id, &location.name),
        log_region: deployment.region.clone(),
        log_stream_prefix: String::new(),
        health_check: None,
        stop_timeout: STOP_TIMEOUT,
    };
    let hash = form.settle(&mut content);
    content.log_stream_prefix = format!("runs/{hash}");
    let mut tags = tags::desired(location, deployment);
    tags.insert(tags::REVISION.to_owned(), hash.to_string());
    Desired { family: names::run_family(&deployment.id, &location.name, &hash), content, tags }
}

fn resources(location: &Location) -> (String, String) {
    let server = location.resources;
    let (cpu, memory) = location.run_resources.map_or((server.cpu, server.memory), |run| (run.cpu, run.memory));
    (cpu.to_string(), memory.to_string())
}

/// The value that the code server passes to the launcher. It names the definition, which contains everything else.
pub fn container_context(location: &Location, run: &Desired) -> String {
    // The text is part of the revision, so its order must not depend on the features of serde_json.
    #[derive(Serialize)]
    struct Context<'a> {
        ecs: Ecs<'a>,
    }
    #[derive(Serialize)]
    struct Ecs<'a> {
        task_definition_arn: &'a str,
        container_name: &'a str,
        run_resources: Sizes,
    }
    #[derive(Serialize)]
    struct Sizes {
        cpu: String,
        memory: String,
    }
    let (cpu, memory) = resources(location);
    let ecs = Ecs { task_definition_arn: &run.family, container_name: CONTAINER, run_resources: Sizes { cpu, memory } };
    serde_json::to_string(&Context { ecs }).expect("plain data serialises")
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
                "the newest revision of its family has other content",
            ),
            Self::Tag { arn, tags } => Description::tagged(arn, tags),
            Self::Deregister { arn } => Description::deleted(arn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::task_form::NEWEST;
    use super::*;
    use crate::fixtures::{deployment, image, location};

    fn observed(desired: &Desired, number: i32) -> Observed {
        let arn = Arn::from(format!("arn:task-definition/{}:{number}", desired.family));
        let (content, tags) = (Some(desired.content.clone()), desired.tags.clone().into());
        Observed { arn, number, content, foreign: vec![], tags }
    }

    #[test]
    fn a_launcher_uses_the_newest_revision_of_the_family() {
        let desired = desired(&location(512, 1, None), &image(1).reference, &deployment(), NEWEST);
        let first = observed(&desired, 1);
        assert_eq!(diff(&desired, &[first.clone().into()]), []);
        let other = Observed { foreign: vec!["user"], ..observed(&desired, 2) };
        let changes = diff(&desired, &[first.into(), other.into()]);
        assert!(matches!(&changes[..], [Change::Register { again: true, .. }]), "{changes:?}");
    }

    #[test]
    fn another_image_has_another_family() {
        let family =
            |version| desired(&location(512, 1, None), &image(version).reference, &deployment(), NEWEST).family;
        assert_ne!(family(1), family(2));
        assert_eq!(family(1), family(1));
    }

    #[test]
    fn the_context_names_the_family() {
        let location = location(512, 1, None);
        let desired = desired(&location, &image(1).reference, &deployment(), NEWEST);
        assert!(container_context(&location, &desired).contains(&desired.family));
    }
}
