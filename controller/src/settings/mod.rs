//! Settings of the daemon: one file, `codeloc.yml`. Each of them is also a flag and an environment variable, derived from
//! the same definition: `aws.cluster` is `--aws-cluster` and `CODELOC_AWS_CLUSTER`. A flag wins over the environment, and
//! that over the file.

mod check;
mod layers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use codeloc_crds::Mode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::events::Severity;

pub use layers::{Leaf, SettingsError, arguments, leaves, load};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Id of this deployment: the value of the ownership tag and the prefix of every name in AWS. At most 20 characters out of `[a-z0-9-]`, with single hyphens. Changing it leaves everything made before to itself.
    pub deployment: String,
    /// Where the REST API listens. Loopback unless told otherwise.
    pub listen: SocketAddr,
    /// What codeloc may do: `enforce`, `detect` (only say what differs) or `suspended`. A config can ask for less, not for more.
    pub mode: Mode,
    /// How many locations without a config may be deleted at once although they are the last ones, or half of all.
    pub allow_prune: usize,
    /// Where the configs come from: `path`, or `git_url`.
    pub source: SourceSettings,
    /// How git is run, for the configs and for the users' repositories.
    pub git: GitSettings,
    /// The place in AWS where locations live. All of it must exist.
    pub aws: AwsSettings,
    /// How a commit becomes an image.
    pub build: BuildSettings,
    /// The Dagster that is served.
    pub dagster: DagsterSettings,
    /// How often, and how much at once.
    pub reconcile: ReconcileSettings,
    /// Who may use the REST API.
    pub api: ApiSettings,
    /// Who is told of events.
    pub notify: NotifySettings,
    /// What costs are reckoned with.
    pub cost: CostSettings,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// A file with a line `ROLE NAME TOKEN` for each token; ROLE is `read` or `write`. Without it only loopback may be listened on.
    pub tokens_file: Option<PathBuf>,
    /// A file with the secret that git hosts sign their webhooks with. Without it `/hooks/git` accepts nothing.
    pub hook_secret_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NotifySettings {
    /// A file with the URL that events are posted to, in the JSON that Slack's incoming webhooks take. In a file, since it holds a secret.
    pub url_file: Option<PathBuf>,
    /// A file with the secret that what is posted is signed with, in the header `X-Codeloc-Signature-256`.
    pub secret_file: Option<PathBuf>,
    /// The least severe events that are posted: `normal` or `warning`.
    pub severity: Severity,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CostSettings {
    /// A table of prices in place of the one that comes with the program; `controller/src/cost/prices.yml` shows its form.
    pub prices_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    /// A folder that holds `NAME/config.yml`. It is watched.
    pub path: Option<PathBuf>,
    /// A git repository that holds the folder of configs. It is polled.
    pub git_url: Option<String>,
    /// Branch of `git_url`; `main` unless set.
    pub git_branch: Option<String>,
    /// Folder of configs inside `git_url`; `repos` unless set.
    pub git_folder: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GitSettings {
    /// The git program.
    pub program: PathBuf,
    /// URLs that begin with a key are fetched from its value instead, as git's `insteadOf` does: for mirrors.
    pub url_rewrites: BTreeMap<String, String>,
    /// Files that hold a token, by the beginning of the URLs that it is sent to. No redirect takes it to another host.
    pub tokens: BTreeMap<String, PathBuf>,
    /// Whether repositories may be local folders.
    pub allow_local: bool,
    /// Seconds between two looks at the branches, and at the image tags that are followed; 1 to 86400.
    pub poll_seconds: u64,
    /// Seconds one git command may take; 1 to 3600.
    pub timeout_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AwsSettings {
    /// AWS region; from the usual AWS configuration unless set.
    pub region: Option<String>,
    /// Another endpoint for all AWS services: localcloud, moto.
    pub endpoint_url: Option<String>,
    /// ECS cluster, by its name.
    pub cluster: String,
    /// Cloud Map namespace, by its DNS name. Not below `.local`, which is mDNS to some resolvers.
    pub namespace: String,
    /// S3 bucket of the platform.
    pub bucket: String,
    /// Subnets of the tasks.
    pub subnets: Vec<String>,
    /// Security groups of the tasks.
    pub security_groups: Vec<String>,
    /// Whether tasks get a public IP.
    pub assign_public_ip: bool,
    /// Role with which ECS pulls images and writes logs.
    pub execution_role_arn: String,
    /// Permissions boundary of every role that is made.
    pub permissions_boundary: Option<String>,
    /// Days that a location's logs are kept, out of those that CloudWatch offers: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653.
    pub log_retention_days: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildSettings {
    /// What images are built for: `config` (each config's architecture), or `host` (this machine's architecture and Python, for local development).
    pub platform: Platform,
    /// Image that every location's image stands on, or `scratch`.
    pub base_image: String,
    /// Python minor version, as in `3.12`, of configs that name none.
    pub python: String,
    /// Requirements that every location gets, such as `dagster==1.13.27`. A project that admits no such Dagster gets others of one release.
    pub requirements: Vec<String>,
    /// A constraints file that is always applied.
    pub constraints: Option<PathBuf>,
    /// Package index in place of the default one.
    pub index_url: Option<String>,
    /// The uv program.
    pub uv: PathBuf,
    /// A Python of the images' minor version that compiles `.pyc` files; without one they are left out.
    pub compile_python: Option<PathBuf>,
    /// Folder for caches and half-made layers. Losing it costs time only.
    pub work_folder: PathBuf,
    /// GiB on disk that builds keep for the next ones: git's caches, dependency layers, uv's cache. What was longest unused goes first.
    pub cache_gib: u32,
    /// Compression of layers.
    pub compression: Compression,
    /// Days for which an image stays in a location's ECR repository although no task definition names it any more.
    pub image_grace_days: u32,
    /// AWS `CodeBuild` project that builds the Dockerfiles of configs that name one.
    pub codebuild_project: Option<String>,
    /// The buildah program that builds them on this machine instead, with what they run; for laptops.
    pub buildah: Option<PathBuf>,
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
    /// The webserver, asked to reload and for what it shows. Without it only the file is written.
    pub webserver_url: Option<String>,
    /// The `workspace.yaml` that Dagster reads. Nobody else may write it.
    pub workspace_file: PathBuf,
    /// How Dagster reaches a location: `dns` (by name) or `discovered` (by the address that Cloud Map has, for a Dagster outside the VPC's DNS).
    pub address: AddressMode,
    /// Host of an entry with `dns`; `{service}` and `{namespace}` are filled in.
    pub host: String,
    /// Port of every code server.
    pub port: u16,
    /// Seconds a code server may take to answer one question; 1 to 600.
    pub timeout_seconds: u64,
    /// Environment variables of every code server and every run: those that the instance's `dagster.yaml` reads. A config's own win.
    pub environment: BTreeMap<String, String>,
    /// The same out of secrets: ARN of a secret or a parameter by variable. The platform's execution role must be allowed to read them;
    /// that of a location with secrets of its own is.
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
    /// Seconds between two sweeps over everything; 1 to 86400.
    pub resync_seconds: u64,
    /// Locations that are worked on at once; 1 to 1000.
    pub workers: usize,
    /// Images that are built at once; 1 to 100.
    pub builds: usize,
    /// Seconds after which another controller may take the lease of one that is not heard of any more. A mutating call gets
    /// two fifths of it.
    pub lease_seconds: u64,
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
            uv: PathBuf::from("uv"),
            compile_python: None,
            work_folder: PathBuf::from("/var/lib/codeloc"),
            cache_gib: 10,
            compression: Compression::Zstd,
            image_grace_days: 7,
            codebuild_project: None,
            buildah: None,
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
        Self { resync_seconds: 60, workers: 8, builds: 2, lease_seconds: 60 }
    }
}
