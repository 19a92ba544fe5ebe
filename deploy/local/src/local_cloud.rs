//! A running cloud: the engine with its transports.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::calls::Call;
use crate::control_plane::{Answer, ControlPlane};
use crate::driver::Driver;
use crate::driver::simulated::Simulated;
use crate::engine::Engine;
use crate::fault_injection::Faults;
use crate::model::Cloud;
use crate::model::images::{Images, MemoryImages};
use crate::model::launch::Report;
use crate::model::rules::{Rules, Throttling};
use crate::model::time::Time;
use crate::store::{Store, StoreError};
use crate::transport;
use crate::transport::in_process::InProcess;

/// Changes within this time are saved together.
const SAVE_DELAY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Settings {
    pub rules: Rules,
    /// The time at which the cloud's clock starts. The clock follows tokio's.
    pub start: Time,
    /// The time that a call takes in addition to the work.
    pub latency: Duration,
    /// The driver of the tasks; simulated by default.
    pub driver: Option<Arc<dyn Driver>>,
    pub images: Arc<dyn Images>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            // 2026-01-01T00:00:00Z: tests see the same dates on every day.
            start: Time::from_millis(1_767_225_600_000),
            latency: Duration::ZERO,
            driver: None,
            images: MemoryImages::shared(),
        }
    }
}

/// A running cloud. It ends when this is dropped.
pub struct LocalCloud {
    engine: Arc<Engine>,
    simulated: Simulated,
    background: JoinHandle<UnboundedReceiver<Report>>,
}

impl LocalCloud {
    /// Starts an empty cloud. Call it inside a tokio runtime.
    pub fn start(settings: Settings) -> Self {
        Self::start_from(settings, None)
    }

    /// Starts with a saved cloud, if there is one.
    pub fn start_from(settings: Settings, saved: Option<Cloud>) -> Self {
        let Settings { rules, start, latency, driver, images } = settings;
        // Timers stay due although the machine's clock was set back.
        let start = saved.as_ref().map_or(start, |saved| saved.now().max(start));
        let control_plane = match saved {
            Some(saved) => ControlPlane::restored(saved, rules, images, start),
            None => ControlPlane::new(rules, images),
        };
        let simulated = Simulated::default();
        let driver = driver.unwrap_or_else(|| Arc::new(simulated.clone()));
        let (engine, reports) = Engine::new(control_plane, driver, start, latency);
        let engine = Arc::new(engine);
        let background = tokio::spawn(Arc::clone(&engine).run(reports));
        Self { engine, simulated, background }
    }

    /// An HTTP client for the Rust SDK that stays in this process.
    pub fn connector(&self) -> InProcess {
        InProcess::new(Arc::clone(&self.engine))
    }

    /// Serves HTTP on `listener` until the future is dropped. Bind it to loopback: callers are not authenticated.
    pub async fn serve(&self, listener: TcpListener) -> std::io::Result<()> {
        axum::serve(listener, self.router()).await
    }

    /// The routes of the AWS services and of `/_localcloud/`.
    pub fn router(&self) -> axum::Router {
        transport::http::router(Arc::clone(&self.engine))
    }

    /// Injects these faults into calls from now on; the plan counts calls from here.
    pub fn set_faults(&self, faults: impl Into<Faults>) {
        self.engine.set_faults(faults.into());
    }

    /// Waits until `number` calls have hung ([`crate::fault_injection::Fault::Hang`]) since the start of the cloud.
    pub async fn hung(&self, number: u64) {
        self.engine.hung(number).await;
    }

    /// All recorded calls.
    pub fn calls(&self) -> Vec<Call> {
        self.engine.calls().since(0)
    }

    /// Recorded calls after the one with the number `sequence`.
    pub fn calls_since(&self, sequence: u64) -> Vec<Call> {
        self.engine.calls().since(sequence)
    }

    pub fn reset_calls(&self) {
        self.engine.calls().reset();
    }

    /// Answers a request at once: no latency, no faults, no record.
    pub fn call(&self, request: &Request<Bytes>) -> Answer {
        self.engine.apply(request, self.now())
    }

    /// Reads or edits the cloud; consequences of an edit follow at once.
    pub fn with_cloud<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        self.engine.with_cloud(act)
    }

    /// Sets the rates above which calls are refused; all buckets are full.
    pub fn throttle(&self, throttling: Throttling) {
        self.engine.throttle(throttling);
    }

    /// Scripts for the tasks of the simulated driver.
    pub fn simulated(&self) -> &Simulated {
        &self.simulated
    }

    /// The cloud's time.
    pub fn now(&self) -> Time {
        self.engine.now()
    }

    /// Saves after every change until the future is dropped.
    pub async fn keep_saving(&self, store: &Store) -> StoreError {
        loop {
            self.engine.changed().await;
            tokio::time::sleep(SAVE_DELAY).await;
            if let Err(error) = self.save(store).await {
                return error;
            }
        }
    }

    pub async fn save(&self, store: &Store) -> Result<(), StoreError> {
        let state = self.engine.to_json();
        let store = store.clone();
        let written = tokio::task::spawn_blocking(move || match state {
            Ok(state) => store.save(&state),
            Err(source) => Err(StoreError::Unwritable { source }),
        });
        written.await.unwrap_or(Ok(()))
    }

    /// Stops every task, waits at most `grace` for their end, and starts no more. A restart finds the state that was
    /// saved before.
    pub async fn shut_down(mut self, grace: Duration) {
        self.engine.close();
        if let Ok(reports) = (&mut self.background).await {
            self.engine.stop_tasks(reports, grace).await;
        }
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        self.background.abort();
    }
}
