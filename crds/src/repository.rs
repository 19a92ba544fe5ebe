//! The checked form of one `repos/NAME/config.yml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A repository's name: a DNS label of at most 40 characters out of `[a-z0-9-]`, equal to its folder's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RepositoryName(pub(crate) String);

/// Leaves room in AWS's 64 characters (IAM role) for the deployment's name and a suffix.
const NAME_LENGTH: usize = 40;

/// Folders of the shared bucket and names that the platform keeps for itself.
pub(crate) const RESERVED_NAMES: [&str; 3] = ["shared", "system", "temp"];

/// Folders at the root of the shared bucket that belong to the platform: the last one to the controller itself.
pub(crate) const RESERVED_ROOTS: [&str; 4] = ["shared", "system", "temp", "codeloc"];

/// Why a text is not a repository's name, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    pub message: String,
    pub hint: &'static str,
}

impl RepositoryName {
    pub fn new(name: &str) -> Result<Self, NameError> {
        let label = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !name.ends_with('-')
            && !name.contains("--");
        let fault = |message, hint| Err(NameError { message, hint });
        if !label {
            let hint = "use lower-case letters, digits and single hyphens, beginning with a letter";
            fault(format!("`{}` cannot be a name", name.escape_debug()), hint)
        } else if name.len() > NAME_LENGTH {
            fault(format!("the name has {} characters", name.len()), "use at most 40")
        } else if RESERVED_NAMES.contains(&name) {
            fault(format!("the name `{name}` is reserved"), "choose another name")
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maps keyed by names are asked by text: a name orders and hashes as its text does.
impl std::borrow::Borrow<str> for RepositoryName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One code location as its team wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repository {
    pub name: RepositoryName,
    pub git_url: String,
    pub reference: GitReference,
    /// Folder inside the git repository that is treated as its root.
    pub subdirectory: Option<String>,
    pub code: CodePointer,
    /// The `Definitions` object inside the module or file, where it cannot be found by itself.
    pub attribute: Option<String>,
    /// Minor version, as in `3.12`; the platform's default where absent.
    pub python_version: Option<String>,
    /// An image built elsewhere, in place of a build: `NAME@sha256:…` or `NAME:TAG`.
    pub image: Option<String>,
    pub image_policy: ImagePolicy,
    /// The dependency file, relative to the root; found by itself where absent.
    pub dependencies: Option<String>,
    /// Makes the image in place of a build; relative to the root.
    pub dockerfile: Option<String>,
    pub resources: Resources,
    /// Of a run; [`Self::resources`] where absent.
    pub run_resources: Option<RunResources>,
    /// Without a slash at the end; `repos/NAME` by default.
    pub s3_prefix: String,
    pub environment: BTreeMap<String, String>,
    /// ARNs in the manner of ECS's `valueFrom`, by variable.
    pub secrets: BTreeMap<String, String>,
    pub access: Access,
    pub scaling: Scaling,
    pub health: Health,
    pub tags: BTreeMap<String, String>,
    /// Take over resources of these names that carry no tag of ours.
    pub adopt: bool,
    pub mode: Mode,
    /// Whether it stays when its config is removed.
    pub protect: bool,
}

impl Repository {
    /// `NAME:TAG` of an image that is given without a digest.
    pub fn image_tag(&self) -> Option<&str> {
        self.image.as_deref().filter(|image| !image.contains('@'))
    }
}

/// What becomes of a location whose image's tag names another image than before: it stays with what the tag named first, or gets
/// the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ImagePolicy {
    // No doc comments: with them the schema becomes a list of constants, of which an error names none.
    #[default]
    Pinned,
    Follow,
}

/// What may be done. The later, the stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Mode {
    /// Differences are repaired.
    #[default]
    Enforce,
    /// Differences are told.
    Detect,
    /// It is left alone.
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
    /// CPU units, 1024 to a vCPU.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    pub architecture: Architecture,
}

/// CPU units and MiB of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RunResources {
    pub cpu: u32,
    pub memory: u32,
}

/// Prefixes of the shared bucket that are granted beside the location's own, without slashes at either end, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    pub read: Vec<String>,
    /// Read as well.
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
    /// Percent of the service's average CPU that scaling holds.
    pub cpu_threshold: u32,
    /// Percent of the service's average memory that scaling holds.
    pub memory_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Seconds a new task may take until its port answers.
    pub start_seconds: u32,
    /// Seconds a steady service may take until its definitions are loaded.
    pub load_seconds: u32,
}
