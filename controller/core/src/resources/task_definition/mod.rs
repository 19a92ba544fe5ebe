//! Task definition of the code server. AWS does not change one: codeloc registers a new revision, unless an equal one is registered already.

use std::collections::BTreeMap;
use std::ops::Deref;

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Action, Deferred, Description, Effect, Field};
use super::run_definition;
use super::task_form::Form;
use super::task_spec::{self, CONTAINER_CONTEXT, SERVER_ID};
use super::tracked_fields::{Found, TrackedField};
use crate::arns;
use crate::deployment::Deployment;
use crate::ids::{Arn, Commit, Revision};
use crate::image::{Image, LoadTarget};
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

pub use super::task_spec::{Attempt, Content, HealthCheck, Observed};

/// The one container of a code server's task.
pub const CONTAINER: &str = "code-server";

/// The number of unused revisions that codeloc keeps for each location. A rollback to one of them needs no registration.
pub const KEPT: usize = 5;

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("image", "the image, by digest", REGISTER),
    TrackedField::new("cpu", "CPU units of the task", REGISTER),
    TrackedField::new("memory", "MiB of the task", REGISTER),
    TrackedField::new("architecture", "the processor architecture", REGISTER),
    TrackedField::new("task_role", "ARN", REGISTER),
    TrackedField::new("execution_role", "ARN", REGISTER),
    TrackedField::new("command", "each argument", REGISTER),
    TrackedField::new("changed_variables", "environment variables in any order; codeloc never shows values", REGISTER),
    TrackedField::new("secrets", "the ARN of each variable's secret", REGISTER),
    TrackedField::new("port", "the one container port", REGISTER),
    TrackedField::new("log_group", "group and region", REGISTER),
    TrackedField::new("log_stream_prefix", "the revision", REGISTER),
    TrackedField::new("health_check", "command, interval, timeout, retries and start period", REGISTER),
    TrackedField::new("stop_timeout", "seconds between SIGTERM and SIGKILL", REGISTER),
    TrackedField::new(
        "foreign",
        "no other setting that changes what runs: other containers, entry point, environment files, volumes, mounts, \
         user, working directory, host name, links, dependencies, capabilities, limits, labels, security options, a read-only root, \
         a privileged container, process and IPC modes, proxies, placement, ephemeral storage, fault injection. `false`, zero and empty count \
         as absent",
        REGISTER,
    ),
    TrackedField::tags("ecs:TagResource", Found::InTurns),
];

/// A definition never changes. To change what runs, another AWS user must register another one and update the service. codeloc returns the
/// service to the desired definition, and registers it again only if it was deregistered.
const REGISTER: &str = "ecs:UpdateService, ecs:RegisterTaskDefinition";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub family: String,
    /// Absent while the image is unknown.
    pub content: Option<Content>,
    /// The hash of the content, which is also the server id that Dagster sees.
    pub revision: Deferred<Revision>,
    pub resources: BTreeMap<&'static str, String>,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// `from` lists how the running definition differs.
    Register {
        desired: Box<Desired>,
        from: Option<Vec<Field>>,
        attempt: Attempt,
    },
    /// Marks an equal revision that is registered already before its rollout. `fields` lists how the running definition differs.
    Attempt {
        arn: Arn,
        attempt: Attempt,
        fields: Vec<Field>,
    },
    Tag {
        arn: Arn,
        tags: TagChange,
    },
    Deregister {
        arn: Arn,
    },
}

/// The code server passes the name of the run definition to the launcher.
pub fn desired(
    location: &Location,
    image: Option<(&Image, &run_definition::Desired)>,
    deployment: &Deployment,
    form: &Form,
) -> Desired {
    let content = image.map(|(image, run)| content(location, image, run, deployment, form));
    let revision: Deferred<Revision> = content
        .as_ref()
        .map_or(Deferred::AfterApply, |content| Deferred::Known(content.environment[SERVER_ID].as_str().into()));
    let mut tags = tags::desired(location, deployment);
    if let Deferred::Known(revision) = &revision {
        tags.insert(tags::REVISION.to_owned(), revision.to_string());
    }
    if let Some(commit) = image.and_then(|(image, _)| image.commit.as_ref()) {
        tags.insert(tags::COMMIT.to_owned(), commit.to_string());
    }
    if let (Some(_), Some(tag)) = (image, location.image_tag()) {
        tags.insert(tags::IMAGE_TAG.to_owned(), tag.to_owned());
    }
    Desired {
        family: names::task_family(&deployment.id, &location.name),
        resources: BTreeMap::from([
            ("cpu", location.resources.cpu.to_string()),
            ("memory", location.resources.memory.to_string()),
        ]),
        content,
        revision,
        tags,
    }
}

fn content(
    location: &Location,
    image: &Image,
    run: &run_definition::Desired,
    deployment: &Deployment,
    form: &Form,
) -> Content {
    let mut environment = task_spec::shared_environment(location, &image.reference, deployment);
    let mut set = |key: &str, value: String| environment.insert(key.to_owned(), value);
    // As variables and not as flags: a program that runs the task elsewhere can then override the address.
    set("DAGSTER_GRPC_HOST", "0.0.0.0".to_owned());
    set("DAGSTER_GRPC_PORT", deployment.port.to_string());
    set(CONTAINER_CONTEXT, run_definition::container_context(location, run));
    set("DAGSTER_WORKING_DIRECTORY", image.load.working_directory.clone());
    match &image.load.target {
        LoadTarget::Module(module) => set("DAGSTER_MODULE_NAME", module.clone()),
        LoadTarget::File(file) => set("DAGSTER_PYTHON_FILE", file.clone()),
    };
    if let Some(attribute) = &location.attribute {
        set("DAGSTER_ATTRIBUTE", attribute.clone());
    }
    let mut content = Content {
        cpu: location.resources.cpu.to_string(),
        memory: location.resources.memory.to_string(),
        architecture: task_spec::architecture(location, deployment),
        task_role_arn: arns::role(location, deployment),
        execution_role_arn: arns::execution_role(location, deployment),
        image: image.reference.clone(),
        command: ["python", "-m", "dagster", "api", "grpc", "--use-python-environment-entry-point"]
            .map(str::to_owned)
            .to_vec(),
        environment,
        secrets: task_spec::secrets(location, deployment),
        container: CONTAINER.to_owned(),
        port: Some(deployment.port),
        log_group: names::log_group(&deployment.id, &location.name),
        log_region: deployment.region.clone(),
        log_stream_prefix: String::new(),
        health_check: Some(health_check(location, deployment)),
        stop_timeout: 60,
    };
    let revision = form.settle(&mut content);
    // With the revision in the name, codeloc finds the logs of a failed rollout after a restart.
    content.log_stream_prefix = revision.to_string();
    content.environment.insert(SERVER_ID.to_owned(), revision.into());
    content
}

/// Dagster opens the port after it has imported the user's code, so an open port proves the import. Dagster's own health check would start
/// Python with all of Dagster for each probe.
fn health_check(location: &Location, deployment: &Deployment) -> HealthCheck {
    let probe = format!("import socket; socket.create_connection(('127.0.0.1', {}), 3).close()", deployment.port);
    HealthCheck {
        command: vec!["CMD".to_owned(), "python".to_owned(), "-I".to_owned(), "-S".to_owned(), "-c".to_owned(), probe],
        interval: 10,
        timeout: 5,
        retries: 3,
        // ECS allows at most 300 s.
        start_period: i32::try_from(location.health.start_seconds.min(300)).unwrap_or(300),
    }
}

/// The registered revision with the desired content: the running one if several are equal, so that codeloc starts no useless rollout, else
/// the newest.
pub fn equal<'a>(
    desired: &Desired,
    observed: &'a [Shared<Observed>],
    runs: Option<&'a Observed>,
) -> Option<&'a Observed> {
    let content = desired.content.as_ref()?;
    runs.into_iter().chain(observed.iter().map(Deref::deref)).find(|observed| observed.matches(content))
}

/// The image, by digest, that the tag named when codeloc rolled it out, unless codeloc has rolled out another image since. With it, codeloc
/// distinguishes a tag that moved from a tag that is new in the config, even after a restart.
pub fn image_of_tag<'a>(observed: &'a [Shared<Observed>], tag: &str) -> Option<&'a str> {
    let attempted = observed.iter().filter_map(|observed| Some((observed.attempt()?.at, observed.number, observed)));
    let (.., newest) = attempted.max_by_key(|(at, number, _)| (*at, *number))?;
    let image = newest.content.as_ref()?.image.as_str();
    let (name, _) = tag.rsplit_once(':')?;
    let same_name = image.strip_prefix(name).is_some_and(|rest| rest.starts_with("@sha256:"));
    (same_name && newest.tags.get(tags::IMAGE_TAG).map(String::as_str) == Some(tag)).then_some(image)
}

impl Desired {
    /// The commit of the image, if codeloc built it.
    pub fn commit(&self) -> Option<Commit> {
        self.tags.get(tags::COMMIT).cloned().map(Commit::from)
    }

    /// See [`task_spec::aws_mismatch`].
    pub fn aws_mismatch(&self, observed: &[Shared<Observed>]) -> Option<String> {
        task_spec::aws_mismatch(self.content.as_ref()?, self.revision.known()?, observed)
    }
}

/// How the running definition differs from the desired one.
pub fn differing(desired: &Desired, runs: Option<&Observed>) -> Vec<Field> {
    let (Some(desired), Some(runs)) = (&desired.content, runs) else { return vec![] };
    runs.differing(desired)
}

/// Sets tags that the desired definition lacks, including the revision, by which codeloc recognizes a rollback.
pub fn tag(desired: &Desired, observed: &Observed) -> Option<Change> {
    let mut missing = tags::missing(&observed.tags, &desired.tags);
    if let Some(revision) = desired.revision.known().filter(|revision| !observed.is_revision(revision)) {
        missing.set.insert(tags::REVISION.to_owned(), revision.to_string());
    }
    (!missing.is_empty()).then(|| Change::Tag { arn: observed.arn.clone(), tags: missing })
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Register { .. } => Effect::Creates,
            Self::Attempt { .. } | Self::Tag { .. } | Self::Deregister { .. } => Effect::Modifies,
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Register { desired, from, .. } => {
                let mut fields = vec![Field::set("revision", &desired.revision)];
                match (&desired.content, from) {
                    (Some(_), Some(from)) => fields.extend(from.clone()),
                    (Some(content), None) => {
                        fields.extend(content.summary().into_iter().map(|(name, to)| Field::set(name, to)));
                        let variables: Vec<&str> = content.environment.keys().map(String::as_str).collect();
                        fields.push(Field::set("variables", variables.join(", ")));
                    }
                    (None, _) => {
                        fields.push(Field::set("image", Deferred::<String>::AfterApply));
                        fields.extend(desired.resources.iter().map(|(name, value)| Field::set(name, value)));
                    }
                }
                fields.push(Field::set("arn", Deferred::<Arn>::AfterApply));
                Description {
                    action: Action::Create,
                    name: desired.family.clone(),
                    fields,
                    reason: "no equal revision is registered".to_owned(),
                }
            }
            Self::Attempt { arn, attempt, fields } => Description::updated(
                arn,
                fields.iter().cloned().chain([Field::set("attempt", attempt)]).collect(),
                "an equal revision is registered, and codeloc rolls it out again",
            ),
            Self::Tag { arn, tags } => Description::tagged(arn, tags),
            Self::Deregister { arn } => Description::deleted(arn),
        }
    }
}

#[cfg(test)]
mod tests {
    use codeloc_crds::Architecture;

    use super::*;

    fn observed(number: i32, image: &str, tag: &str, at: i64) -> Shared<Observed> {
        let mut tags = Attempt { at, over: "-".to_owned(), served_before: None }.tags();
        tags.insert(tags::IMAGE_TAG.to_owned(), tag.to_owned());
        let content = Content {
            cpu: "256".to_owned(),
            memory: "512".to_owned(),
            architecture: Architecture::Arm64,
            task_role_arn: Arn::from(""),
            execution_role_arn: Arn::from(""),
            image: image.to_owned(),
            command: vec![],
            environment: BTreeMap::new(),
            secrets: BTreeMap::new(),
            container: CONTAINER.to_owned(),
            port: Some(4000),
            log_group: String::new(),
            log_region: String::new(),
            log_stream_prefix: String::new(),
            health_check: None,
            stop_timeout: 60,
        };
        Observed {
            arn: format!("arn:{number}").into(),
            number,
            content: Some(content),
            foreign: vec![],
            tags: tags.into(),
        }
        .into()
    }

    #[test]
    fn a_tag_names_the_image_of_its_last_rollout() {
        let (first, second) = (observed(1, "r/a@sha256:11", "r/a:v1", 10), observed(2, "r/a@sha256:22", "r/a:v2", 20));
        assert_eq!(image_of_tag(std::slice::from_ref(&first), "r/a:v1"), Some("r/a@sha256:11"));
        assert_eq!(image_of_tag(&[second.clone(), first.clone()], "r/a:v1"), None);
        assert_eq!(image_of_tag(&[second.clone(), first], "r/a:v2"), Some("r/a@sha256:22"));
        // A rollback to an older definition counts by its time.
        assert_eq!(
            image_of_tag(&[second, observed(1, "r/a@sha256:11", "r/a:v1", 30)], "r/a:v1"),
            Some("r/a@sha256:11")
        );
    }

    #[test]
    fn a_tag_on_a_definition_with_another_image_names_nothing() {
        assert_eq!(image_of_tag(&[observed(1, "r/b@sha256:11", "r/a:v1", 10)], "r/a:v1"), None);
        assert_eq!(image_of_tag(&[observed(1, "r/a:v1", "r/a:v1", 10)], "r/a:v1"), None);
        assert_eq!(image_of_tag(&[], "r/a:v1"), None);
    }
}
