//! The content of a task definition, shared by code servers and runs.
//!
//! Guarantees: the revision is a hash of the content, so equal content has the same revision and the same server id after any restart. See
//! [`super::task_form`].

use std::collections::{BTreeMap, BTreeSet};

use codeloc_crds::{Architecture, Location};
use serde::Serialize;

use super::change::Field;
use crate::deployment::Deployment;
use crate::ids::{Arn, Commit, Revision};
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub(super) const SERVER_ID: &str = "DAGSTER_CLI_API_GRPC_FIXED_SERVER_ID";
const CURRENT_IMAGE: &str = "DAGSTER_CURRENT_IMAGE";
const OWN_PREFIX: &str = "DAGSTER_REPO_S3_PREFIX";
/// Dagster passes its value to the launcher of the location's runs.
pub(super) const CONTAINER_CONTEXT: &str = "DAGSTER_CONTAINER_CONTEXT";

/// Every setting of a task definition that codeloc writes. Neither side contains values that AWS fills in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// CPU units, 1024 to a vCPU.
    pub cpu: String,
    /// MiB.
    pub memory: String,
    pub architecture: Architecture,
    pub task_role_arn: Arn,
    pub execution_role_arn: Arn,
    pub image: String,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Variables that ECS fills from secrets: the ARN by variable.
    pub secrets: BTreeMap<String, String>,
    /// The name of the only container.
    pub container: String,
    /// Absent for a run, which serves no requests.
    pub port: Option<u16>,
    pub log_group: String,
    pub log_region: String,
    pub log_stream_prefix: String,
    pub health_check: Option<HealthCheck>,
    /// Seconds between SIGTERM and SIGKILL.
    pub stop_timeout: i32,
}

impl Content {
    /// The S3 prefix of its location.
    pub fn own_prefix(&self) -> Option<&str> {
        self.environment.get(OWN_PREFIX).map(String::as_str)
    }

    /// The names of the variables that differ, without those that follow from the image and the revision. Never the values: a value may be a
    /// secret that its author has not moved to a secret store.
    fn differing_variables<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let names: BTreeSet<&String> = self.environment.keys().chain(other.environment.keys()).collect();
        let differ = |name: &&String| self.environment.get(*name) != other.environment.get(*name);
        let follows = |name: &&String| [SERVER_ID, CURRENT_IMAGE, CONTAINER_CONTEXT].contains(&name.as_str());
        names.into_iter().filter(differ).filter(|name| !follows(name)).map(String::as_str).collect()
    }

    /// How it differs from `desired`, as the plan prints it.
    pub(super) fn differing(&self, desired: &Self) -> Vec<Field> {
        let pairs = self.summary().into_iter().zip(desired.summary());
        let mut fields: Vec<Field> =
            pairs.filter_map(|((name, from), (_, to))| Field::differing(name, &from, &to)).collect();
        let variables = desired.differing_variables(self);
        if !variables.is_empty() {
            fields.push(Field::set("changed_variables", variables.join(", ")));
        }
        // Values that follow from the others are listed only if the others are equal.
        if fields.is_empty() && self.log_stream_prefix != desired.log_stream_prefix {
            fields.push(Field::changed("log_stream_prefix", &self.log_stream_prefix, &desired.log_stream_prefix));
        }
        if fields.is_empty() && self != desired {
            let names = [CONTAINER_CONTEXT, CURRENT_IMAGE, SERVER_ID];
            fields.push(Field::set("changed_variables", names.join(", ")));
        }
        fields
    }

    /// The fields as the plan prints them, always in this order.
    pub(super) fn summary(&self) -> Vec<(&'static str, String)> {
        vec![
            ("image", self.image.clone()),
            ("cpu", self.cpu.clone()),
            ("memory", self.memory.clone()),
            ("architecture", architecture_name(self.architecture).to_owned()),
            ("task_role", self.task_role_arn.to_string()),
            ("execution_role", self.execution_role_arn.to_string()),
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
            "every {interval} s, timeout {timeout} s, {retries} retries, start period {start_period} s: {probe}"
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: Arn,
    /// The revision number that AWS assigned within the family.
    pub number: i32,
    /// Absent if it lacks a setting that codeloc always writes: it then equals no desired definition.
    pub content: Option<Content>,
    /// Settings that codeloc never writes. A definition with any of them equals no desired definition.
    pub foreign: Vec<&'static str>,
    pub tags: Shared<Tags>,
}

impl Observed {
    /// The family, from the ARN.
    pub fn family(&self) -> &str {
        let key = self.arn.rsplit('/').next().unwrap_or_default();
        key.rsplit_once(':').map_or(key, |(family, _)| family)
    }

    /// The family of the run definition whose name this code server passes to the launcher.
    pub fn run_family(&self) -> Option<String> {
        let context = self.content.as_ref()?.environment.get(CONTAINER_CONTEXT)?;
        let context: serde_json::Value = serde_json::from_str(context).ok()?;
        context["ecs"]["task_definition_arn"].as_str().map(str::to_owned)
    }

    /// The S3 prefix of its location.
    pub fn own_prefix(&self) -> Option<&str> {
        self.content.as_ref()?.own_prefix()
    }

    /// Whether it has exactly this content.
    pub fn matches(&self, content: &Content) -> bool {
        self.foreign.is_empty() && self.content.as_ref() == Some(content)
    }

    /// How it differs from the desired content.
    pub(super) fn differing(&self, desired: &Content) -> Vec<Field> {
        let mut fields = self.content.as_ref().map(|content| content.differing(desired)).unwrap_or_default();
        if !self.foreign.is_empty() || self.content.is_none() {
            fields.push(Field::changed("foreign", self.foreign.join(", "), "none"));
        }
        fields
    }

    /// The revision in its tags.
    pub fn revision(&self) -> Option<Revision> {
        self.revision_tag().map(Revision::from)
    }

    /// The same as text: a comparison for each definition of a fleet must not allocate.
    pub fn revision_tag(&self) -> Option<&str> {
        self.tags.get(tags::REVISION).map(String::as_str)
    }

    pub fn is_revision(&self, revision: &Revision) -> bool {
        self.revision_tag() == Some(revision.as_str())
    }

    /// The id with which its code server answers.
    pub fn server_id(&self) -> Option<&str> {
        self.content.as_ref()?.environment.get(SERVER_ID).map(String::as_str)
    }

    pub fn attempt(&self) -> Option<Attempt> {
        Attempt::of(&self.tags)
    }

    /// The commit of its image, if codeloc built it.
    pub fn commit(&self) -> Option<Commit> {
        self.tags.get(tags::COMMIT).cloned().map(Commit::from)
    }

    /// The commit that served when its last rollout started.
    pub fn served_before(&self) -> Option<Commit> {
        self.tags.get(tags::SERVED_BEFORE).cloned().map(Commit::from)
    }
}

/// A mark on a task definition: when codeloc rolled it out, and which deployment of the service it was to replace.
///
/// codeloc writes it before the rollout starts. If the service's primary deployment is still that one, the rollout never started. If it is
/// another one, and the service runs a task definition with an earlier attempt, ECS rolled this one back. A process that was not running
/// while the rollout failed therefore knows it from AWS alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Milliseconds since 1970, by codeloc's clock.
    pub at: i64,
    /// The deployment id, or `-` if there was no service.
    pub over: String,
    /// The commit that served then, if it was another one. A rollback uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_before: Option<Commit>,
}

impl Attempt {
    pub fn of(tags: &Tags) -> Option<Self> {
        let (at, over) = tags.get(tags::ATTEMPT)?.split_once(' ')?;
        let served_before = tags.get(tags::SERVED_BEFORE).cloned().map(Commit::from);
        Some(Self { at: at.parse().ok()?, over: over.to_owned(), served_before })
    }

    pub fn tags(&self) -> Tags {
        let served_before =
            self.served_before.iter().map(|commit| (tags::SERVED_BEFORE.to_owned(), commit.to_string()));
        served_before.chain([(tags::ATTEMPT.to_owned(), self.to_string())]).collect()
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.at, self.over)
    }
}

/// Variables that both the code server and the runs of a location have.
pub(super) fn shared_environment(
    location: &Location,
    image: &str,
    deployment: &Deployment,
) -> BTreeMap<String, String> {
    let mut environment = deployment.environment.clone();
    environment.retain(|name, _| !location.secrets.contains_key(name) && !deployment.secrets.contains_key(name));
    environment.extend(location.environment.clone());
    let mut set = |key: &str, value: &str| environment.insert(key.to_owned(), value.to_owned());
    set("DAGSTER_LOCATION_NAME", location.name.as_str());
    set(CURRENT_IMAGE, image);
    set("DAGSTER_REPO_S3_BUCKET", &deployment.bucket);
    set(OWN_PREFIX, &location.s3_prefix);
    environment
}

/// Variables that ECS fills from secrets of the deployment and of the location.
pub(super) fn secrets(location: &Location, deployment: &Deployment) -> BTreeMap<String, String> {
    let mut secrets = deployment.secrets.clone();
    secrets.extend(location.secrets.clone());
    // ECS refuses a variable with both a value and a secret.
    secrets.retain(|name, _| !location.environment.contains_key(name));
    secrets
}

pub(super) fn architecture(location: &Location, deployment: &Deployment) -> Architecture {
    if deployment.host_platform { host_architecture() } else { location.resources.architecture }
}

fn host_architecture() -> Architecture {
    if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::X86_64 }
}

/// The name that configs and AWS use.
fn architecture_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Arm64 => "ARM64",
        Architecture::X86_64 => "X86_64",
    }
}

/// How AWS stores a revision differently from how codeloc registered it, if another registration would not help.
///
/// Two revisions claim to be it, and none has its content: every further registration would start a rollout without effect. One alone proves
/// nothing, because another AWS user may have registered it with codeloc's tags; codeloc then registers its own.
pub fn aws_mismatch(content: &Content, revision: &Revision, observed: &[Shared<Observed>]) -> Option<String> {
    let claims = || observed.iter().filter(|observed| observed.is_revision(revision));
    let newest = claims().max_by_key(|observed| observed.number)?;
    if claims().count() < 2 || claims().any(|observed| observed.matches(content)) {
        return None;
    }
    let fields = newest.differing(content);
    let fields: Vec<String> = fields
        .into_iter()
        .map(|field| format!("{}: {} instead of {}", field.name, field.from.unwrap_or_default(), field.to))
        .collect();
    Some(format!("AWS stores {} differently from how codeloc registered it: {}", newest.arn, fields.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            cpu: "256".to_owned(),
            memory: "512".to_owned(),
            architecture: Architecture::Arm64,
            task_role_arn: Arn::from(""),
            execution_role_arn: Arn::from(""),
            image: "r/a@sha256:11".to_owned(),
            command: vec![],
            environment: BTreeMap::new(),
            secrets: BTreeMap::new(),
            container: "code-server".to_owned(),
            port: Some(4000),
            log_group: String::new(),
            log_region: String::new(),
            log_stream_prefix: String::new(),
            health_check: None,
            stop_timeout: 60,
        }
    }

    fn observed(number: i32) -> Observed {
        let arn = Arn::from(format!("arn:{number}"));
        Observed { arn, number, content: Some(content()), foreign: vec![], tags: Tags::new().into() }
    }

    #[test]
    fn a_difference_never_shows_the_value_of_a_variable() {
        let set = |value: &str| {
            let environment = [("TOKEN".to_owned(), value.to_owned())].into();
            Content { environment, ..content() }
        };
        assert_eq!(set("hunter2").differing(&set("changed")), [Field::set("changed_variables", "TOKEN")]);
    }

    #[test]
    fn a_variable_with_a_secret_has_no_value_of_the_deployment() {
        use crate::fixtures::{deployment, image, location};
        let (mut location, mut deployment) = (location(512, 1, None), deployment());
        deployment.environment = [("TOKEN".to_owned(), "plain".to_owned())].into();
        location.secrets = [("TOKEN".to_owned(), "arn".to_owned()), ("LEVEL".to_owned(), "arn".to_owned())].into();
        assert!(!shared_environment(&location, &image(1).reference, &deployment).contains_key("TOKEN"));
        // The config sets LEVEL itself.
        assert_eq!(secrets(&location, &deployment), [("TOKEN".to_owned(), "arn".to_owned())].into());
    }

    #[test]
    fn an_attempt_survives_its_tags() {
        let attempt = Attempt { at: 10, over: "ecs-svc/1".to_owned(), served_before: Some(Commit::from("abc")) };
        assert_eq!(Attempt::of(&attempt.tags()), Some(attempt));
        assert_eq!(Attempt::of(&Tags::from([(tags::ATTEMPT.to_owned(), "yesterday".to_owned())])), None);
    }

    #[test]
    fn the_family_is_in_the_arn() {
        let arn = "arn:aws:ecs:eu-central-1:123456789012:task-definition/codeloc-orders:7".into();
        assert_eq!(Observed { arn, ..observed(7) }.family(), "codeloc-orders");
    }

    #[test]
    fn a_revision_that_aws_stores_differently_is_not_registered_again() {
        let claim = |number: i32, foreign: &[&'static str]| {
            let mut claim = observed(number);
            claim.tags.insert(tags::REVISION.to_owned(), "one".to_owned());
            claim.foreign = foreign.to_vec();
            Shared::from(claim)
        };
        let content = claim(1, &[]).content.clone().unwrap();
        let mismatch = |observed: &[Shared<Observed>]| aws_mismatch(&content, &"one".into(), observed);
        assert_eq!(mismatch(&[claim(1, &["pidMode"])]), None);
        let message = mismatch(&[claim(2, &["pidMode"]), claim(1, &["pidMode"])]).unwrap();
        assert_eq!(
            message,
            "AWS stores arn:2 differently from how codeloc registered it: foreign: pidMode instead of none"
        );
        // One has the content: another AWS user registered the others.
        assert_eq!(mismatch(&[claim(3, &["pidMode"]), claim(2, &["pidMode"]), claim(1, &[])]), None);
        assert_eq!(aws_mismatch(&content, &"two".into(), &[claim(2, &["pidMode"]), claim(1, &["pidMode"])]), None);
    }
}
