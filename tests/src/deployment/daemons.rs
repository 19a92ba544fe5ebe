//! Starts and stops the daemons of a deployment.

use std::sync::Arc;
use std::time::Duration;

use codeloc::daemon::find_deployment;
use codeloc::daemon::wiring::{self, Parts};
use codeloc::runtime::Clock;
use codeloc_aws::Clients;
use codeloc_aws::lease::LeaseState;
use codeloc_aws::rate_limit::RateLimiter;

use super::{Running, TestDaemon, TestDeployment};
use crate::Simulated;

impl TestDeployment {
    /// Starts the daemon without any state of an earlier one.
    pub async fn start(&mut self) {
        self.start_as("codeloc").await;
    }

    /// Starts one of several daemons, with `caller` as its access key id.
    pub async fn start_as(&mut self, caller: &str) {
        assert!(!self.running.contains_key(caller), "{caller} runs already");
        let limits = Arc::new(if self.rate_limited { RateLimiter::default() } else { RateLimiter::none() });
        let clients = Clients::new(&self.sdk_for(caller), &limits);
        let deployment = loop {
            // A daemon that cannot start exits and is started again.
            match find_deployment(&self.settings, &clients, Some("eu-central-1")).await {
                Ok(deployment) => break deployment,
                Err(_) => tokio::time::sleep(Duration::from_secs(5)).await,
            }
        };
        let millis = i64::try_from(self.cloud.now().millis()).expect("a date of this age");
        let (refs, receiver) = wiring::follow_refs(self.branches.clone(), &self.settings);
        self.branches.attach(refs.clone());
        let parts = Parts::<Simulated> {
            settings: self.settings.clone(),
            clients,
            limits,
            deployment,
            holder: format!("{caller}/{}", self.cloud.now().millis()),
            refs,
            builder: self.builds.clone(),
            code_server: self.code_server.clone(),
            webserver: Some(self.webserver.clone()),
            clock: Clock::starting_at(jiff::Timestamp::from_millisecond(millis).expect("a date")),
            source: self.source.subscribe(),
        };
        let daemon = Arc::new(parts.assemble().expect("a workspace file"));
        daemon.publisher.create().await.expect("a workspace file");
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
            let lease = &running.daemon.context.observer.aws.lease;
            lease.fence().shut().await;
            running.task.abort();
            let _ = running.task.await;
            lease.release().await;
        }
    }

    /// A daemon that runs.
    ///
    /// # Panics
    /// If none runs.
    pub fn daemon(&self) -> &TestDaemon {
        &self.lease_holder().expect("a daemon runs").daemon
    }

    /// Whether a daemon ended by itself, because a task panicked.
    pub fn has_panicked(&self) -> bool {
        self.running.values().any(|running| running.task.is_finished())
    }

    /// The daemon that holds the lease, otherwise the first one.
    pub(super) fn lease_holder(&self) -> Option<&Running> {
        let holds = |running: &&Running| running.daemon.context.observer.aws.lease.state() == LeaseState::Held;
        self.running.values().find(holds).or_else(|| self.running.values().next())
    }
}
