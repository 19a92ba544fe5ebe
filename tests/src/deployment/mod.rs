//! A deployment in one process: the real controller and AWS SDK on an in-process localcloud.

mod daemons;
mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use codeloc::config_source::{SourceState, read_folder};
use codeloc::daemon::Daemon;
use codeloc::reconcile::Ports;
use codeloc::settings::Settings;
use codeloc_aws::Clients;
use localcloud::LocalCloud;
use localcloud::model::images::MemoryImages;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::runs::Runs;
use crate::{Branches, Builds, CloudCodeServer, CloudWebserver, config, settings};

/// The daemon with simulated git, builder, code servers and webserver.
pub type TestDaemon = Daemon<Simulated>;

/// The simulated ports.
pub struct Simulated;

impl Ports for Simulated {
    type Builder = Builds;
    type CodeServer = CloudCodeServer;
    type Webserver = CloudWebserver;
}

/// One deployment: localcloud, configs, branches, a workspace file and any number of daemons.
pub struct TestDeployment {
    pub cloud: Arc<LocalCloud>,
    pub branches: Branches,
    pub builds: Builds,
    pub settings: Settings,
    pub configs: BTreeMap<String, String>,
    confirmed: BTreeSet<String>,
    source: watch::Sender<SourceState>,
    pub code_server: CloudCodeServer,
    /// Whether the controller limits its call rates.
    pub rate_limited: bool,
    pub webserver: CloudWebserver,
    /// The runs of all locations, which the webserver shows.
    pub runs: Runs,
    /// The images in ECR.
    pub images: Arc<MemoryImages>,
    running: BTreeMap<String, Running>,
    /// The workspace file and the configs; deleted with the deployment.
    folder: tempfile::TempDir,
}

struct Running {
    daemon: Arc<TestDaemon>,
    task: JoinHandle<()>,
}

impl TestDeployment {
    /// A localcloud with the cluster, namespace and bucket that a deployment needs.
    pub async fn new() -> Self {
        Self::with(localcloud::Rules::default()).await
    }

    /// [`Self::new`] with other rules of localcloud.
    pub async fn with(rules: localcloud::Rules) -> Self {
        Self::with_latency(Duration::from_millis(20), rules).await
    }

    /// [`Self::with`] with this duration of each call.
    pub async fn with_latency(latency: Duration, rules: localcloud::Rules) -> Self {
        let images = Arc::new(MemoryImages::default());
        let cloud = Arc::new(LocalCloud::start(localcloud::Settings {
            latency,
            rules,
            images: images.clone(),
            ..localcloud::Settings::default()
        }));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = settings(folder.path().join("workspace.yaml"));
        let code_server = CloudCodeServer::new(cloud.clone());
        let runs = Runs::new(cloud.clone());
        let file = settings.dagster.workspace_file.clone();
        let webserver = CloudWebserver::new(file, code_server.clone(), runs.clone());
        let deployment = Self {
            code_server,
            rate_limited: true,
            webserver,
            builds: Builds::new(cloud.clone(), images.clone()),
            runs,
            images,
            branches: Branches::default(),
            settings,
            configs: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            source: watch::Sender::new(SourceState::default()),
            running: BTreeMap::new(),
            folder,
            cloud,
        };
        let config = deployment.sdk();
        let ecs = aws_sdk_ecs::Client::new(&config);
        ecs.create_cluster().cluster_name("dagster").send().await.expect("a cluster");
        let clients = Clients::new(&config, &Arc::default());
        let namespace = clients.discovery.create_private_dns_namespace().name("dagster.internal").vpc("vpc-a");
        namespace.send().await.expect("a namespace");
        // Creating a namespace is asynchronous, and a throttling localcloud can refuse the list call.
        while !clients.discovery.list_namespaces().send().await.is_ok_and(|found| !found.namespaces().is_empty()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let s3 = clients.s3.create_bucket().bucket("platform");
        s3.send().await.expect("a bucket");
        deployment.cloud.reset_calls();
        deployment
    }

    /// A deployment with a daemon and these locations, all healthy.
    pub async fn converged(names: &[&str]) -> Self {
        let mut deployment = Self::new().await;
        for name in names {
            deployment.commit(name, config(name));
        }
        deployment.start().await;
        deployment.wait_until_healthy(names).await;
        deployment
    }

    /// An SDK configuration with localcloud in place of the network.
    pub fn sdk(&self) -> SdkConfig {
        self.sdk_for("by-hand")
    }

    /// `caller` is the access key id, which the list of calls shows.
    fn sdk_for(&self, caller: &str) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(caller, "test", None, None, "test")))
            .endpoint_url("http://localcloud.test")
            .http_client(self.cloud.connector())
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .retry_config(RetryConfig::standard().with_max_attempts(5))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(20)).build())
            .build()
    }

    /// AWS clients of the test itself.
    pub fn clients(&self) -> Clients {
        Clients::new(&self.sdk(), &Arc::default())
    }

    pub fn workspace_file(&self) -> PathBuf {
        self.settings.dagster.workspace_file.clone()
    }

    pub fn workspace(&self) -> String {
        std::fs::read_to_string(self.workspace_file()).expect("read workspace.yaml")
    }

    /// Commits a config, valid or not.
    pub fn commit(&mut self, name: &str, config: impl Into<String>) {
        self.configs.insert(name.to_owned(), config.into());
        self.publish();
    }

    /// Commits the shortest config for each name.
    pub fn commit_all(&mut self, names: &[String]) {
        for name in names {
            self.configs.insert(name.clone(), config(name));
        }
        self.publish();
    }

    pub fn remove(&mut self, name: &str) {
        self.configs.remove(name);
        self.publish();
    }

    /// Writes the configs to a folder, reads them as the daemon does, and passes them to all daemons.
    pub fn publish(&self) {
        let root = self.folder.path().join("repos");
        if root.exists() {
            std::fs::remove_dir_all(&root).expect("remove the configs");
        }
        std::fs::create_dir(&root).expect("a folder of configs");
        for (name, text) in &self.configs {
            std::fs::create_dir(root.join(name)).expect("a folder of a config");
            std::fs::write(root.join(name).join("config.yml"), text).expect("a config");
        }
        let confirmed: Vec<&str> = self.confirmed.iter().map(String::as_str).collect();
        std::fs::write(root.join("prune.txt"), confirmed.join("\n")).expect("write prune.txt");
        let snapshot = read_folder(&root).expect("read the configs");
        self.source.send_modify(|state| {
            state.snapshot = Some(Arc::new(snapshot));
            state.read = Some(tokio::time::Instant::now());
        });
    }

    /// Makes the config source fail with a message, or recover.
    pub fn fail_source(&self, failure: Option<&str>) {
        let failure = failure
            .map(|message| codeloc_git::Failure { message: message.to_owned(), since: tokio::time::Instant::now() });
        self.source.send_modify(|state| state.failure = failure);
    }

    /// Writes these names to `prune.txt`.
    pub fn confirm(&mut self, names: &[&str]) {
        self.confirmed = names.iter().map(ToString::to_string).collect();
        self.publish();
    }
}
