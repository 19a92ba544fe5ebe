//! Statuses, waits and observed state of a deployment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use codeloc::daemon::{Fault, find_deployment};
use codeloc::status::Recorder;
use codeloc::status::events::EventReason;
use codeloc_aws::Cache;
use codeloc_aws::fence::Fence;
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_core::priority::Priority;
use codeloc_core::status::{Health, LocationStatus, Reason, Sync};
use codeloc_crds::LocationName;
use localcloud::calls::Call;
use localcloud::model::ecs::task::Task;
use localcloud::model::images::Images;
use localcloud::model::launch::split;

use super::TestDeployment;
use crate::commit_id;

impl TestDeployment {
    /// The status of a location in the lease holder.
    pub fn status(&self, name: &str) -> Option<LocationStatus> {
        self.lease_holder()?.daemon.context.status.statuses.get(name)
    }

    /// The `as_of` time of a location's status in the lease holder: the status includes every earlier push.
    pub fn as_of(&self, name: &str) -> Option<tokio::time::Instant> {
        let daemon = &self.lease_holder()?.daemon;
        daemon.as_of(&daemon.context.status.statuses.get(name)?)
    }

    /// The events and metrics of the lease holder.
    pub fn recorder(&self) -> Option<Arc<Recorder>> {
        Some(self.lease_holder()?.daemon.context.status.recorder.clone())
    }

    /// The faults of one daemon.
    pub fn faults_of(&self, caller: &str) -> Vec<Fault> {
        let Some(running) = self.running.get(caller) else { return vec![] };
        running.daemon.faults()
    }

    /// The status of a location as the API of the only daemon shows it, with the faults of the daemon.
    pub fn shown(&self, name: &str) -> Option<LocationStatus> {
        let faults = self.faults_of("codeloc");
        Some(self.lease_holder()?.daemon.with_faults(self.status(name)?, &faults))
    }

    /// The status of a location in one daemon.
    pub fn status_of(&self, caller: &str, name: &str) -> Option<LocationStatus> {
        self.running.get(caller)?.daemon.context.status.statuses.get(name)
    }

    pub fn statuses(&self) -> Vec<LocationStatus> {
        self.lease_holder().map(|running| running.daemon.context.status.statuses.all()).unwrap_or_default()
    }

    /// The message of the first `NotConverging` condition in the lease holder.
    pub fn not_converging(&self) -> Option<String> {
        let statuses = &self.lease_holder()?.daemon.context.status.statuses;
        statuses.find(|status| {
            let not_converging = status.conditions.iter().find(|dated| dated.condition.reason == Reason::NotConverging);
            not_converging.map(|dated| dated.condition.message.clone())
        })
    }

    /// Lets virtual time pass until `done`, which it checks more often than a call takes. Panics with all statuses after two hours.
    pub async fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2 * 60 * 60);
        while !done(self) {
            assert!(tokio::time::Instant::now() <= deadline, "not within two hours: {what}: {:#?}", self.statuses());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn healthy(&self, name: &str) -> bool {
        let healthy = |status: &LocationStatus| (status.sync, status.health) == (Sync::Synced, Health::Healthy);
        self.lease_holder()
            .and_then(|running| running.daemon.context.status.statuses.read(name, healthy))
            .unwrap_or(false)
    }

    /// Whether a location has a healthy task and an entry in `workspace.yaml`.
    pub fn serves(&self, name: &str) -> bool {
        let family = format!("codeloc-{name}");
        let task = self.cloud.with_cloud(|cloud| {
            let healthy = |task: &Task| task.last_status == "RUNNING" && task.health == "HEALTHY";
            cloud.ecs.tasks.values().any(|task| task.family == family && healthy(task))
        });
        task && self.workspace().contains(&format!("\"{name}-service.dagster.internal\""))
    }

    /// Waits until a location is healthy with commit `number` of its branch.
    pub async fn wait_until_commit(&self, name: &str, number: u32) {
        let commit = Some(commit_id(number));
        let is_reached = |this: &Self| this.healthy(name) && this.status(name).is_some_and(|one| one.commit == commit);
        self.wait_until(&format!("{name} at commit {number}"), is_reached).await;
    }

    /// The images in localcloud's registry that tasks run and ECR does not have.
    pub fn missing_images(&self) -> Vec<String> {
        self.cloud.with_cloud(|cloud| {
            let running = cloud.ecs.tasks.values().filter(|task| task.last_status == "RUNNING");
            let images = running.flat_map(|task| task.containers.iter().map(|(_, image)| image.clone()));
            let is_missing = |image: &String| {
                let (repository, reference) = split(image);
                image.starts_with(&cloud.rules.registry) && !self.images.holds(repository, reference)
            };
            images.filter(is_missing).collect()
        })
    }

    /// Waits until ECR has the image of each running task, and the locations are healthy.
    pub async fn wait_until_images_exist(&self, names: &[&str]) {
        let exist = |this: &Self| this.missing_images().is_empty() && names.iter().all(|name| this.healthy(name));
        self.wait_until("ECR has all images", exist).await;
    }

    pub async fn wait_until_healthy(&self, names: &[&str]) {
        self.wait_until(&format!("healthy: {names:?}"), |this| names.iter().all(|name| this.healthy(name))).await;
    }

    /// Lets ten minutes pass: enough for a rollout and two sweeps.
    pub async fn idle(&self) {
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    }

    /// All mutating calls except writes of the lease.
    pub fn mutating_calls(&self) -> Vec<Call> {
        self.cloud.calls().into_iter().filter(|call| call.mutating && call.service != "s3").collect()
    }

    /// The operations of [`Self::mutating_calls`].
    pub fn mutating_operations(&self) -> Vec<String> {
        self.mutating_calls().into_iter().map(|call| call.operation).collect()
    }

    /// How many events with this reason the lease holder has recorded.
    pub fn events_of(&self, reason: EventReason) -> usize {
        let recorder = self.lease_holder().map(|running| &running.daemon.context.status.recorder);
        recorder.map_or(0, |recorder| recorder.events.list(|event| event.reason == reason).len())
    }

    /// The observed state of all locations.
    pub async fn observed(&self) -> BTreeMap<LocationName, codeloc_core::resources::ObservedResources> {
        let clients = self.clients();
        let deployment =
            find_deployment(&self.settings, &clients, Some("eu-central-1")).await.expect("find the deployment");
        let fence = Fence::open();
        let session = codeloc_aws::Session {
            clients: &clients,
            deployment: &deployment,
            cache: &Cache::default(),
            limits: &RateLimiter::default(),
            fence: &fence,
            epoch: fence.epoch(),
            priority: Priority::Resync,
        };
        Box::pin(codeloc_aws::observe(session, codeloc_aws::Scope::All)).await.expect("an observation")
    }
}
