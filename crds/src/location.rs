//! The checked form of a `repos/NAME/config.yml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of a location, equal to the name of its folder: a DNS label of at most 40 characters from `[a-z0-9-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LocationName(pub(crate) String);

/// IAM limits role names to 64 characters. The deployment and a suffix use the rest.
const MAX_NAME_LENGTH: usize = 40;

/// Names that no location can have. They also reserve the folders `repos/NAME`.
pub(crate) const RESERVED_NAMES: [&str; 3] = ["shared", "system", "temp"];

/// Reserved folders at the root of the shared bucket. codeloc stores its own data in the last one.
pub(crate) const RESERVED_ROOTS: [&str; 4] = ["shared", "system", "temp", "codeloc"];

/// Why a name is invalid, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    pub message: String,
    pub hint: &'static str,
}

impl LocationName {
    pub fn new(name: &str) -> Result<Self, NameError> {
        let label = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !name.ends_with('-')
            && !name.contains("--");
        let fail = |message, hint| Err(NameError { message, hint });
        if !label {
            let hint = "use lowercase letters, digits and single hyphens, starting with a letter";
            fail(format!("`{}` is not a valid name", name.escape_debug()), hint)
        } else if name.len() > MAX_NAME_LENGTH {
            let message = format!("the name has {} characters; the limit is {MAX_NAME_LENGTH}", name.len());
            fail(message, "use a shorter name")
        } else if RESERVED_NAMES.contains(&name) {
            fail(format!("the name `{name}` is reserved for the platform"), "use another name")
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Allows lookups by `&str` in maps with names as keys.
impl std::borrow::Borrow<str> for LocationName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for LocationName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for LocationName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(&self.0)
    }
}

impl PartialEq<str> for LocationName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for LocationName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// The desired state of one location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    pub name: LocationName,
    pub git_url: String,
    pub reference: GitReference,
    /// Folder in the git repository to use as the root of the code.
    pub subdirectory: Option<String>,
    pub code: CodePointer,
    /// Variable that contains the `Definitions` object. Dagster detects it if `None`.
    pub attribute: Option<String>,
    /// Minor version, as in `3.12`. The setting `build.python` applies if `None`.
    pub python_version: Option<String>,
    /// Existing image to run instead of building one: `NAME@sha256:…` or `NAME:TAG`.
    pub image: Option<String>,
    pub image_policy: ImagePolicy,
    /// Dependency file, relative to the root. codeloc detects it if `None`.
    pub dependencies: Option<String>,
    /// Dockerfile that builds the image, relative to the root.
    pub dockerfile: Option<String>,
    /// Commands that prepare files of the code in an isolated build.
    pub build_commands: Vec<String>,
    pub resources: Resources,
    /// CPU and memory of a run. [`Self::resources`] applies if `None`.
    pub run_resources: Option<RunResources>,
    /// Prefix without a leading or trailing slash. Defaults to `repos/NAME`.
    pub s3_prefix: String,
    pub environment: BTreeMap<String, String>,
    /// ARNs in the format of `valueFrom` in ECS, by variable.
    pub secrets: BTreeMap<String, String>,
    pub access: Access,
    pub scaling: Scaling,
    pub health: Health,
    pub tags: BTreeMap<String, String>,
    /// Whether codeloc adopts existing resources that have these names and no codeloc tags.
    pub adopt: bool,
    pub mode: Mode,
    /// Whether codeloc keeps the location when its config is removed.
    pub protect: bool,
}

impl Location {
    /// `NAME:TAG` of an image without a digest.
    pub fn image_tag(&self) -> Option<&str> {
        self.image.as_deref().filter(|image| !image.contains('@'))
    }
}

/// What codeloc does when the tag of an image points to a new digest: keep the first digest, or roll out the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ImagePolicy {
    // Doc comments here would turn the `enum` of the schema into a list of constants, which errors cannot list.
    #[default]
    Pinned,
    Follow,
}

/// What codeloc does with a location: repair drift, only report it, or leave the location unchanged. Later variants are
/// stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Mode {
    // No doc comments, for the same reason as in `ImagePolicy`.
    #[default]
    Enforce,
    Detect,
    Suspended,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GitReference {
    Branch(String),
    Tag(String),
    /// 40 hexadecimal digits.
    Commit(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodePointer {
    /// Relative to the root, ending in `.py`.
    PythonFile(String),
    /// Dotted name.
    Module(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// CPU units. 1024 units are one vCPU.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    pub architecture: Architecture,
}

/// CPU in units and memory in MiB of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RunResources {
    pub cpu: u32,
    pub memory: u32,
}

/// Grants in addition to the prefix of the location: sorted prefixes without leading or trailing slashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    pub read: Vec<String>,
    /// Includes read access.
    pub write: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Architecture {
    Arm64,
    X86_64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Scaling {
    pub min_capacity: u32,
    pub max_capacity: u32,
    /// Target for the average CPU utilization of the service, in percent.
    pub cpu_threshold: u32,
    /// Target for the average memory utilization of the service, in percent.
    pub memory_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Seconds that a new task can take to open its port.
    pub start_seconds: u32,
    /// Seconds that the code server can take to load its definitions after the ECS service is stable.
    pub load_seconds: u32,
}
