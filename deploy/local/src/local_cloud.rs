//! Gives the state machine what it has not: a clock, a lock, a driver, and a task that wakes it when something is due.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::calls::{Call, Calls};
use crate::cloud::{self, Cloud, Effect, Rules};
use crate::connector::InProcess;
use crate::driver::addresses::Addresses;
use crate::driver::simulated::Simulated;
use crate::driver::{Driver, Report};
use crate::fault::Fault;
use crate::faults::{Faults, Seen, Trouble};
use crate::lock::lock;
use crate::services::ecr::{Images, MemoryImages};
use crate::services::ecs::task;
use crate::store::{Store, StoreError};
use crate::time::Time;
use crate::wire;

/// Changes within this time are saved together.
const SAVE_DELAY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Settings {
    pub rules: Rules,
    /// The date at which the cloud's clock starts; it goes on with tokio's.
    pub start: Time,
    /// How long a call takes beside the work on it.
    pub latency: Duration,
    /// What runs the tasks; simulated, if nothing is given.
    pub driver: Option<Arc<dyn Driver>>,
    pub images: Arc<dyn Images>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            // 2026-01-01T00:00:00Z: tests give equal dates on every day.
            start: Time::from_millis(1_767_225_600_000),
            latency: Duration::ZERO,
            driver: None,
            images: MemoryImages::shared(),
        }
    }
}

/// A running cloud. It ends when this is dropped.
pub struct LocalCloud {
    shared: Arc<Shared>,
    simulated: Simulated,
    background: JoinHandle<UnboundedReceiver<Report>>,
}

pub(crate) struct Shared {
    cloud: Mutex<Cloud>,
    calls: Mutex<Calls>,
    driver: Arc<dyn Driver>,
    /// Of all tasks, whatever runs them.
    addresses: Addresses,
    reports: UnboundedSender<Report>,
    start: Time,
    started: Instant,
    pub(crate) latency: Duration,
    /// Something may be due earlier than was known.
    woken: Notify,
    changed: Notify,
    closing: Notify,
    faults: Mutex<Faults>,
    /// How many calls hang.
    hanging: watch::Sender<u64>,
}

/// The connection broke: the caller does not learn whether its call was applied.
#[derive(Debug, thiserror::Error)]
#[error("connection reset by peer")]
pub(crate) struct Broken;

impl LocalCloud {
    /// Starts an empty cloud. Call it inside a tokio runtime.
    pub fn start(settings: Settings) -> Self {
        Self::start_from(settings, None)
    }

    /// Starts with what was saved, if anything was.
    pub fn start_from(settings: Settings, saved: Option<Cloud>) -> Self {
        let Settings { rules, start, latency, driver, images } = settings;
        // A clock that was set back must not hold up what is due.
        let start = saved.as_ref().map_or(start, |saved| saved.now().max(start));
        let cloud = match saved {
            Some(saved) => saved.revived(rules, images, start),
            None => Cloud::new(rules, images),
        };
        let simulated = Simulated::default();
        let driver = driver.unwrap_or_else(|| Arc::new(simulated.clone()));
        let addresses = Addresses::new(driver.network(), cloud.rules.quotas.addresses);
        // Somebody may still hold those of the tasks that ended with the process before this one.
        addresses.were_used(task::addresses(&cloud));
        let (reports, incoming) = unbounded_channel();
        let shared = Arc::new(Shared {
            cloud: Mutex::new(cloud),
            calls: Mutex::default(),
            driver,
            addresses,
            reports,
            start,
            started: Instant::now(),
            latency,
            woken: Notify::new(),
            changed: Notify::new(),
            closing: Notify::new(),
            faults: Mutex::default(),
            hanging: watch::Sender::new(0),
        });
        let background = tokio::spawn(Arc::clone(&shared).run(incoming));
        Self { shared, simulated, background }
    }

    /// An HTTP client for the Rust SDK that never leaves the process.
    pub fn connector(&self) -> InProcess {
        InProcess::new(Arc::clone(&self.shared))
    }

    /// Answers HTTP on `listener` for as long as the future is polled. Bind it to loopback: nobody is authenticated.
    pub async fn serve(&self, listener: TcpListener) -> std::io::Result<()> {
        axum::serve(listener, self.router()).await
    }

    /// The AWS services and `/_localcloud/`, to be merged with other routes.
    pub fn router(&self) -> axum::Router {
        crate::http::router(Arc::clone(&self.shared))
    }

    /// From now on, calls meet these faults; numbers in it count from here.
    pub fn set_faults(&self, faults: impl Into<Faults>) {
        *lock(&self.shared.faults) = faults.into();
    }

    /// Until a call hangs ([`crate::faults::Trouble::Hang`]), in sum the `number`-th since the cloud was started.
    pub async fn hung(&self, number: u64) {
        // Never an error: the sender is in the same value.
        let _ = self.shared.hanging.subscribe().wait_for(|hanging| *hanging >= number).await;
    }

    /// All calls that are kept.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls().since(0)
    }

    /// Those after the one numbered `sequence`.
    pub fn calls_since(&self, sequence: u64) -> Vec<Call> {
        self.shared.calls().since(sequence)
    }

    pub fn reset_calls(&self) {
        self.shared.calls().reset();
    }

    /// Looks into the cloud, or edits it by hand; what follows from an edit is done at once.
    pub fn with_cloud<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let now = self.shared.now();
        let (result, effects) = {
            let mut cloud = self.shared.cloud();
            cloud.enter(now);
            let result = act(&mut cloud);
            (result, cloud.advance(now))
        };
        self.shared.perform(effects);
        result
    }

    /// Scripts for the tasks, when they are simulated.
    pub fn simulated(&self) -> &Simulated {
        &self.simulated
    }

    /// The cloud's date.
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// Saves after every change, and goes on for as long as the future is polled.
    pub async fn keep_saving(&self, store: &Store) -> StoreError {
        loop {
            self.shared.changed.notified().await;
            tokio::time::sleep(SAVE_DELAY).await;
            if let Err(error) = self.save(store).await {
                return error;
            }
        }
    }

    pub async fn save(&self, store: &Store) -> Result<(), StoreError> {
        let state = serde_json::to_vec(&*self.shared.cloud());
        let store = store.clone();
        let written = tokio::task::spawn_blocking(move || match state {
            Ok(state) => store.save(&state),
            Err(source) => Err(StoreError::Unwritable { source }),
        });
        written.await.unwrap_or(Ok(()))
    }

    /// Stops every task and waits for it, at most for `grace`; nothing is started any more. What was saved
    /// before is what a restart finds.
    pub async fn shut_down(mut self, grace: Duration) {
        self.shared.closing.notify_one();
        let Ok(mut reports) = (&mut self.background).await else {
            return;
        };
        let mut live: BTreeSet<String> = {
            let cloud = self.shared.cloud();
            let tasks = cloud.ecs.tasks.values().filter(|task| task.last_status != "STOPPED");
            tasks.map(|task| task.arn.clone()).collect()
        };
        for arn in &live {
            self.shared.driver.stop(arn);
        }
        let all_ended = async {
            while !live.is_empty() {
                match reports.recv().await {
                    Some(Report::Exited { task_arn, .. }) => drop(live.remove(&task_arn)),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(grace, all_ended).await.is_err() {
            tracing::warn!(tasks = live.len(), "tasks did not stop in time");
        }
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        self.background.abort();
    }
}

impl Shared {
    /// One request, on its way there and back, with whatever the fault plan has for it.
    pub(crate) async fn exchange(
        &self,
        request: &Request<Bytes>,
        received: Instant,
    ) -> Result<Response<Bytes>, Broken> {
        let Some((service, operation)) = wire::name(request) else {
            tokio::time::sleep(self.latency).await;
            return Ok(self.call(request, received, None));
        };
        let caller = wire::signed_by(request.headers()).unwrap_or_default();
        let seen =
            Seen { caller, service: service.name(), operation: &operation, mutating: cloud::mutates(&operation) };
        let trouble = lock(&self.faults).next(seen);
        if let Some(Trouble::Delay(delay)) = trouble {
            tokio::time::sleep(delay).await;
        }
        tokio::time::sleep(self.latency).await;
        let refuse = |fault: &Fault| {
            self.record_unapplied(seen, received, trouble);
            Ok(cloud::refusal(request, service, fault).0)
        };
        match trouble {
            None => Ok(self.call(request, received, None)),
            Some(Trouble::Delay(_)) => Ok(self.call(request, received, trouble)),
            Some(Trouble::Throttle) => refuse(&service.throttled()),
            Some(Trouble::HiddenThrottle) => refuse(&Fault::invalid("Rate exceeded (Service: Fargate; throttled)")),
            Some(Trouble::ServerError) => {
                refuse(&Fault::new("InternalFailure", "Please try again later.").with_status(500))
            }
            Some(Trouble::Unavailable) => {
                refuse(&Fault::new("ServiceUnavailable", "The service is unavailable.").with_status(503))
            }
            Some(Trouble::ResetBefore) => {
                self.record_unapplied(seen, received, trouble);
                Err(Broken)
            }
            Some(Trouble::ResetAfter) => {
                self.call(request, received, trouble);
                Err(Broken)
            }
            Some(Trouble::Hang { applied }) => {
                if applied {
                    self.call(request, received, trouble);
                } else {
                    self.record_unapplied(seen, received, trouble);
                }
                self.hanging.send_modify(|hanging| *hanging += 1);
                std::future::pending().await
            }
        }
    }

    fn record_unapplied(&self, seen: Seen<'_>, received: Instant, trouble: Option<Trouble>) {
        let now = self.now();
        self.calls().record(Call {
            sequence: 0,
            time: now.epoch_seconds(),
            begun: self.begun(received),
            caller: seen.caller.to_owned(),
            service: seen.service,
            operation: seen.operation.to_owned(),
            resource: None,
            mutating: seen.mutating,
            applied: false,
            outcome: trouble.map_or("OK", Trouble::words).to_owned(),
            status: 0,
            latency_ms: u64::try_from(received.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn begun(&self, received: Instant) -> f64 {
        (self.start + received.saturating_duration_since(self.started)).epoch_seconds()
    }

    /// Answers one request; the whole of it happens at one instant.
    fn call(&self, request: &Request<Bytes>, received: Instant, trouble: Option<Trouble>) -> Response<Bytes> {
        let now = self.now();
        let (answer, effects) = {
            let mut cloud = self.cloud();
            (cloud.call(request, now), cloud.advance(now))
        };
        self.perform(effects);
        self.woken.notify_one();
        if answer.mutating {
            self.changed.notify_one();
        }
        let applied = answer.refused.is_none();
        let outcome = answer.refused.or(trouble.map(|trouble| trouble.words().to_owned()));
        let outcome = outcome.unwrap_or_else(|| "OK".to_owned());
        if outcome == "UnknownOperationException" || outcome == "InvalidAction" || outcome == "NotImplemented" {
            tracing::warn!(service = answer.service, operation = answer.operation, "no such operation here");
        } else {
            tracing::debug!(service = answer.service, operation = answer.operation, outcome, "call");
        }
        self.calls().record(Call {
            sequence: 0,
            time: now.epoch_seconds(),
            begun: self.begun(received),
            caller: wire::signed_by(request.headers()).unwrap_or_default().to_owned(),
            service: answer.service,
            operation: answer.operation,
            resource: answer.resource,
            mutating: answer.mutating,
            applied,
            outcome,
            status: answer.response.status().as_u16(),
            latency_ms: u64::try_from(received.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        answer.response
    }

    async fn run(self: Arc<Self>, mut incoming: UnboundedReceiver<Report>) -> UnboundedReceiver<Report> {
        loop {
            let due = self.cloud().next_due();
            tokio::select! {
                () = self.closing.notified() => return incoming,
                () = self.woken.notified() => {}
                () = self.sleep_until(due) => {}
                report = incoming.recv() => {
                    let now = self.now();
                    let mut cloud = self.cloud();
                    // Never `None`: this very value holds a sender.
                    if let Some(report) = report {
                        cloud.report(report, now);
                    }
                    while let Ok(report) = incoming.try_recv() {
                        cloud.report(report, now);
                    }
                    drop(cloud);
                    self.changed.notify_one();
                }
            }
            let now = self.now();
            let effects = self.cloud().advance(now);
            self.perform(effects);
        }
    }

    async fn sleep_until(&self, due: Option<Time>) {
        match due {
            Some(due) => tokio::time::sleep_until(self.started + due.since(self.start)).await,
            None => std::future::pending().await,
        }
    }

    fn perform(&self, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.changed.notify_one();
            self.woken.notify_one();
        }
        for effect in effects {
            match effect {
                Effect::Launch(launch) => self.driver.launch(launch, &self.addresses, self.reports.clone()),
                Effect::Stop { task_arn } => self.driver.stop(&task_arn),
            }
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.start + self.started.elapsed()
    }

    /// A panic inside the state machine fails one call, not all later ones.
    fn cloud(&self) -> MutexGuard<'_, Cloud> {
        lock(&self.cloud)
    }

    pub(crate) fn calls(&self) -> MutexGuard<'_, Calls> {
        lock(&self.calls)
    }
}
