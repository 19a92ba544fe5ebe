//! Observing a location, as recently as the reason asks for: all locations in a sweep, the services of some in a refresh, one by itself
//! when a change waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use codeloc_aws::resources as aws;
use codeloc_aws::{CallError, Class, Scope};
use codeloc_core::deployment::Address;
use codeloc_core::ids::{Arn, Revision};
use codeloc_core::names;
use codeloc_core::planner::{Answered, Runs};
use codeloc_core::priority::Priority;
use codeloc_core::resources::image_repository::garbage::Image;
use codeloc_core::resources::service::{FailureExcerpt, Record};
use codeloc_core::resources::{ObservedResources, workspace};
use codeloc_crds::LocationName;
use codeloc_dagster::{CodeServer, Webserver};
use tokio::time::Instant;

use super::aws::{Aws, Memory};
use super::batch::BatchQueue;
use super::executor::StepError;
use super::failure_logs::FailureLogs;
use super::image_schedule::ImageSchedule;
use super::instances::{self, Instances};
use super::prune_guard::Owned;
use super::publisher::{PublishError, View, WorkspacePublisher};
use super::reason::{Freshness, Reason};
use super::store::{ObservationStore, Observed};

/// The age up to which a sweep serves a location that waits for a change.
const FRESH: Duration = Duration::from_secs(5);
/// The clock of this machine and that of AWS may differ by this much.
const CLOCKS_MS: i64 = 5 * 60 * 1000;
/// codeloc does not read a service again within this time. Finding an existing image takes less.
const JUST_NOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub enum Observation {
    Ready(Box<Observed>),
    /// The location waits in a batch for the next sweep or refresh.
    Awaiting,
}

/// The state of a location outside AWS's resources.
#[derive(Debug)]
pub struct Surroundings {
    pub answers: Vec<Answered>,
    pub workspace: workspace::Observed,
    pub view: View,
    /// How long the desired revision has been deployed.
    pub steady_for: Duration,
    pub unlisted_for: Duration,
}

pub struct Observer<C, W> {
    pub aws: Arc<Aws>,
    code_server: C,
    publisher: Arc<WorkspacePublisher<W>>,
    pub store: ObservationStore,
    /// Locations that the next sweep reads.
    pub awaiting_sweep: BatchQueue,
    /// Locations whose resources are known, except for the service.
    pub awaiting_refresh: BatchQueue,
    pub failure_logs: FailureLogs,
    pub image_schedule: ImageSchedule,
    instances: Instances,
    /// Sweeps and refreshes run one at a time.
    reading: tokio::sync::Mutex<()>,
}

impl<C: CodeServer, W: Webserver> Observer<C, W> {
    pub fn new(aws: Arc<Aws>, code_server: C, publisher: Arc<WorkspacePublisher<W>>) -> Self {
        Self {
            aws,
            code_server,
            publisher,
            store: ObservationStore::default(),
            awaiting_sweep: BatchQueue::default(),
            awaiting_refresh: BatchQueue::default(),
            failure_logs: FailureLogs::default(),
            image_schedule: ImageSchedule::starting_at(Instant::now()),
            instances: Instances::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// Reads the whole deployment. Returns every location to reconcile: observed, published, or one of `names`.
    pub async fn sweep(&self, names: impl IntoIterator<Item = LocationName>) -> Result<Vec<LocationName>, CallError> {
        let _one = self.reading.lock().await;
        let memory = self.aws.memory();
        let begun = self.store.begin(memory.epoch);
        let entered = self.publisher.enter(memory.epoch).await;
        if let Err(error) = entered {
            tracing::warn!(%error, "cannot read workspace.yaml; codeloc retries at the next sweep");
        } else if self.aws.lease.fence().is_open_in(memory.epoch)
            && let Err(error) = self.publisher.check_file().await
        {
            tracing::warn!(%error, "cannot check workspace.yaml; codeloc retries at the next sweep");
        }
        let session = self.aws.session(&memory, Priority::Resync);
        let mut observed = Box::pin(codeloc_aws::observe(session, Scope::All)).await?;
        let deployment = &self.aws.deployment.id;
        let select = |keep: fn(&ObservedResources, &LocationName, &str) -> bool| -> BTreeSet<LocationName> {
            let kept = observed.iter().filter(|(name, resources)| keep(resources, name, deployment));
            kept.map(|(name, _)| name.clone()).collect()
        };
        let owned = Owned {
            names: select(ObservedResources::any_owned),
            protected: select(ObservedResources::is_protected),
            leaving: select(ObservedResources::waits_for_runs),
        };
        let mut all = owned.names.clone();
        all.extend(names);
        all.extend(self.publisher.names().await);
        // A location without any resource has been observed too.
        for name in &all {
            observed.entry(name.clone()).or_default();
        }
        self.store.put_sweep(begun, observed, owned);
        Ok(all.into_iter().collect())
    }

    /// Reads the services of locations whose other resources are known, ten per call.
    pub async fn refresh_services(&self, names: impl Iterator<Item = &LocationName> + Clone) -> Result<(), CallError> {
        let _one = self.reading.lock().await;
        let memory = self.aws.memory();
        let begun = self.store.begin(memory.epoch);
        let services: Vec<String> = names.clone().map(names::service).collect();
        let mut found = aws::service::describe(self.aws.session(&memory, Priority::Making), &services).await?;
        let mut refreshed = BTreeMap::new();
        for name in names {
            if let Some((mut resources, _)) = self.store.last(memory.epoch, name) {
                resources.service = found.remove(name);
                refreshed.insert(name.clone(), resources);
            }
        }
        self.store.put_refresh(begun, refreshed);
        Ok(())
    }

    /// Returns the resources of a location. When the reason does not need them now, and no sweep or refresh has them, the location joins
    /// a batch with `later` as its reason.
    pub async fn observe(
        &self,
        memory: &Memory,
        name: &LocationName,
        reason: Reason,
        later: Reason,
    ) -> Result<Observation, CallError> {
        let ready = |resources, at, complete| Ok(Observation::Ready(Box::new(Observed { resources, at, complete })));
        let current = reason.freshness() == Freshness::Current;
        let base = match self.store.take(memory.epoch, name) {
            Some(seen) if !current || (seen.complete && seen.at.elapsed() < FRESH) => {
                return Ok(Observation::Ready(Box::new(seen)));
            }
            Some(seen) => Some((seen.resources, seen.at)),
            None => self.store.last(memory.epoch, name),
        };
        let session = self.aws.session(memory, reason.priority());
        let at = Instant::now();
        match base {
            // Until a location has a service, none of its resources changes by itself.
            Some((resources, _)) if resources.service.is_none() => ready(resources, at, false),
            Some((resources, at)) if at.elapsed() < JUST_NOW => ready(resources, at, false),
            _ if !current => {
                self.await_batch(memory, name, later);
                Ok(Observation::Awaiting)
            }
            Some((mut resources, _)) => {
                resources.service = aws::service::observe(session, Scope::One(name)).await?.remove(name);
                ready(resources, at, false)
            }
            None => {
                let mut observed = Box::pin(codeloc_aws::observe(session, Scope::One(name))).await?;
                ready(observed.remove(name).unwrap_or_default(), at, true)
            }
        }
    }

    fn await_batch(&self, memory: &Memory, name: &LocationName, reason: Reason) {
        let batch = if self.store.has_last(memory.epoch, name) { &self.awaiting_refresh } else { &self.awaiting_sweep };
        batch.push(name, reason);
    }

    /// Asks the tasks, and reads the published address and the location in the webserver.
    pub async fn surroundings(
        &self,
        memory: &Memory,
        name: &LocationName,
        resources: &ObservedResources,
        priority: Priority,
    ) -> Result<Surroundings, StepError> {
        let session = self.aws.session(memory, priority);
        self.publisher.enter(memory.epoch).await.map_err(PublishError::File)?;
        let mut answers = self.instances.answers(session, &self.code_server, name, resources).await?;
        if self.aws.deployment.address == Address::Discovered
            && let Some(published) = self.publisher.entry(name).await
        {
            answers.extend(instances::foreign_at(&self.code_server, &published, resources, &answers).await);
        }
        let (workspace, view) = self.publisher.observed(name).await;
        let steady_for = self.store.steady_for(memory.epoch, name);
        let unlisted_for = self.store.unlisted_for(memory.epoch, name, !answers.is_empty());
        Ok(Surroundings { answers, workspace, view, steady_for, unlisted_for })
    }

    /// Why the tasks of this revision failed.
    pub async fn failure_excerpt(
        &self,
        memory: &Memory,
        name: &LocationName,
        resources: &ObservedResources,
        revision: &Revision,
        priority: Priority,
    ) -> FailureExcerpt {
        self.failure_logs.excerpt(self.aws.session(memory, priority), name, resources, revision).await
    }

    /// How the last rollout of a definition ended, as ECS has recorded it. Nothing if ECS refuses to say it.
    pub async fn record(
        &self,
        memory: &Memory,
        name: &LocationName,
        resources: &ObservedResources,
        definition: &Arn,
        priority: Priority,
    ) -> Result<Option<Record>, CallError> {
        let attempted = resources.task_definitions.iter().find(|one| one.arn == *definition);
        let started = attempted.and_then(|one| one.attempt()).map_or(0, |attempt| attempt.at - CLOCKS_MS);
        let session = self.aws.session(memory, priority);
        match aws::service::record(session, &names::service(name), definition, started).await {
            Err(error) if error.class == Class::Terminal => {
                tracing::warn!(location = %name, %error, "cannot read how a rollout ended; codeloc assumes that ECS rolled it back");
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    /// The unfinished runs of a location. ECS knows the running ones, and only Dagster knows the queued ones.
    pub async fn runs(
        &self,
        memory: &Memory,
        name: &LocationName,
        resources: &ObservedResources,
        priority: Priority,
    ) -> Result<Runs, CallError> {
        let families: BTreeSet<&str> = resources.run_definitions.iter().map(|definition| definition.family()).collect();
        let tasks = aws::run_definition::unfinished(self.aws.session(memory, priority), &families).await?;
        if tasks > 0 {
            return Ok(Runs::Tasks(tasks));
        }
        Ok(match self.publisher.has_unfinished_runs(name).await {
            Some(Ok(true)) => Runs::Queued,
            Some(Ok(false)) | None => Runs::None,
            Some(Err(error)) => Runs::Unknown(error.to_string()),
        })
    }

    /// The images in a location's repository. If AWS does not list them, codeloc deletes none and the pass continues.
    pub async fn images(
        &self,
        memory: &Memory,
        resources: &ObservedResources,
        priority: Priority,
    ) -> Option<Vec<Image>> {
        let repository = resources.image_repository.as_ref()?;
        aws::image_repository::images(self.aws.session(memory, priority), &repository.name)
            .await
            .inspect_err(|error| {
                tracing::warn!(repository = %repository.name, %error, "cannot list the images; codeloc deletes none");
            })
            .ok()
    }

    /// The location and all of its resources are gone.
    pub fn forget(&self, name: &LocationName) {
        self.store.forget(name);
        self.failure_logs.forget(name);
        self.instances.forget(name);
        self.image_schedule.forget(name);
    }
}
