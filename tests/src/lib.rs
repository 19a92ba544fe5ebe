//! What the tests share: a deployment in one process. The controller and the AWS SDK are the real ones, the cloud is
//! localcloud, and under tokio's paused clock a day of it takes seconds. Git, the builder, the code servers and the
//! webserver are simulated by what the cloud runs.

mod fakes;
pub mod interceptor;
pub mod lone;
pub mod moto;
pub mod processes;
mod shape;
pub mod simulation;
pub mod stack;

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
use codeloc::reconcile::fault::Fault;
use codeloc::reconcile::queue::Queue;
use codeloc::reconcile::{Context, Daemon, Images, Reconciler, Workspace, deployment};
use codeloc::runtime::Clock;
use codeloc::settings::Settings;
use codeloc::status::{Recorder, StatusStore};
use codeloc_aws::fence::Fence;
use codeloc_aws::lease::{Lease, LeaseState};
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_aws::resources::role::PAGE;
use codeloc_aws::{Cache, Clients};
use codeloc_core::priority::Priority;
use codeloc_core::status::{Health, LocationStatus, Reason, Sync};
use codeloc_dagster::workspace_file::Publisher;
use codeloc_git::refs::{RefKey, Refs, RefsSettings};
use localcloud::LocalCloud;
use localcloud::calls::Call;
use localcloud::services::ecr::MemoryImages;
use localcloud::services::ecs::task::Task;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use fakes::{Branches, Builds, CloudCodeServer, CloudWebserver};
pub use shape::shape;

/// The daemon as it runs here.
pub type Fleet = Daemon<Builds, CloudCodeServer, CloudWebserver>;

/// One deployment: a cloud, configs, branches, a workspace file, and at most one daemon.
pub struct TestDeployment {
    pub cloud: Arc<LocalCloud>,
    pub branches: Branches,
    pub builds: Builds,
    pub settings: Settings,
    pub configs: BTreeMap<String, String>,
    confirmed: BTreeSet<String>,
    source: watch::Sender<SourceState>,
    pub code_server: CloudCodeServer,
    /// Whether the controller reckons with rates at which AWS refuses calls.
    pub limited: bool,
    pub webserver: CloudWebserver,
    /// What lies in ECR: nothing that a test did not put there.
    pub images: Arc<MemoryImages>,
    running: BTreeMap<String, Running>,
    /// Holds the workspace file and the configs; removed with the deployment.
    folder: tempfile::TempDir,
}

struct Running {
    fleet: Arc<Fleet>,
    task: JoinHandle<()>,
}

/// A config as short as it may be.
pub fn config(name: &str) -> String {
    format!("name: {name}\ngit_url: https://git.test/{name}.git\nmodule: {}.definitions\n", name.replace('-', "_"))
}

/// Names for a fleet of so many.
pub fn names(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("location{number:04}")).collect()
}

/// What only a sweep asks, once for each [`PAGE`] roles.
pub const SWEPT: &str = "GetAccountAuthorizationDetails";

/// How often one sweep of so many locations asks for [`SWEPT`].
pub fn pages_of_roles(locations: usize) -> usize {
    locations.div_ceil(usize::try_from(PAGE).expect("a page has roles"))
}

/// Those of every deployment here.
pub fn settings(workspace_file: PathBuf) -> Settings {
    let mut settings = Settings::default();
    "platform".clone_into(&mut settings.aws.bucket);
    settings.aws.subnets = vec!["subnet-a".to_owned()];
    settings.aws.security_groups = vec!["sg-a".to_owned()];
    "arn:aws:iam::123456789012:role/execution".clone_into(&mut settings.aws.execution_role_arn);
    settings.dagster.workspace_file = workspace_file;
    settings
}

impl TestDeployment {
    /// A cloud with the cluster, the namespace and the bucket that every deployment stands on, and nothing else.
    pub async fn new() -> Self {
        Self::with(localcloud::Rules::default()).await
    }

    /// The same, with other rules of the cloud.
    pub async fn with(rules: localcloud::Rules) -> Self {
        Self::answering_within(Duration::from_millis(20), rules).await
    }

    /// The same, where each call takes so long.
    pub async fn answering_within(latency: Duration, rules: localcloud::Rules) -> Self {
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
        let webserver = CloudWebserver::new(settings.dagster.workspace_file.clone(), code_server.clone());
        let deployment = Self {
            code_server,
            limited: true,
            webserver,
            images,
            branches: Branches::default(),
            builds: Builds::default(),
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
        // Making a namespace is an operation that takes its time, and a cloud that throttles may refuse to say whether it is there.
        while !clients.discovery.list_namespaces().send().await.is_ok_and(|found| !found.namespaces().is_empty()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let s3 = clients.s3.create_bucket().bucket("platform");
        s3.send().await.expect("a bucket");
        deployment.cloud.reset_calls();
        deployment
    }

    /// A deployment whose daemon has brought these locations to where they should be.
    pub async fn converged(names: &[&str]) -> Self {
        let mut deployment = Self::new().await;
        for name in names {
            deployment.commit(name, config(name));
        }
        deployment.start().await;
        deployment.until_healthy(names).await;
        deployment
    }

    /// The real SDK's configuration, with the cloud in place of the network.
    pub fn sdk(&self) -> SdkConfig {
        self.sdk_of("by-hand")
    }

    /// Signed with an access key id of its own, which the list of calls shows.
    fn sdk_of(&self, caller: &str) -> SdkConfig {
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

    /// For changes by hand, and for looking.
    pub fn clients(&self) -> Clients {
        Clients::new(&self.sdk(), &Arc::default())
    }

    pub fn workspace_file(&self) -> PathBuf {
        self.settings.dagster.workspace_file.clone()
    }

    pub fn workspace(&self) -> String {
        std::fs::read_to_string(self.workspace_file()).expect("workspace.yaml is there")
    }

    /// Commits a config: valid or not, as it is.
    pub fn commit(&mut self, name: &str, config: impl Into<String>) {
        self.configs.insert(name.to_owned(), config.into());
        self.publish();
    }

    /// Commits a config for each of these names.
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

    /// Makes the configs as they are now the newest reading: out of a folder, as the daemon reads them.
    pub fn publish(&self) {
        let root = self.folder.path().join("repos");
        if root.exists() {
            std::fs::remove_dir_all(&root).expect("the folder of configs can be removed");
        }
        std::fs::create_dir(&root).expect("a folder of configs");
        for (name, text) in &self.configs {
            std::fs::create_dir(root.join(name)).expect("a folder of a config");
            std::fs::write(root.join(name).join("config.yml"), text).expect("a config");
        }
        let confirmed: Vec<&str> = self.confirmed.iter().map(String::as_str).collect();
        std::fs::write(root.join("prune.txt"), confirmed.join("\n")).expect("names that are confirmed");
        let snapshot = read_folder(&root).expect("a folder that can be read");
        self.source.send_modify(|state| {
            state.snapshot = Some(Arc::new(snapshot));
            state.read = Some(tokio::time::Instant::now());
        });
    }

    /// A reading of the configs that fails; with nothing, they can be read again.
    pub fn fail_source(&self, failure: Option<&str>) {
        let failure = failure
            .map(|message| codeloc_git::Failure { message: message.to_owned(), since: tokio::time::Instant::now() });
        self.source.send_modify(|state| state.failure = failure);
    }

    /// Names that `prune.txt` confirms.
    pub fn confirm(&mut self, names: &[&str]) {
        self.confirmed = names.iter().map(ToString::to_string).collect();
        self.publish();
    }

    /// Starts the daemon. Everything it knows comes from the cloud and the configs.
    pub async fn start(&mut self) {
        self.start_as("codeloc").await;
    }

    /// Starts one of several daemons of this deployment, told apart by the access key id that it signs with.
    pub async fn start_as(&mut self, caller: &str) {
        assert!(!self.running.contains_key(caller), "{caller} runs already");
        let limits = Arc::new(if self.limited { RateLimiter::default() } else { RateLimiter::none() });
        let clients = Clients::new(&self.sdk_of(caller), &limits);
        let deployment = loop {
            // As whoever runs the daemon starts it again when it ends at once.
            match deployment::find(&self.settings, &clients, Some("eu-central-1")).await {
                Ok(deployment) => break deployment,
                Err(_) => tokio::time::sleep(Duration::from_secs(5)).await,
            }
        };
        let queue = Arc::new(Queue::default());
        let millis = i64::try_from(self.cloud.now().millis()).expect("a date of this age");
        let clock = Clock::starting_at(jiff::Timestamp::from_millisecond(millis).expect("a date"));
        let recorder = Arc::new(Recorder::new(clock));
        let (moved, receiver) = tokio::sync::mpsc::unbounded_channel();
        let refs_settings = RefsSettings { interval: Duration::from_secs(30), parallelism: 8 };
        let refs = Refs::start(self.branches.clone(), refs_settings, move |key: &RefKey| {
            let _ = moved.send(key.clone());
        });
        self.branches.attach(refs.clone());
        let (bucket, id) = (&self.settings.aws.bucket, &self.settings.deployment);
        let holder = format!("{caller}/{}", self.cloud.now().millis());
        let lease = Lease::new(clients.s3.clone(), bucket, id, holder, self.settings.reconcile.lease_seconds);
        let context = Context {
            limits,
            lease: Arc::new(lease),
            images: Images::new(self.builds.clone(), 2, queue.clone(), recorder.clone()),
            workspace: Workspace::open(
                Publisher::new(self.workspace_file()),
                Some(self.webserver.clone()),
                recorder.clone(),
            )
            .expect("a workspace file"),
            code_server: self.code_server.clone(),
            cache: Cache::default(),
            settings: self.settings.clone(),
            deployment,
            clients,
            refs,
            statuses: StatusStore::default(),
            queue,
            clock,
            recorder,
        };
        context.workspace.create().await.expect("a workspace file");
        let fleet = Arc::new(Daemon::new(Reconciler::new(context), self.source.subscribe()));
        let task = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.run(receiver).await }
        });
        self.running.insert(caller.to_owned(), Running { fleet, task });
    }

    /// Ends all daemons where they stand, as kill -9 would.
    pub async fn kill(&mut self) {
        for caller in self.running.keys().cloned().collect::<Vec<_>>() {
            self.kill_one(&caller).await;
        }
    }

    /// Ends one of them.
    pub async fn kill_one(&mut self, caller: &str) {
        if let Some(running) = self.running.remove(caller) {
            running.task.abort();
            // Until it is gone, so that no call of its own comes later.
            let _ = running.task.await;
        }
    }

    /// Ends one of them as a signal does: it begins no more changes, stops, and gives the lease back.
    pub async fn stop_one(&mut self, caller: &str) {
        if let Some(running) = self.running.remove(caller) {
            let lease = &running.fleet.reconciler.context.lease;
            lease.fence().shut().await;
            running.task.abort();
            let _ = running.task.await;
            lease.release().await;
        }
    }

    /// Whether a daemon has ended by itself: something in it panicked.
    pub fn has_fallen(&self) -> bool {
        self.running.values().any(|running| running.task.is_finished())
    }

    /// The daemon that holds the lease, or the only one.
    fn acting(&self) -> Option<&Running> {
        let holds = |running: &&Running| running.fleet.reconciler.context.lease.state() == LeaseState::Held;
        self.running.values().find(holds).or_else(|| self.running.values().next())
    }

    /// What the acting daemon says of a location.
    pub fn status(&self, name: &str) -> Option<LocationStatus> {
        self.acting()?.fleet.reconciler.context.statuses.get(name)
    }

    /// The moment before which every push is in the acting daemon's status of a location.
    pub fn as_of(&self, name: &str) -> Option<tokio::time::Instant> {
        let reconciler = &self.acting()?.fleet.reconciler;
        reconciler.as_of(&reconciler.context.statuses.get(name)?, &self.source.borrow())
    }

    /// What is wrong with one daemon as a whole.
    pub fn faults_of(&self, caller: &str) -> Vec<Fault> {
        let Some(running) = self.running.get(caller) else { return vec![] };
        running.fleet.reconciler.faults(&running.fleet.progress, &self.source.borrow())
    }

    /// What the one daemon that runs shows of a location to whoever asks it.
    pub fn shown(&self, name: &str) -> Option<LocationStatus> {
        let faults = self.faults_of("codeloc");
        Some(self.acting()?.fleet.reconciler.with_faults(self.status(name)?, &faults))
    }

    /// What one daemon says of a location.
    pub fn status_by(&self, caller: &str, name: &str) -> Option<LocationStatus> {
        self.running.get(caller)?.fleet.reconciler.context.statuses.get(name)
    }

    pub fn statuses(&self) -> Vec<LocationStatus> {
        self.acting().map(|running| running.fleet.reconciler.context.statuses.all()).unwrap_or_default()
    }

    /// A plan that does not converge, as the acting daemon says it.
    pub fn alarm(&self) -> Option<String> {
        let statuses = &self.acting()?.fleet.reconciler.context.statuses;
        statuses.find(|status| {
            let alarm = status.conditions.iter().find(|dated| dated.condition.reason == Reason::NotConverging);
            alarm.map(|dated| dated.condition.message.clone())
        })
    }

    /// Lets virtual time pass until `done`, asked more often than a call takes; fails with the statuses when that takes longer than two hours of it.
    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2 * 60 * 60);
        while !done(self) {
            assert!(tokio::time::Instant::now() <= deadline, "never {what}: {:#?}", self.statuses());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn healthy(&self, name: &str) -> bool {
        let healthy = |status: &LocationStatus| (status.sync, status.health) == (Sync::Synced, Health::Healthy);
        self.acting().and_then(|running| running.fleet.reconciler.context.statuses.read(name, healthy)).unwrap_or(false)
    }

    /// Whether a healthy task of a location runs and the location is published.
    pub fn serves(&self, name: &str) -> bool {
        let family = format!("codeloc-{name}");
        let task = self.cloud.with_cloud(|cloud| {
            let healthy = |task: &Task| task.last_status == "RUNNING" && task.health == "HEALTHY";
            cloud.ecs.tasks.values().any(|task| task.family == family && healthy(task))
        });
        task && self.workspace().contains(&format!("\"{name}-service.dagster.internal\""))
    }

    pub async fn until_healthy(&self, names: &[&str]) {
        self.until(&format!("healthy: {names:?}"), |this| names.iter().all(|name| this.healthy(name))).await;
    }

    /// Lets the daemon do whatever it would still do.
    pub async fn idle(&self) {
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    }

    /// But for the lease's own writes, which come all the time.
    pub fn mutating_calls(&self) -> Vec<Call> {
        self.cloud.calls().into_iter().filter(|call| call.mutating && call.service != "s3").collect()
    }

    /// Everything that is live, as the controller observes it, for comparison.
    pub async fn observed(&self) -> BTreeMap<String, codeloc_core::resources::ObservedResources> {
        let clients = self.clients();
        let deployment =
            deployment::find(&self.settings, &clients, Some("eu-central-1")).await.expect("the place is there");
        let session = codeloc_aws::Session {
            clients: &clients,
            deployment: &deployment,
            cache: &Cache::default(),
            limits: &RateLimiter::default(),
            fence: &Fence::open(),
            priority: Priority::Resync,
        };
        codeloc_aws::observe(session, codeloc_aws::Scope::All).await.expect("an observation")
    }
}
