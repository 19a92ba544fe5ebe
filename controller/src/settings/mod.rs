//! Settings of the daemon, from the file `codeloc.yml`. Each setting is also a flag and an environment variable, derived from the same
//! definition: `aws.cluster` is `--aws-cluster` and `CODELOC_AWS_CLUSTER`. A flag takes precedence over the environment, and the
//! environment over the file.
//!
//! The doc comments of the fields are the descriptions in `docs/settings.md`, in `--help` and in the example file.

mod check;
#[cfg(test)]
pub(crate) mod fixtures;
mod layers;
mod severity;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use codeloc_crds::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use layers::{Leaf, SettingsError, arguments, from_yaml, leaves, load};
pub use severity::Severity;

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Id of this deployment: the value of the ownership tag and the prefix of all names in AWS. At most 20 characters of `[a-z0-9-]`, with single hyphens. If you change it, codeloc no longer manages the existing resources.
    pub deployment: String,
    /// Address on which the REST API listens.
    pub listen: SocketAddr,
    /// What codeloc does: `enforce` (repair drift), `detect` (only report drift) or `suspended` (change nothing). The
    /// `mode` of a config can be stricter, but not less strict.
    pub mode: Mode,
    /// Number of locations without a config that codeloc may delete at once without confirmation, even if they are half
    /// or all of the locations.
    pub allow_prune: usize,
    /// Source of the configs: `path` or `git_url`.
    pub source: SourceSettings,
    /// How codeloc runs git, for the configs and for the repositories of the locations.
    pub git: GitSettings,
    /// The AWS infrastructure in which the locations run. All of it must exist.
    pub aws: AwsSettings,
    /// How codeloc builds an image from a commit.
    pub build: BuildSettings,
    /// The Dagster instance that uses the locations.
    pub dagster: DagsterSettings,
    /// Intervals and concurrency.
    pub reconcile: ReconcileSettings,
    /// Access to the REST API.
    pub api: ApiSettings,
    /// Webhook to which codeloc posts events.
    pub notify: NotifySettings,
    /// Prices for cost estimates.
    pub cost: CostSettings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// File with one line `ROLE NAME TOKEN` for each token of the REST API; ROLE is `read` or `write`. Without it,
    /// `listen` must be a loopback address.
    pub tokens_file: Option<PathBuf>,
    /// File with the secret that git hosts use to sign their webhooks. Without it, codeloc refuses all requests to
    /// `/hooks/git`.
    pub hook_secret_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NotifySettings {
    /// File with the URL to which codeloc posts events, in the JSON of Slack's incoming webhooks. The URL is in a file because it contains a secret.
    pub url_file: Option<PathBuf>,
    /// File with the secret that codeloc uses to sign posted events, in the header `X-Codeloc-Signature-256`.
    pub secret_file: Option<PathBuf>,
    /// Lowest severity of the events to post: `normal` or `warning`.
    pub severity: Severity,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CostSettings {
    /// File with prices that replace the built-in ones, in the format of `controller/src/cost/prices.yml`.
    pub prices_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    /// Folder that contains `NAME/config.yml` for each location. codeloc watches it.
    pub path: Option<PathBuf>,
    /// URL of a git repository that contains the folder of configs. codeloc polls it.
    pub git_url: Option<String>,
    /// Branch of `git_url`; `main` by default.
    pub git_branch: Option<String>,
    /// Folder of configs in `git_url`; `repos` by default.
    pub git_folder: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GitSettings {
    /// Path of the git program.
    pub program: PathBuf,
    /// For mirrors: codeloc replaces the key at the beginning of a URL with the value, as git's `insteadOf` does.
    pub url_rewrites: BTreeMap<String, String>,
    /// Files with access tokens, by URL prefix. codeloc sends a token only to URLs with its prefix; redirects to other hosts do not receive it.
    pub tokens: BTreeMap<String, PathBuf>,
    /// Whether repository URLs may be local folders.
    pub allow_local: bool,
    /// Interval in seconds at which codeloc polls branches and image tags; 1 to 86400.
    pub poll_seconds: u64,
    /// Timeout in seconds of one git command; 1 to 3600.
    pub timeout_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AwsSettings {
    /// AWS region; by default from the environment or the AWS profile.
    pub region: Option<String>,
    /// URL of an AWS emulator, such as localcloud or moto, which codeloc then uses instead of AWS.
    pub endpoint_url: Option<String>,
    /// Name of the ECS cluster.
    pub cluster: String,
    /// DNS name of the Cloud Map namespace. It must not end with `.local`, which some resolvers use for mDNS.
    pub namespace: String,
    /// Name of the S3 bucket that all locations share. codeloc stores its lease and its build cache in it.
    pub bucket: String,
    /// Ids of the subnets in which the tasks run.
    pub subnets: Vec<String>,
    /// Ids of the security groups of the tasks.
    pub security_groups: Vec<String>,
    /// Whether tasks get a public IP address.
    pub assign_public_ip: bool,
    /// ARN of the execution role, with which ECS pulls images and writes logs.
    pub execution_role_arn: String,
    /// ARN of the permissions boundary for all roles that codeloc creates.
    pub permissions_boundary: Option<String>,
    /// Retention of logs in days. CloudWatch allows 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653.
    pub log_retention_days: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildSettings {
    /// Target of image builds: `config` (the architecture in each config) or `host` (architecture and Python of this machine, for local development).
    pub platform: Platform,
    /// Base image of all images that codeloc builds. `scratch` contains no Python: use it only for local development. If a tag moves, the next commit of a location uses the new image.
    pub base_image: String,
    /// Python minor version, such as `3.12`, for configs without `python_version`.
    pub python: String,
    /// Requirements of all locations, such as `dagster==1.13.27`. If a project excludes that Dagster version, codeloc installs the Dagster packages of another release.
    pub requirements: Vec<String>,
    /// File with version constraints for the dependencies of all locations, in the format of pip's constraints files.
    pub constraints: Option<PathBuf>,
    /// URL of the package index that replaces the default one.
    pub index_url: Option<String>,
    /// URLs of further package indexes by name, which projects may use. uv takes a package from the first index that has it, and these come
    /// before the default one.
    pub indexes: BTreeMap<String, String>,
    /// Files with one line `USER:PASSWORD`, by the name of an index.
    pub index_credentials: BTreeMap<String, PathBuf>,
    /// Packages that only one index may provide: the name of the index by a package or a pattern such as `acme-*`.
    pub exclusive_packages: BTreeMap<String, String>,
    /// Path of the uv program.
    pub uv: PathBuf,
    /// Path of a Python interpreter with the minor version of the images. codeloc compiles `.pyc` files with it.
    /// Without it, images contain no `.pyc` files.
    pub compile_python: Option<PathBuf>,
    /// Folder for caches and unfinished layers. codeloc rebuilds it if you delete it.
    pub work_folder: PathBuf,
    /// Maximum size of the build caches on disk in GiB: git objects, dependency layers and uv's cache. codeloc evicts the least recently used entries first.
    pub cache_gib: u32,
    /// Compression of image layers: `zstd` or `gzip`.
    pub compression: Compression,
    /// Minimum age in days, since its push, at which codeloc deletes an image that no task definition names from ECR; 1
    /// to 3650.
    pub image_grace_days: u32,
    /// Name of the AWS `CodeBuild` project that builds the Dockerfiles of configs with `dockerfile`.
    pub codebuild_project: Option<String>,
    /// Path of the buildah program, which builds these Dockerfiles on this machine instead of in `CodeBuild`. It
    /// executes the commands of the Dockerfiles on this machine: use it only for local development.
    pub buildah: Option<PathBuf>,
    /// Time limit in minutes of the build of one Dockerfile; 5 to 480. The time in the queue of `CodeBuild` does not count.
    pub dockerfile_minutes: u64,
    /// Image of the ECS tasks in which codeloc runs the code of packages and projects: sdists, git dependencies, build backends and
    /// `build.commands`. codeloc replaces `{python}` by the minor version of Python. Without it, codeloc refuses what needs such a task.
    pub isolated_image: Option<String>,
    /// Ids of the security groups of these tasks; by default those in `aws.security_groups`. They need HTTPS to the internet and to S3, and
    /// nothing else.
    pub isolated_security_groups: Vec<String>,
    /// CPU units of one of these tasks, as Fargate offers them; 256 to 16384.
    pub isolated_cpu: u32,
    /// Memory of one of these tasks in MiB, as Fargate offers it for the CPU; 512 to 122880.
    pub isolated_memory: u32,
    /// Disk of one of these tasks in GiB; 20 to 200.
    pub isolated_disk_gib: u32,
    /// Time limit in minutes of one of these tasks; 1 to 240.
    pub isolated_minutes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    Config,
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Zstd,
    Gzip,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DagsterSettings {
    /// URL of Dagster's webserver. codeloc makes it reload `workspace.yaml` and checks what it shows. Without it, codeloc only writes the file.
    pub webserver_url: Option<String>,
    /// Path of the `workspace.yaml` that Dagster reads. Only codeloc may write it.
    pub workspace_file: PathBuf,
    /// How Dagster reaches a location: `dns` (by DNS name) or `discovered` (by the address in Cloud Map, for a Dagster that does not use the VPC's DNS).
    pub address: AddressMode,
    /// Host name of a location with `address: dns`. codeloc replaces `{service}` and `{namespace}`.
    pub host: String,
    /// Port of all code servers.
    pub port: u16,
    /// Timeout in seconds of one request to a code server or to the webserver; 1 to 600.
    pub timeout_seconds: u64,
    /// Environment variables of all code servers and runs, for example those that `dagster.yaml` names. Variables in a
    /// config take precedence.
    pub environment: BTreeMap<String, String>,
    /// Environment variables of all code servers and runs whose values ECS reads from secrets: the ARN of a secret or
    /// parameter for each variable. The role `aws.execution_role_arn` must be allowed to read them. A location with its
    /// own `secrets` gets its own execution role, which can read these secrets too.
    pub secrets: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AddressMode {
    Dns,
    Discovered,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReconcileSettings {
    /// Interval in seconds between sweeps of all locations; 1 to 86400.
    pub resync_seconds: u64,
    /// Number of locations that codeloc reconciles at the same time; 1 to 1000.
    pub workers: usize,
    /// Number of images that codeloc builds on its own machine at the same time; 1 to 100. Builds of Dockerfiles do not count.
    pub builds: usize,
    /// Seconds after which a standby takes over the lease from a holder that no longer renews it; 5 to 600. A call that
    /// changes AWS may take at most two fifths of this time.
    pub lease_seconds: u64,
    /// Hours for which codeloc waits until the runs of a removed location end, before it deletes what they use; 0 to 720.
    pub run_wait_hours: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deployment: "codeloc".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            mode: Mode::Enforce,
            allow_prune: 0,
            source: SourceSettings::default(),
            git: GitSettings::default(),
            aws: AwsSettings::default(),
            build: BuildSettings::default(),
            dagster: DagsterSettings::default(),
            reconcile: ReconcileSettings::default(),
            api: ApiSettings::default(),
            notify: NotifySettings::default(),
            cost: CostSettings::default(),
        }
    }
}

impl Default for GitSettings {
    fn default() -> Self {
        Self {
            program: PathBuf::from("git"),
            url_rewrites: BTreeMap::new(),
            tokens: BTreeMap::new(),
            allow_local: false,
            poll_seconds: 30,
            timeout_seconds: 120,
        }
    }
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self {
            region: None,
            endpoint_url: None,
            cluster: "dagster".to_owned(),
            namespace: "dagster.internal".to_owned(),
            bucket: String::new(),
            subnets: vec![],
            security_groups: vec![],
            assign_public_ip: false,
            execution_role_arn: String::new(),
            permissions_boundary: None,
            log_retention_days: 30,
        }
    }
}

impl Default for BuildSettings {
    fn default() -> Self {
        Self {
            platform: Platform::Config,
            base_image: "scratch".to_owned(),
            python: "3.12".to_owned(),
            requirements: vec!["dagster".to_owned()],
            constraints: None,
            index_url: None,
            indexes: BTreeMap::new(),
            index_credentials: BTreeMap::new(),
            exclusive_packages: BTreeMap::new(),
            uv: PathBuf::from("uv"),
            compile_python: None,
            work_folder: PathBuf::from("/var/lib/codeloc"),
            cache_gib: 10,
            compression: Compression::Zstd,
            image_grace_days: 7,
            codebuild_project: None,
            buildah: None,
            dockerfile_minutes: 60,
            isolated_image: None,
            isolated_security_groups: vec![],
            isolated_cpu: 2048,
            isolated_memory: 8192,
            isolated_disk_gib: 20,
            isolated_minutes: 30,
        }
    }
}

impl Default for DagsterSettings {
    fn default() -> Self {
        Self {
            webserver_url: None,
            workspace_file: PathBuf::from("workspace.yaml"),
            address: AddressMode::Dns,
            host: "{service}.{namespace}".to_owned(),
            port: 4000,
            timeout_seconds: 20,
            environment: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}

impl Default for ReconcileSettings {
    fn default() -> Self {
        Self { resync_seconds: 60, workers: 8, builds: 2, lease_seconds: 60, run_wait_hours: 24 }
    }
}
