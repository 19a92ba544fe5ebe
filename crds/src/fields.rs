//! The fields of `config.yml` as they are written: what the schema is generated from and what a file is decoded into.
//!
//! Doc comments here are what an editor shows to the author of a config.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::repository::{Architecture, ImagePolicy, Mode};

/// One Dagster code location: `repos/NAME/config.yml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "codeloc repository", extend("oneOf" = [
    {"required": ["python_file"], "title": "python_file"},
    {"required": ["module"], "title": "module"},
]))]
pub(crate) struct RepositoryFields {
    /// Name of the code location, equal to the name of the folder that holds this file: lower-case letters, digits and
    /// single hyphens, beginning with a letter.
    #[schemars(length(max = 40), regex(pattern = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"), extend("examples" = ["my-pipeline"]))]
    pub name: String,

    /// Where the code is fetched from: `https://…`, `ssh://…` or `git@host:path`, without credentials.
    #[schemars(extend("examples" = ["https://github.com/user/repo.git", "git@github.com:user/repo.git"]))]
    pub git_url: String,

    /// The branch whose newest commit runs; `main` where neither tag nor commit is given.
    #[schemars(extend("default" = "main", "examples" = ["main"]))]
    pub branch: Option<String>,

    /// A tag in place of a branch.
    #[schemars(extend("examples" = ["v1.4.0"]))]
    pub tag: Option<String>,

    /// A commit in place of a branch: all 40 hexadecimal digits.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{40}$"))]
    pub commit: Option<String>,

    /// Folder inside the git repository that is treated as its root.
    #[schemars(extend("examples" = ["pipelines/sales"]))]
    pub subdirectory: Option<String>,

    /// The file that holds the definitions, relative to the root. Either this or `module`.
    #[schemars(regex(pattern = r"\.py$"), extend("examples" = ["my_pipeline/definitions.py"]))]
    pub python_file: Option<String>,

    /// The module that holds the definitions, as a dotted name. Either this or `python_file`.
    #[schemars(regex(pattern = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"), extend("examples" = ["my_pipeline.definitions"]))]
    pub module: Option<String>,

    /// Name of the `Definitions` object, where the module holds more than one.
    #[schemars(regex(pattern = r"^[A-Za-z_]\w*$"), extend("examples" = ["defs"]))]
    pub attribute: Option<String>,

    /// Minor version of Python, in quotes; the platform's default where absent.
    #[schemars(extend("enum" = ["3.10", "3.11", "3.12", "3.13", "3.14"]))]
    pub python_version: Option<String>,

    /// An image built elsewhere, in place of a build: `NAME@sha256:…`, or `NAME:TAG`, of which the digest is looked up and runs.
    #[schemars(
        regex(pattern = r"^[^\s@]+(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})$"),
        extend("examples" = ["registry.example/team/app:1.4.0"])
    )]
    pub image: Option<String>,

    /// What a tag that moves means: nothing (`pinned`, the default: what it named first runs until `image` is changed), or a new
    /// rollout (`follow`). Only beside an `image` with a tag.
    #[schemars(extend("default" = "pinned"))]
    pub image_policy: Option<ImagePolicy>,

    /// The file that names the dependencies, relative to the root; found by itself where absent.
    #[schemars(extend("examples" = ["requirements.txt", "uv.lock", "pylock.toml"]))]
    pub dependencies: Option<String>,

    /// A Dockerfile, relative to the root, that makes the image in place of a build from dependencies. It is built outside of codeloc, as
    /// `build.codebuild_project` or `build.buildah` says, has to leave the code in `/opt/codeloc/code`, and Python with Dagster on the path.
    #[schemars(extend("examples" = ["Dockerfile"]))]
    pub dockerfile: Option<String>,

    #[serde(default)]
    pub resources: ResourceFields,

    /// Prefix in the shared bucket that this location may write, without a slash at either end; `repos/NAME` by default. No other location's, and none of the platform's.
    #[schemars(extend("examples" = ["repos/my-pipeline"]))]
    pub s3_prefix: Option<String>,

    /// Environment variables of the code server and of its runs.
    #[serde(default)]
    pub environment: Vec<EnvironmentFields>,

    /// Environment variables of the code server and of its runs that ECS fills from Secrets Manager or Parameter Store. This location's
    /// execution role may read these and no others.
    #[serde(default)]
    pub secrets: Vec<SecretFields>,

    /// CPU and memory of a run; those of the code server where absent.
    pub run_resources: Option<RunResourceFields>,

    #[serde(default)]
    pub access: AccessFields,

    #[serde(default)]
    pub health: HealthFields,

    #[serde(default)]
    pub scaling: ScalingFields,

    /// What codeloc may do: `enforce` (make it so and keep it so), `detect` (only say what differs) or `suspended` (leave it
    /// alone). The daemon's own mode, where that is stricter, comes first.
    #[serde(default)]
    pub mode: Mode,

    /// The mode that `codeloc resume` gives back. `codeloc suspend` writes it; it stands only beside `mode: suspended`.
    pub mode_when_resumed: Option<ModeWhenResumed>,

    #[serde(default)]
    pub deletion: DeletionFields,

    /// Not supported yet: a target group in front of the code server.
    pub load_balancer: Option<NotSupported>,

    /// Not supported yet: Fargate Spot.
    pub spot: Option<NotSupported>,

    /// Tags on every AWS resource of this location, beside codeloc's own.
    #[serde(default)]
    #[schemars(length(max = 40), extend("examples" = [{"team": "sales"}]))]
    pub tags: BTreeMap<String, String>,

    /// Take over AWS resources of these names that exist already and carry no tag of codeloc's.
    #[serde(default)]
    pub adopt: bool,
}

/// The modes that a location can be suspended from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum ModeWhenResumed {
    Enforce,
    Detect,
}

/// What becomes of the location when this file is removed.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct DeletionFields {
    /// Whether removing this file leaves everything as it is. To remove a protected location, set this to false in one commit
    /// and remove the file in a later one.
    pub protect: bool,
    /// What becomes of the data under the prefix. There is one choice: it stays.
    pub data: DataOnDeletion,
}

/// What becomes of data whose location is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum DataOnDeletion {
    #[default]
    Retain,
}

/// The value of a field that nothing acts on yet: never accepted, and marked by an editor.
#[derive(Debug, Deserialize)]
#[serde(from = "IgnoredAny")]
pub(crate) struct NotSupported;

impl From<IgnoredAny> for NotSupported {
    fn from(_: IgnoredAny) -> Self {
        Self
    }
}

impl JsonSchema for NotSupported {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NotSupported".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"not": {}})
    }
}

/// CPU and memory of one task, in a pair that Fargate offers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct ResourceFields {
    /// CPU units, 1024 to a vCPU.
    #[schemars(extend("enum" = [256, 512, 1024, 2048, 4096, 8192, 16384]))]
    pub cpu: u32,
    /// MiB. Which values there are depends on `cpu`: 512, 1024 and 2048 for a `cpu` of 256.
    #[schemars(range(min = 512, max = 122_880))]
    pub memory: u32,
    /// The processor that tasks run on.
    pub architecture: Architecture,
}

impl Default for ResourceFields {
    fn default() -> Self {
        Self { cpu: 256, memory: 512, architecture: Architecture::Arm64 }
    }
}

/// CPU and memory of one run, in a pair that Fargate offers. The processor is the code server's: they share an image.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunResourceFields {
    /// CPU units, 1024 to a vCPU.
    #[schemars(extend("enum" = [256, 512, 1024, 2048, 4096, 8192, 16384]))]
    pub cpu: u32,
    /// MiB. Which values there are depends on `cpu`: 512, 1024 and 2048 for a `cpu` of 256.
    #[schemars(range(min = 512, max = 122_880))]
    pub memory: u32,
}

/// What of the shared bucket this location may use beside its own prefix and reading `repos/shared`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct AccessFields {
    /// Prefixes that it may read and list, without a slash at either end.
    #[schemars(extend("examples" = [["repos/orders"]]))]
    pub read: Vec<String>,
    /// Prefixes of other locations that it may also write, without a slash at either end.
    #[schemars(extend("examples" = [["repos/shared/exports"]]))]
    pub write: Vec<String>,
}

/// One environment variable out of a secret.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct SecretFields {
    /// Letters, digits and underscores, not beginning with a digit.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), extend("examples" = ["DB_PASSWORD"]))]
    pub name: String,
    /// ARN of a secret in Secrets Manager, with `:KEY::` behind it for one key of its JSON, or ARN of a parameter in Parameter Store.
    #[schemars(extend("examples" = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-db-a1b2c3:password::"]))]
    pub value_from: String,
}

/// One environment variable.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct EnvironmentFields {
    /// Letters, digits and underscores, not beginning with a digit.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), extend("examples" = ["CUSTOM_VAR"]))]
    pub name: String,
    /// Text: numbers and booleans stand in quotes.
    #[schemars(extend("examples" = ["custom_value", "8080"]))]
    pub value: String,
}

/// How long a new revision may take before it counts as failed.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct HealthFields {
    /// Seconds a new task may take until its port answers.
    #[schemars(range(min = 1, max = 300))]
    pub start_seconds: u32,
    /// Seconds a steady service may take until its definitions are loaded.
    #[schemars(range(min = 1, max = 3600))]
    pub load_seconds: u32,
}

impl Default for HealthFields {
    fn default() -> Self {
        // The port opens only after the import: tens of seconds on a quarter of a vCPU, more with large libraries.
        Self { start_seconds: 120, load_seconds: 120 }
    }
}

/// How many tasks serve the location, and what adds one.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct ScalingFields {
    /// Fewest tasks.
    #[schemars(range(min = 1, max = 5000))]
    pub min_capacity: u32,
    /// Most tasks.
    #[schemars(range(min = 1, max = 5000))]
    pub max_capacity: u32,
    /// Percent of average CPU that scaling holds.
    #[schemars(range(min = 1, max = 100))]
    pub cpu_threshold: u32,
    /// Percent of average memory that scaling holds.
    #[schemars(range(min = 1, max = 100))]
    pub memory_threshold: u32,
}

impl Default for ScalingFields {
    fn default() -> Self {
        Self { min_capacity: 1, max_capacity: 2, cpu_threshold: 70, memory_threshold: 80 }
    }
}

impl RepositoryFields {
    /// Fields that a file gives although nothing acts on them yet.
    pub fn unsupported(&self) -> impl Iterator<Item = &'static str> {
        [("load_balancer", &self.load_balancer), ("spot", &self.spot)]
            .into_iter()
            .filter_map(|(name, value)| value.is_some().then_some(name))
    }
}
