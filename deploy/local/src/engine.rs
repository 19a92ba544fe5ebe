//! The engine gives the control plane a clock, a lock, a driver, and a task that runs due timers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::calls::{Call, Calls};
use crate::control_plane::{self, Answer, ControlPlane};
use crate::driver::Driver;
use crate::driver::addresses::Addresses;
use crate::fault_injection::{CallInfo, Fault, Faults};
use crate::lock::lock;
use crate::model::launch::Report;
use crate::model::rules::Throttling;
use crate::model::time::Time;
use crate::model::{Cloud, Effect};
use crate::protocol::api_error::ApiError;
use crate::protocol::request;

pub(crate) struct Engine {
    control_plane: Mutex<ControlPlane>,
    calls: Mutex<Calls>,
    driver: Arc<dyn Driver>,
    /// For the tasks of every driver.
    addresses: Addresses,
    reports: UnboundedSender<Report>,
    start: Time,
    started: Instant,
    latency: Duration,
    /// A timer may be due earlier than the background task expects.
    woken: Notify,
    changed: Notify,
    closing: Notify,
    faults: Mutex<Faults>,
    /// The number of calls that hang.
    hanging: watch::Sender<u64>,
}

/// The connection broke: the caller cannot know whether its call was applied.
#[derive(Debug, thiserror::Error)]
#[error("connection reset by peer")]
pub(crate) struct ConnectionReset;

impl Engine {
    /// An engine, and the reports that [`Self::run`] takes.
    pub(crate) fn new(
        control_plane: ControlPlane,
        driver: Arc<dyn Driver>,
        start: Time,
        latency: Duration,
    ) -> (Self, UnboundedReceiver<Report>) {
        let addresses = Addresses::new(driver.network(), control_plane.cloud.rules.quotas.addresses);
        // Clients may still hold the addresses of tasks that ended with an earlier process.
        addresses.mark_used(control_plane.cloud.ecs.addresses());
        let (reports, incoming) = unbounded_channel();
        let engine = Self {
            control_plane: Mutex::new(control_plane),
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
        };
        (engine, incoming)
    }

    /// Answers one request after the latency, unless a fault is injected.
    pub(crate) async fn exchange(
        &self,
        request: &Request<Bytes>,
        received: Instant,
    ) -> Result<Response<Bytes>, ConnectionReset> {
        let Some((service, operation)) = request::name(request) else {
            tokio::time::sleep(self.latency).await;
            return Ok(self.call(request, received, None));
        };
        let caller = request::signed_by(request.headers()).unwrap_or_default();
        let mutating = control_plane::mutates(&operation);
        let info = CallInfo { caller, service: service.name(), operation: &operation, mutating };
        let fault = lock(&self.faults).next(info);
        if let Some(Fault::Delay(delay)) = fault {
            tokio::time::sleep(delay).await;
        }
        tokio::time::sleep(self.latency).await;
        let refuse = |error: &ApiError| {
            self.record_unapplied(info, received, fault);
            Ok(control_plane::refusal(request, service, error).0)
        };
        match fault {
            None => Ok(self.call(request, received, None)),
            Some(Fault::Delay(_)) => Ok(self.call(request, received, fault)),
            Some(Fault::Throttle) => refuse(&service.throttled()),
            Some(Fault::HiddenThrottle) => refuse(&ApiError::invalid("Rate exceeded (Service: Fargate; throttled)")),
            Some(Fault::ServerError) => {
                refuse(&ApiError::new("InternalFailure", "Please try again later.").with_status(500))
            }
            Some(Fault::Unavailable) => {
                refuse(&ApiError::new("ServiceUnavailable", "The service is unavailable.").with_status(503))
            }
            Some(Fault::ResetBefore) => {
                self.record_unapplied(info, received, fault);
                Err(ConnectionReset)
            }
            Some(Fault::ResetAfter) => {
                self.call(request, received, fault);
                Err(ConnectionReset)
            }
            Some(Fault::Hang { applied }) => {
                if applied {
                    self.call(request, received, fault);
                } else {
                    self.record_unapplied(info, received, fault);
                }
                self.hanging.send_modify(|hanging| *hanging += 1);
                std::future::pending().await
            }
        }
    }

    fn record_unapplied(&self, info: CallInfo<'_>, received: Instant, fault: Option<Fault>) {
        self.calls().record(Call {
            sequence: 0,
            time: self.now().epoch_seconds(),
            sent_at: self.epoch_seconds(received),
            caller: info.caller.to_owned(),
            service: info.service,
            operation: info.operation.to_owned(),
            resource: None,
            mutating: info.mutating,
            applied: false,
            outcome: fault.map_or("OK", Fault::description).to_owned(),
            status: 0,
            latency_ms: u64::try_from(received.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn epoch_seconds(&self, instant: Instant) -> f64 {
        (self.start + instant.saturating_duration_since(self.started)).epoch_seconds()
    }

    /// Answers one request at one instant, and records the call.
    fn call(&self, request: &Request<Bytes>, received: Instant, fault: Option<Fault>) -> Response<Bytes> {
        let now = self.now();
        let answer = self.apply(request, now);
        self.woken.notify_one();
        if answer.mutating {
            self.changed.notify_one();
        }
        let applied = answer.refused.is_none();
        let outcome = answer.refused.or(fault.map(|fault| fault.description().to_owned()));
        let outcome = outcome.unwrap_or_else(|| "OK".to_owned());
        if outcome == "UnknownOperationException" || outcome == "InvalidAction" || outcome == "NotImplemented" {
            tracing::warn!(
                service = answer.service,
                operation = answer.operation,
                "localcloud does not implement this operation"
            );
        } else {
            tracing::debug!(service = answer.service, operation = answer.operation, outcome, "call");
        }
        self.calls().record(Call {
            sequence: 0,
            time: now.epoch_seconds(),
            sent_at: self.epoch_seconds(received),
            caller: request::signed_by(request.headers()).unwrap_or_default().to_owned(),
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

    /// Answers a request without latency, faults and record.
    pub(crate) fn apply(&self, request: &Request<Bytes>, now: Time) -> Answer {
        let (answer, effects) = {
            let mut control_plane = self.control_plane();
            (control_plane.call(request, now), control_plane.advance(now))
        };
        self.perform(effects);
        answer
    }

    /// Reads or edits the cloud; consequences of an edit follow at once.
    pub(crate) fn with_cloud<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let now = self.now();
        let (result, effects) = {
            let mut control_plane = self.control_plane();
            control_plane.cloud.set_time(now);
            let result = act(&mut control_plane.cloud);
            (result, control_plane.advance(now))
        };
        self.perform(effects);
        result
    }

    pub(crate) fn throttle(&self, throttling: Throttling) {
        self.control_plane().throttle(throttling);
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// Waits until `number` calls hang.
    pub(crate) async fn hung(&self, number: u64) {
        // Never an error: the sender is in the same value.
        let _ = self.hanging.subscribe().wait_for(|hanging| *hanging >= number).await;
    }

    /// Waits for a change of the cloud.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.control_plane().cloud)
    }

    /// Ends [`Self::run`].
    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }

    /// Stops every task and waits for its end, at most for `grace`.
    pub(crate) async fn stop_tasks(&self, mut reports: UnboundedReceiver<Report>, grace: Duration) {
        let mut live: BTreeSet<String> = {
            let control_plane = self.control_plane();
            let tasks = control_plane.cloud.ecs.tasks.values().filter(|task| task.last_status != "STOPPED");
            tasks.map(|task| task.arn.clone()).collect()
        };
        for arn in &live {
            self.driver.stop(arn);
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

    /// Applies reports and due timers until [`Self::close`]; returns the reports that follow.
    pub(crate) async fn run(self: Arc<Self>, mut incoming: UnboundedReceiver<Report>) -> UnboundedReceiver<Report> {
        loop {
            let due = self.control_plane().cloud.next_due();
            tokio::select! {
                () = self.closing.notified() => return incoming,
                () = self.woken.notified() => {}
                () = self.sleep_until(due) => {}
                report = incoming.recv() => {
                    let now = self.now();
                    let mut control_plane = self.control_plane();
                    // Never `None`: this value holds a sender.
                    if let Some(report) = report {
                        control_plane.report(report, now);
                    }
                    while let Ok(report) = incoming.try_recv() {
                        control_plane.report(report, now);
                    }
                    drop(control_plane);
                    self.changed.notify_one();
                }
            }
            let now = self.now();
            let effects = self.control_plane().advance(now);
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

    /// After a panic in the control plane, later calls are answered.
    fn control_plane(&self) -> MutexGuard<'_, ControlPlane> {
        lock(&self.control_plane)
    }

    pub(crate) fn calls(&self) -> MutexGuard<'_, Calls> {
        lock(&self.calls)
    }
}
