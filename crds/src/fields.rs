//! The fields of `config.yml` as a user writes them. codeloc generates the JSON Schema from these types and decodes files into them.
//!
//! Editors show the doc comments of this module to the author of a config.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::location::{Architecture, ImagePolicy, Mode};

/// Config of one Dagster code location, stored as `repos/NAME/config.yml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "codeloc location", extend("oneOf" = [
    {"required": ["python_file"], "title": "python_file"},
    {"required": ["module"], "title": "module"},
]))]
pub(crate) struct LocationFields {
    /// Name of the location. It must match the name of the folder that contains this file. Use lowercase letters, digits and
    /// single hyphens, starting with a letter.
    #[schemars(length(max = 40), regex(pattern = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"), extend("examples" = ["my-pipeline"]))]
    pub name: String,

    /// URL of the git repository that contains the code: `https://…`, `ssh://…` or `git@host:path`, without credentials.
    #[schemars(extend("examples" = ["https://github.com/user/repo.git", "git@github.com:user/repo.git"]))]
    pub git_url: String,

    /// Branch to follow. codeloc rolls out its newest commit. Defaults to `main` unless `tag` or `commit` is set.
    #[schemars(extend("default" = "main", "examples" = ["main"]))]
    pub branch: Option<String>,

    /// Git tag to run instead of a branch.
    #[schemars(extend("examples" = ["v1.4.0"]))]
    pub tag: Option<String>,

    /// Commit to run instead of a branch, as 40 hexadecimal digits.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{40}$"))]
    pub commit: Option<String>,

    /// Folder in the git repository to use as the root of the code.
    #[schemars(extend("examples" = ["pipelines/sales"]))]
    pub subdirectory: Option<String>,

    /// Python file that contains the Dagster definitions, relative to the root. Set either this or `module`.
    #[schemars(regex(pattern = r"\.py$"), extend("examples" = ["my_pipeline/definitions.py"]))]
    pub python_file: Option<String>,

    /// Python module that contains the Dagster definitions, as a dotted name. Set either this or `python_file`.
    #[schemars(regex(pattern = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"), extend("examples" = ["my_pipeline.definitions"]))]
    pub module: Option<String>,

    /// Variable that contains the `Definitions` object. Set it only if the module contains more than one.
    #[schemars(regex(pattern = r"^[A-Za-z_]\w*$"), extend("examples" = ["defs"]))]
    pub attribute: Option<String>,

    /// Minor version of Python, in quotes. Defaults to the setting `build.python`.
    #[schemars(extend("enum" = ["3.10", "3.11", "3.12", "3.13", "3.14"]))]
    pub python_version: Option<String>,

    /// Existing container image to run instead of building one: `NAME@sha256:…` or `NAME:TAG`. codeloc resolves a tag to a digest
    /// and runs that digest.
    #[schemars(
        regex(pattern = r"^[^\s@]+(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})$"),
        extend("examples" = ["registry.example/team/app:1.4.0"])
    )]
    pub image: Option<String>,

    /// What codeloc does when the tag of `image` points to a new digest. `pinned` keeps the first digest until you
    /// change `image`; `follow` rolls out the new digest. Valid only if `image` has a tag.
    #[schemars(extend("default" = "pinned"))]
    pub image_policy: Option<ImagePolicy>,

    /// File that lists the Python dependencies, relative to the root. codeloc detects it if you do not set this field.
    #[schemars(extend("examples" = ["requirements.txt", "uv.lock", "pylock.toml"]))]
    pub dependencies: Option<String>,

    /// Dockerfile that builds the image, relative to the root. Replaces the build from `dependencies`. The settings
    /// `build.codebuild_project` and `build.buildah` choose the builder. The image must contain the code in `/opt/codeloc/code`, and
    /// Python with Dagster on the `PATH`.
    #[schemars(extend("examples" = ["Dockerfile"]))]
    pub dockerfile: Option<String>,

    #[serde(default)]
    pub build: BuildFields,

    #[serde(default)]
    pub resources: ResourceFields,

    /// Prefix in the shared bucket that this location reads and writes, without a leading or trailing slash. Defaults to `repos/NAME`.
    /// It must not overlap the prefix of another location or a reserved prefix.
    #[schemars(extend("examples" = ["repos/my-pipeline"]))]
    pub s3_prefix: Option<String>,

    /// Environment variables of the code server and its runs.
    #[serde(default)]
    pub environment: Vec<EnvironmentFields>,

    /// Environment variables of the code server and its runs whose values ECS reads from Secrets Manager or Parameter
    /// Store. The execution role of this location can read these secrets, those of the setting `dagster.secrets`, and
    /// no others.
    #[serde(default)]
    pub secrets: Vec<SecretFields>,

    /// CPU and memory of each run. Defaults to the CPU and memory of the code server.
    pub run_resources: Option<RunResourceFields>,

    #[serde(default)]
    pub access: AccessFields,

    #[serde(default)]
    pub health: HealthFields,

    #[serde(default)]
    pub scaling: ScalingFields,

    /// What codeloc does with this location: `enforce` creates it and repairs drift, `detect` only reports drift, `suspended`
    /// leaves it unchanged. The `mode` setting of the daemon wins if it is stricter.
    #[serde(default)]
    pub mode: Mode,

    /// Mode that `codeloc resume` restores. `codeloc suspend` writes this field. Valid only with `mode: suspended`.
    pub mode_when_resumed: Option<ModeWhenResumed>,

    #[serde(default)]
    pub deletion: DeletionFields,

    /// Not supported yet: load balancer target group for the code server.
    pub load_balancer: Option<NotSupported>,

    /// Not supported yet: Fargate Spot.
    pub spot: Option<NotSupported>,

    /// Tags that codeloc adds to every AWS resource of this location, in addition to its own tags. codeloc removes a tag that you remove
    /// here.
    #[serde(default)]
    #[schemars(length(max = 40), extend("examples" = [{"team": "sales"}]))]
    pub tags: BTreeMap<String, String>,

    /// Whether codeloc adopts existing AWS resources that have the names of this location and no codeloc tags. It then manages them as its
    /// own: a log group loses the lines that are older than `aws.log_retention_days`, and an image repository the images that no task
    /// definition uses.
    #[serde(default)]
    pub adopt: bool,
}

/// Modes that `codeloc resume` can restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum ModeWhenResumed {
    Enforce,
    Detect,
}

/// What codeloc does when you remove this file.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct DeletionFields {
    /// Whether codeloc keeps all AWS resources of this location when you remove this file. To delete a protected location, set this to
    /// false in one commit and remove the file in a later one.
    pub protect: bool,
    /// What codeloc does with the data under `s3_prefix` when you remove this file. `retain` keeps it and is the only choice.
    pub data: DataOnDeletion,
}

/// What codeloc does with the data of a deleted location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum DataOnDeletion {
    #[default]
    Retain,
}

/// Value of a field that codeloc does not support yet. The schema rejects any value, so that editors mark the field.
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

/// CPU and memory of each code server task. Fargate must offer the combination.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct ResourceFields {
    /// CPU units. 1024 units are one vCPU.
    #[schemars(extend("enum" = [256, 512, 1024, 2048, 4096, 8192, 16384]))]
    pub cpu: u32,
    /// Memory in MiB. The valid values depend on `cpu`: for example 512, 1024 or 2048 with `cpu: 256`.
    #[schemars(range(min = 512, max = 122_880))]
    pub memory: u32,
    /// CPU architecture of the tasks.
    pub architecture: Architecture,
}

impl Default for ResourceFields {
    fn default() -> Self {
        Self { cpu: 256, memory: 512, architecture: Architecture::Arm64 }
    }
}

/// CPU and memory of each run. Fargate must offer the combination. Runs use the image of the code server, and so its architecture.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RunResourceFields {
    /// CPU units. 1024 units are one vCPU.
    #[schemars(extend("enum" = [256, 512, 1024, 2048, 4096, 8192, 16384]))]
    pub cpu: u32,
    /// Memory in MiB. The valid values depend on `cpu`: for example 512, 1024 or 2048 with `cpu: 256`.
    #[schemars(range(min = 512, max = 122_880))]
    pub memory: u32,
}

/// How codeloc builds the image.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct BuildFields {
    /// Commands that prepare files of the code, such as `dbt parse`. They run with `sh -e -c`, in order, in the root of the location's code
    /// and in an isolated build that has the location's packages. Files that they write in the repository become part of the image. Without
    /// this field, codeloc prepares the dbt projects that dagster-dbt uses.
    #[schemars(extend("examples" = [["dbt parse --project-dir dbt"]]))]
    pub commands: Vec<String>,
}

/// Additional grants in the shared bucket. Every location can read and write its own prefix and read `repos/shared`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct AccessFields {
    /// Prefixes that this location can read and list, without a leading or trailing slash.
    #[schemars(extend("examples" = [["repos/orders"]]))]
    pub read: Vec<String>,
    /// Prefixes of other locations that this location can read, list and write, without a leading or trailing slash.
    #[schemars(extend("examples" = [["repos/shared/exports"]]))]
    pub write: Vec<String>,
}

/// One environment variable that ECS reads from a secret.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct SecretFields {
    /// Name of the variable: letters, digits and underscores, not starting with a digit.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), extend("examples" = ["DB_PASSWORD"]))]
    pub name: String,
    /// ARN of a secret in Secrets Manager or of a parameter in Parameter Store. Append `:KEY::` to the ARN of a secret to read one key
    /// of its JSON value.
    #[schemars(extend("examples" = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-db-a1b2c3:password::"]))]
    pub value_from: String,
}

/// One environment variable.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct EnvironmentFields {
    /// Name of the variable: letters, digits and underscores, not starting with a digit.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), extend("examples" = ["CUSTOM_VAR"]))]
    pub name: String,
    /// Value of the variable, as text. Quote numbers and booleans.
    #[schemars(extend("examples" = ["custom_value", "8080"]))]
    pub value: String,
}

/// Time limits of a rollout.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct HealthFields {
    /// Seconds that a new task can take to open its port, before ECS counts failed health checks.
    #[schemars(range(min = 1, max = 300))]
    pub start_seconds: u32,
    /// Seconds that every task can take to answer after the ECS service is stable. After that, the location is
    /// `Degraded` (`NotAnswering`).
    #[schemars(range(min = 1, max = 3600))]
    pub load_seconds: u32,
}

impl Default for HealthFields {
    fn default() -> Self {
        // A code server opens its port after the import, which takes tens of seconds on a quarter of a vCPU.
        Self { start_seconds: 120, load_seconds: 120 }
    }
}

/// Number of code server tasks, and the utilization that autoscaling targets.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(crate) struct ScalingFields {
    /// Minimum number of tasks.
    #[schemars(range(min = 1, max = 5000))]
    pub min_capacity: u32,
    /// Maximum number of tasks.
    #[schemars(range(min = 1, max = 5000))]
    pub max_capacity: u32,
    /// Target for the average CPU utilization of the service, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub cpu_threshold: u32,
    /// Target for the average memory utilization of the service, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub memory_threshold: u32,
}

impl Default for ScalingFields {
    fn default() -> Self {
        Self { min_capacity: 1, max_capacity: 2, cpu_threshold: 70, memory_threshold: 80 }
    }
}

impl LocationFields {
    /// Names of the fields that the file sets and codeloc does not support yet.
    pub fn unsupported(&self) -> impl Iterator<Item = &'static str> {
        [("load_balancer", &self.load_balancer), ("spot", &self.spot)]
            .into_iter()
            .filter_map(|(name, value)| value.is_some().then_some(name))
    }
}
