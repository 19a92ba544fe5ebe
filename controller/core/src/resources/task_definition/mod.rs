//! Task definition of the code server. Immutable in AWS: a change registers a new revision, and an equal live revision
//! is used again instead of being registered twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use codeloc_crds::{Architecture, Location};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::drift::{Found, TrackedField};
use super::{Action, Deferred, Description, Effect, Field, run_definition};
use crate::deployment::Deployment;
use crate::image::{Image, LoadTarget};
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

/// The one container of a code server's task.
pub const CONTAINER: &str = "code-server";

/// So many revisions that nobody uses are kept for each location, the newest: the way back to a good one is then no registration.
pub const KEPT: usize = 5;

const SERVER_ID: &str = "DAGSTER_CLI_API_GRPC_FIXED_SERVER_ID";
const CURRENT_IMAGE: &str = "DAGSTER_CURRENT_IMAGE";
const OWN_PREFIX: &str = "DAGSTER_REPO_S3_PREFIX";
/// What Dagster hands on to the launcher of this location's runs.
const CONTAINER_CONTEXT: &str = "DAGSTER_CONTAINER_CONTEXT";

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("image", "the image, by digest", ANEW),
    TrackedField::new("cpu", "CPU units of the task", ANEW),
    TrackedField::new("memory", "MiB of the task", ANEW),
    TrackedField::new("architecture", "of the processor", ANEW),
    TrackedField::new("task_role", "ARN", ANEW),
    TrackedField::new("execution_role", "ARN", ANEW),
    TrackedField::new("command", "word by word", ANEW),
    TrackedField::new("changed_variables", "environment variables, whatever their order; values are never shown", ANEW),
    TrackedField::new("secrets", "the ARNs that variables are filled from, by variable", ANEW),
    TrackedField::new("port", "the one container port", ANEW),
    TrackedField::new("log_group", "group and region", ANEW),
    TrackedField::new("log_stream_prefix", "the revision", ANEW),
    TrackedField::new("health_check", "command, interval, timeout, retries and start period", ANEW),
    TrackedField::new("stop_timeout", "seconds between SIGTERM and SIGKILL", ANEW),
    TrackedField::new(
        "foreign",
        "nothing else that changes what runs: other containers, entry point, environment files, volumes, mounts, \
         user, working directory, host name, links, dependencies, capabilities, limits, labels, security options, a read-only root, \
         a privileged container, process and IPC modes, proxies, placement, ephemeral storage, fault injection. `false`, zero and empty are \
         the same as absent",
        ANEW,
    ),
    TrackedField::tags("ecs:TagResource", Found::InTurns),
];

/// A definition never changes: whoever changes what runs, makes another one and lets the service run that. The service goes
/// back to the one that is wanted; it is registered again only where nobody has left it.
const ANEW: &str = "ecs:UpdateService, ecs:RegisterTaskDefinition";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub family: String,
    /// Absent while the image is not known.
    pub content: Option<Content>,
    /// Hash of the content, and so the server id that Dagster sees; `(known after apply)` without an image.
    pub revision: Deferred,
    pub resources: BTreeMap<&'static str, String>,
    pub tags: Tags,
}

/// Everything a task definition says, as far as it is ours. Fields AWS fills in are left out on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// CPU units, 1024 to a vCPU.
    pub cpu: String,
    /// MiB.
    pub memory: String,
    pub architecture: Architecture,
    pub task_role_arn: String,
    pub execution_role_arn: String,
    pub image: String,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Where ECS takes further variables from, by variable.
    pub secrets: BTreeMap<String, String>,
    /// The one container's name.
    pub container: String,
    /// Absent of a run: nobody asks it anything.
    pub port: Option<u16>,
    pub log_group: String,
    pub log_region: String,
    pub log_stream_prefix: String,
    pub health_check: Option<HealthCheck>,
    /// Seconds between SIGTERM and SIGKILL.
    pub stop_timeout: i32,
}

impl Content {
    /// Names of the environment's variables that differ. Never their values: one may be a secret that its author has not
    /// moved elsewhere yet. What only follows from the image and the revision is left out.
    fn differing_variables<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let names: BTreeSet<&String> = self.environment.keys().chain(other.environment.keys()).collect();
        let differ = |name: &&String| self.environment.get(*name) != other.environment.get(*name);
        let follows = |name: &&String| [SERVER_ID, CURRENT_IMAGE, CONTAINER_CONTEXT].contains(&name.as_str());
        names.into_iter().filter(differ).filter(|name| !follows(name)).map(String::as_str).collect()
    }

    /// What differs in `want`, as the plan prints it.
    fn differing(&self, desired: &Self) -> Vec<Field> {
        let pairs = self.summary().into_iter().zip(desired.summary());
        let mut fields: Vec<Field> =
            pairs.filter_map(|((name, from), (_, to))| Field::differing(name, &from, &to)).collect();
        let variables = desired.differing_variables(self);
        if !variables.is_empty() {
            fields.push(Field::set("changed_variables", variables.join(", ")));
        }
        // What only follows from the rest is worth a word where the rest is the same.
        if fields.is_empty() && self.log_stream_prefix != desired.log_stream_prefix {
            fields.push(Field::changed("log_stream_prefix", &self.log_stream_prefix, &desired.log_stream_prefix));
        }
        if fields.is_empty() && self != desired {
            let names = [CONTAINER_CONTEXT, CURRENT_IMAGE, SERVER_ID];
            fields.push(Field::set("changed_variables", names.join(", ")));
        }
        fields
    }

    /// Its fields as the plan prints them, always in this order.
    fn summary(&self) -> Vec<(&'static str, String)> {
        vec![
            ("image", self.image.clone()),
            ("cpu", self.cpu.clone()),
            ("memory", self.memory.clone()),
            ("architecture", summary(self.architecture).to_owned()),
            ("task_role", self.task_role_arn.clone()),
            ("execution_role", self.execution_role_arn.clone()),
            ("command", self.command.join(" ")),
            ("secrets", if self.secrets.is_empty() { "none".to_owned() } else { tags::render(&self.secrets) }),
            ("port", self.port.map_or_else(|| "none".to_owned(), |port| port.to_string())),
            ("log_group", format!("{} in {}", self.log_group, self.log_region)),
            ("health_check", self.health_check.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
            ("stop_timeout", self.stop_timeout.to_string()),
        ]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    pub command: Vec<String>,
    /// Seconds.
    pub interval: i32,
    pub timeout: i32,
    pub retries: i32,
    pub start_period: i32,
}

impl std::fmt::Display for HealthCheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { interval, timeout, retries, start_period, command } = self;
        let probe = command.last().map_or("", String::as_str);
        write!(
            formatter,
            "every {interval} s within {timeout} s, {retries} times, start period {start_period} s: {probe}"
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: String,
    /// The number AWS gave it within the family.
    pub number: i32,
    /// Absent when it lacks what we always write: then it equals nothing that is wanted.
    pub content: Option<Content>,
    /// What it says that we would never write: with any of that it equals nothing that is wanted, either.
    pub foreign: Vec<&'static str>,
    pub tags: Shared<Tags>,
}

impl Observed {
    /// The family, out of the ARN.
    pub fn family(&self) -> &str {
        let key = self.arn.rsplit('/').next().unwrap_or_default();
        key.rsplit_once(':').map_or(key, |(family, _)| family)
    }

    /// The family of the run definition that this code server hands on to its runs.
    pub fn run_family(&self) -> Option<String> {
        let context = self.content.as_ref()?.environment.get(CONTAINER_CONTEXT)?;
        let context: serde_json::Value = serde_json::from_str(context).ok()?;
        context["ecs"]["task_definition_arn"].as_str().map(str::to_owned)
    }

    /// The prefix of the bucket that its code writes below.
    pub fn own_prefix(&self) -> Option<&str> {
        self.content.as_ref()?.environment.get(OWN_PREFIX).map(String::as_str)
    }

    /// Whether it says exactly this.
    pub fn matches(&self, content: &Content) -> bool {
        self.foreign.is_empty() && self.content.as_ref() == Some(content)
    }

    /// How it differs from what is wanted.
    fn differing(&self, desired: &Content) -> Vec<Field> {
        let mut fields = self.content.as_ref().map(|content| content.differing(desired)).unwrap_or_default();
        if !self.foreign.is_empty() || self.content.is_none() {
            fields.push(Field::changed("foreign", self.foreign.join(", "), "none"));
        }
        fields
    }

    pub fn revision(&self) -> Option<&str> {
        self.tags.get(tags::REVISION).map(String::as_str)
    }

    /// The id that its code server gives as its own.
    pub fn server_id(&self) -> Option<&str> {
        self.content.as_ref()?.environment.get(SERVER_ID).map(String::as_str)
    }

    pub fn attempt(&self) -> Option<Attempt> {
        Attempt::of(&self.tags)
    }

    /// The commit that its image was built from, where codeloc built it.
    pub fn commit(&self) -> Option<&str> {
        self.tags.get(tags::COMMIT).map(String::as_str)
    }

    /// The commit that served when it was last rolled out.
    pub fn served_before(&self) -> Option<&str> {
        self.tags.get(tags::SERVED_BEFORE).map(String::as_str)
    }
}

/// Written on a task definition before it is rolled out: when, and over which deployment of the service.
///
/// If the service's primary deployment is still that one, the rollout never began. If it is another and the service
/// runs a task definition that was attempted earlier, ECS rolled this one back: so a controller that was away while a
/// rollout failed knows it from AWS alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Milliseconds since 1970, by the controller's clock.
    pub at: i64,
    /// Deployment id, or `-` when there was no service.
    pub over: String,
    /// The commit that served then, where it was another one: the way back, whoever asks for it and whenever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_before: Option<String>,
}

impl Attempt {
    pub fn of(tags: &Tags) -> Option<Self> {
        let (at, over) = tags.get(tags::ATTEMPT)?.split_once(' ')?;
        let served_before = tags.get(tags::SERVED_BEFORE).cloned();
        Some(Self { at: at.parse().ok()?, over: over.to_owned(), served_before })
    }

    pub fn tags(&self) -> Tags {
        let served_before = self.served_before.iter().map(|commit| (tags::SERVED_BEFORE.to_owned(), commit.clone()));
        served_before.chain([(tags::ATTEMPT.to_owned(), self.to_string())]).collect()
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.at, self.over)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// `from` is how what runs now differs.
    Register {
        desired: Box<Desired>,
        from: Option<Vec<Field>>,
        attempt: Attempt,
    },
    /// An equal revision exists: it is used again, and says so. `fields` is how it differs from what runs.
    Attempt {
        arn: String,
        attempt: Attempt,
        fields: Vec<Field>,
    },
    Tag {
        arn: String,
        tags: Tags,
    },
    Deregister {
        arn: String,
    },
}

/// The code server names the definition of its runs.
pub fn desired(
    location: &Location,
    image: Option<(&Image, &run_definition::Desired)>,
    deployment: &Deployment,
) -> Desired {
    let content = image.map(|(image, run)| content(location, image, run, deployment));
    let revision = content
        .as_ref()
        .map_or(Deferred::AfterApply, |content| Deferred::Known(content.environment[SERVER_ID].clone()));
    let mut tags = tags::wanted(location, deployment);
    if let Deferred::Known(revision) = &revision {
        tags.insert(tags::REVISION.to_owned(), revision.clone());
    }
    if let Some(commit) = image.and_then(|(image, _)| image.commit.as_ref()) {
        tags.insert(tags::COMMIT.to_owned(), commit.clone());
    }
    if let (Some(_), Some(tag)) = (image, location.image_tag()) {
        tags.insert(tags::IMAGE_TAG.to_owned(), tag.to_owned());
    }
    Desired {
        family: names::task_family(&deployment.id, location.name.as_str()),
        resources: BTreeMap::from([
            ("cpu", location.resources.cpu.to_string()),
            ("memory", location.resources.memory.to_string()),
        ]),
        content,
        revision,
        tags,
    }
}

/// What code servers and runs of a location find in their environment alike.
pub(super) fn shared_environment(
    location: &Location,
    image: &Image,
    deployment: &Deployment,
) -> BTreeMap<String, String> {
    let mut environment = deployment.environment.clone();
    environment.retain(|name, _| !location.secrets.contains_key(name) && !deployment.secrets.contains_key(name));
    environment.extend(location.environment.clone());
    let mut set = |key: &str, value: &str| environment.insert(key.to_owned(), value.to_owned());
    set("DAGSTER_LOCATION_NAME", location.name.as_str());
    set(CURRENT_IMAGE, &image.reference);
    set("DAGSTER_REPO_S3_BUCKET", &deployment.bucket);
    set(OWN_PREFIX, &location.s3_prefix);
    environment
}

/// Variables out of secrets: the platform's and the location's own, of which neither may be given as plain text too.
pub(in crate::resources) fn secrets(location: &Location, deployment: &Deployment) -> BTreeMap<String, String> {
    let mut secrets = deployment.secrets.clone();
    secrets.extend(location.secrets.clone());
    // ECS refuses a variable that is both.
    secrets.retain(|name, _| !location.environment.contains_key(name));
    secrets
}

pub(super) fn architecture(location: &Location, deployment: &Deployment) -> Architecture {
    if deployment.host_platform { host_architecture() } else { location.resources.architecture }
}

fn content(location: &Location, image: &Image, run: &run_definition::Desired, deployment: &Deployment) -> Content {
    let name = location.name.as_str();
    let mut environment = shared_environment(location, image, deployment);
    let mut set = |key: &str, value: String| environment.insert(key.to_owned(), value);
    // The server reads its flags from the environment, so that whatever runs the task can give it another address.
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
        architecture: architecture(location, deployment),
        task_role_arn: super::role::arn(location, deployment),
        execution_role_arn: super::role::execution_arn(location, deployment),
        image: image.reference.clone(),
        command: ["python", "-m", "dagster", "api", "grpc", "--use-python-environment-entry-point"]
            .map(str::to_owned)
            .to_vec(),
        environment,
        secrets: secrets(location, deployment),
        container: CONTAINER.to_owned(),
        port: Some(deployment.port),
        log_group: names::log_group(&deployment.id, name),
        log_region: deployment.region.clone(),
        log_stream_prefix: String::new(),
        health_check: Some(health_check(location, deployment)),
        stop_timeout: 60,
    };
    let revision = revision(&content);
    // Named by the revision, a failed rollout's last words are found again after any restart.
    content.log_stream_prefix.clone_from(&revision);
    content.environment.insert(SERVER_ID.to_owned(), revision);
    content
}

/// The port binds only once the user's code has been imported, so an open port is the proof of a good import. Dagster's
/// own health check starts a whole Python with all of Dagster for each probe.
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

pub(super) fn revision(content: &Content) -> String {
    let text = serde_json::to_vec(content).expect("plain data serialises");
    hex::encode(&Sha256::digest(&text)[..8])
}

fn host_architecture() -> Architecture {
    if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::X86_64 }
}

/// As configs and AWS write it.
fn summary(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Arm64 => "ARM64",
        Architecture::X86_64 => "X86_64",
    }
}

/// The live revision that says exactly what is wanted: of several equal ones the one that runs, so that nothing is rolled out
/// for nothing, else the newest.
pub fn equal<'a>(
    desired: &Desired,
    observed: &'a [Shared<Observed>],
    runs: Option<&'a Observed>,
) -> Option<&'a Observed> {
    let content = desired.content.as_ref()?;
    runs.into_iter().chain(observed.iter().map(Deref::deref)).find(|observed| observed.matches(content))
}

/// The image, by digest, that a tag named when it was rolled out; nothing where something else was rolled out after that. So a tag
/// that moved meanwhile is told from one that is new in the config, after a restart too.
pub fn image_of_tag<'a>(observed: &'a [Shared<Observed>], tag: &str) -> Option<&'a str> {
    let attempted = observed.iter().filter_map(|observed| Some((observed.attempt()?.at, observed.number, observed)));
    let (.., newest) = attempted.max_by_key(|(at, number, _)| (*at, *number))?;
    let image = newest.content.as_ref()?.image.as_str();
    let (name, _) = tag.rsplit_once(':')?;
    let of_name = image.strip_prefix(name).is_some_and(|rest| rest.starts_with("@sha256:"));
    (of_name && newest.tags.get(tags::IMAGE_TAG).map(String::as_str) == Some(tag)).then_some(image)
}

impl Desired {
    /// The commit that the image was built from, where codeloc built it.
    pub fn commit(&self) -> Option<&str> {
        self.tags.get(tags::COMMIT).map(String::as_str)
    }

    /// See [`aws_mismatch`].
    pub fn aws_mismatch(&self, observed: &[Shared<Observed>]) -> Option<String> {
        aws_mismatch(self.content.as_ref()?, self.revision.known()?, observed)
    }
}

/// How what runs differs from what is wanted.
pub fn differing(desired: &Desired, runs: Option<&Observed>) -> Vec<Field> {
    let (Some(desired), Some(runs)) = (&desired.content, runs) else { return vec![] };
    runs.differing(desired)
}

/// What is wrong where registering a revision once more would not help, for it was tried: nothing that claims to be it says what it was
/// registered with. Then AWS keeps it in other words, and each registration would be followed by the next, with a rollout each. One that
/// somebody else registered under our tags is made good by one of ours; so one alone proves nothing.
pub fn aws_mismatch(content: &Content, revision: &str, observed: &[Shared<Observed>]) -> Option<String> {
    let claim = || observed.iter().filter(|observed| observed.revision() == Some(revision));
    let newest = claim().max_by_key(|observed| observed.number)?;
    if claim().count() < 2 || claim().any(|observed| observed.matches(content)) {
        return None;
    }
    let fields = newest.differing(content);
    let fields: Vec<String> = fields
        .into_iter()
        .map(|field| format!("{}: {} in place of {}", field.name, field.from.unwrap_or_default(), field.to))
        .collect();
    Some(format!("AWS keeps {} otherwise than it was registered: {}", newest.arn, fields.join("; ")))
}

/// Tags that are missing on the definition that is wanted. Here the revision is one of them: rollbacks are told by it.
pub fn tag(desired: &Desired, observed: &Observed) -> Option<Change> {
    let mut missing = tags::missing(&observed.tags, &desired.tags);
    if let Some(revision) = desired.revision.known().filter(|revision| observed.revision() != Some(revision)) {
        missing.insert(tags::REVISION.to_owned(), revision.to_owned());
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
                        fields.push(Field::set("image", Deferred::AfterApply));
                        fields.extend(desired.resources.iter().map(|(name, value)| Field::set(name, value)));
                    }
                }
                fields.push(Field::set("arn", Deferred::AfterApply));
                Description {
                    action: Action::Create,
                    name: desired.family.clone(),
                    fields,
                    reason: "no live revision says the same".to_owned(),
                }
            }
            Self::Attempt { arn, attempt, fields } => Description::updated(
                arn,
                fields.iter().cloned().chain([Field::set("attempt", attempt)]).collect(),
                "an equal revision exists and is rolled out again",
            ),
            Self::Tag { arn, tags } => Description::tagged(arn, tags),
            Self::Deregister { arn } => Description::deleted(arn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(number: i32, image: &str, tag: &str, at: i64) -> Shared<Observed> {
        let mut tags = Attempt { at, over: "-".to_owned(), served_before: None }.tags();
        tags.insert(tags::IMAGE_TAG.to_owned(), tag.to_owned());
        let content = Content {
            cpu: "256".to_owned(),
            memory: "512".to_owned(),
            architecture: Architecture::Arm64,
            task_role_arn: String::new(),
            execution_role_arn: String::new(),
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
        Observed { arn: format!("arn:{number}"), number, content: Some(content), foreign: vec![], tags: tags.into() }
            .into()
    }

    #[test]
    fn a_tag_means_what_it_was_rolled_out_as_unless_something_else_was_since() {
        let (first, second) = (observed(1, "r/a@sha256:11", "r/a:v1", 10), observed(2, "r/a@sha256:22", "r/a:v2", 20));
        assert_eq!(image_of_tag(std::slice::from_ref(&first), "r/a:v1"), Some("r/a@sha256:11"));
        assert_eq!(image_of_tag(&[second.clone(), first.clone()], "r/a:v1"), None);
        assert_eq!(image_of_tag(&[second.clone(), first], "r/a:v2"), Some("r/a@sha256:22"));
        // The way back to an older definition counts by when it was taken.
        assert_eq!(
            image_of_tag(&[second, observed(1, "r/a@sha256:11", "r/a:v1", 30)], "r/a:v1"),
            Some("r/a@sha256:11")
        );
    }

    #[test]
    fn a_revision_that_none_says_of_two_that_claim_it_is_not_registered_again() {
        let claim = |number: i32, foreign: &[&'static str]| {
            let mut claim = observed(number, "r/a@sha256:11", "r/a:v1", 10);
            claim.tags.insert(tags::REVISION.to_owned(), "one".to_owned());
            claim.foreign = foreign.to_vec();
            claim
        };
        let content = claim(1, &[]).content.clone().unwrap();
        let kept = |observed: &[Shared<Observed>]| aws_mismatch(&content, "one", observed);
        assert_eq!(kept(&[claim(1, &["pidMode"])]), None);
        let message = kept(&[claim(2, &["pidMode"]), claim(1, &["pidMode"])]).unwrap();
        assert_eq!(message, "AWS keeps arn:2 otherwise than it was registered: foreign: pidMode in place of none");
        // One that says it was registered well: the others are somebody else's.
        assert_eq!(kept(&[claim(3, &["pidMode"]), claim(2, &["pidMode"]), claim(1, &[])]), None);
        assert_eq!(aws_mismatch(&content, "two", &[claim(2, &["pidMode"]), claim(1, &["pidMode"])]), None);
    }

    #[test]
    fn a_tag_that_somebody_wrote_on_another_image_means_nothing() {
        assert_eq!(image_of_tag(&[observed(1, "r/b@sha256:11", "r/a:v1", 10)], "r/a:v1"), None);
        assert_eq!(image_of_tag(&[observed(1, "r/a:v1", "r/a:v1", 10)], "r/a:v1"), None);
        assert_eq!(image_of_tag(&[], "r/a:v1"), None);
    }
}
