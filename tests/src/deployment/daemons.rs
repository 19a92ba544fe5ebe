//! Starts and stops the daemons of a deployment.

use std::sync::Arc;
use std::time::Duration;

use codeloc::reconcile::queue::Queue;
use codeloc::reconcile::{Context, Daemon, Images, Reconciler, Workspace, deployment};
use codeloc::runtime::Clock;
use codeloc::status::{Recorder, StatusStore};
use codeloc_aws::lease::{Lease, LeaseState};
use codeloc_aws::limits::Limits;
use codeloc_aws::{Cache, Clients};
use codeloc_dagster::workspace::Publisher;
use codeloc_git::refs::{RefKey, Refs, RefsSettings};

use super::{Running, TestDeployment};

impl TestDeployment {
    /// Starts the daemon without any state of an earlier one.
    pub async fn start(&mut self) {
        self.start_as("codeloc").await;
    }

    /// Starts one of several daemons, with `caller` as its access key id.
    pub async fn start_as(&mut self, caller: &str) {
        assert!(!self.running.contains_key(caller), "{caller} runs already");
        let limits = Arc::new(if self.rate_limited { Limits::default() } else { Limits::none() });
        let clients = Clients::new(&self.sdk_for(caller), &limits);
        let deployment = loop {
            // A daemon that cannot start exits and is started again.
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
        let daemon = Arc::new(Daemon::new(Reconciler::new(context), self.source.subscribe()));
        let task = tokio::spawn({
            let daemon = daemon.clone();
            async move { daemon.run(receiver).await }
        });
        self.running.insert(caller.to_owned(), Running { daemon, task });
    }

    /// Kills all daemons, as `kill -9` does.
    pub async fn kill(&mut self) {
        for caller in self.running.keys().cloned().collect::<Vec<_>>() {
            self.kill_one(&caller).await;
        }
    }

    /// Kills one daemon.
    pub async fn kill_one(&mut self, caller: &str) {
        if let Some(running) = self.running.remove(caller) {
            running.task.abort();
            // Wait for its end, so that it makes no later call.
            let _ = running.task.await;
        }
    }

    /// Stops one daemon as a signal does: it starts no more changes, stops, and releases the lease.
    pub async fn stop_one(&mut self, caller: &str) {
        if let Some(running) = self.running.remove(caller) {
            let lease = &running.daemon.reconciler.context.lease;
            lease.fence().shut().await;
            running.task.abort();
            let _ = running.task.await;
            lease.release().await;
        }
    }

    /// Whether a daemon ended by itself, because a task panicked.
    pub fn has_panicked(&self) -> bool {
        self.running.values().any(|running| running.task.is_finished())
    }

    /// The daemon that holds the lease, otherwise the first one.
    pub(super) fn lease_holder(&self) -> Option<&Running> {
        let holds = |running: &&Running| running.daemon.reconciler.context.lease.state() == LeaseState::Held;
        self.running.values().find(holds).or_else(|| self.running.values().next())
    }
}
