//! Tasks that run nothing: each does in tokio's time what its script says, so that a day of rollouts takes seconds.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Driver;
use super::addresses::{Address, Addresses, SILENT};
use crate::lock::lock;
use crate::model::launch::{Launch, Report, TransientStop, missing_image};

/// How a task behaves.
#[derive(Clone, Debug)]
pub struct Script {
    /// Until the image is there.
    pub pull: Duration,
    /// The image cannot be pulled.
    pub image_missing: bool,
    /// It stops before it runs, for a reason of AWS's own.
    pub transient: Option<TransientStop>,
    /// From there until the container runs.
    pub boot: Duration,
    /// From there until the port answers; `None`: never.
    pub healthy: Option<Duration>,
    /// What it logs once it runs.
    pub log: Vec<String>,
    /// How long after its start it ends by itself, and with which code.
    pub exit: Option<(Duration, i32)>,
    /// From being asked to stop until it has stopped.
    pub stopping: Duration,
    /// The port it was given instead of the one asked for.
    pub port: Option<u16>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pull: Duration::from_secs(1),
            image_missing: false,
            transient: None,
            boot: Duration::from_secs(5),
            healthy: Some(Duration::from_secs(1)),
            log: Vec::new(),
            exit: None,
            stopping: Duration::from_secs(2),
            port: None,
        }
    }
}

impl Script {
    /// Starts, and ends at once with `code`.
    pub fn exits(code: i32) -> Self {
        Self { exit: Some((Duration::from_millis(500), code)), healthy: None, ..Self::default() }
    }

    /// Starts, and never answers.
    pub fn never_healthy() -> Self {
        Self { healthy: None, ..Self::default() }
    }

    pub fn image_missing() -> Self {
        Self { image_missing: true, ..Self::default() }
    }

    pub fn stops_for(reason: TransientStop) -> Self {
        Self { transient: Some(reason), ..Self::default() }
    }
}

/// Clones share scripts and tasks.
#[derive(Clone, Default)]
pub struct Simulated {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    scripts: BTreeMap<String, Script>,
    default: Script,
    running: BTreeMap<String, oneshot::Sender<()>>,
    launched: u32,
}

impl Simulated {
    /// Sets how tasks of a family, or with an image of exactly this name, behave from their next start on. An image's script
    /// goes before its family's.
    pub fn script(&self, family_or_image: &str, script: Script) {
        self.inner().scripts.insert(family_or_image.to_owned(), script);
    }

    /// Sets how every other task behaves.
    pub fn script_default(&self, script: Script) {
        self.inner().default = script;
    }

    /// How many tasks were started so far.
    pub fn launched(&self) -> u32 {
        self.inner().launched
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    fn script_for(&self, launch: &Launch) -> Script {
        let by_image = launch.containers.iter().find_map(|container| self.scripts.get(&container.image));
        by_image.or_else(|| self.scripts.get(&launch.family)).unwrap_or(&self.default).clone()
    }
}

impl Driver for Simulated {
    fn launch(&self, launch: Launch, addresses: &Addresses, reports: UnboundedSender<Report>) {
        let (stop, stopped) = oneshot::channel();
        let script = {
            let mut inner = self.inner();
            inner.launched += 1;
            inner.running.insert(launch.task_arn.clone(), stop);
            inner.script_for(&launch)
        };
        let address = addresses.take().ok();
        let simulated = self.clone();
        tokio::spawn(async move {
            let task_arn = launch.task_arn.clone();
            let (exit_code, reason) = tokio::select! {
                ended = live(&script, &launch, address.as_ref(), &reports) => ended,
                // An error means that this driver is gone, and with it everybody who could ask for a stop.
                Ok(()) = stopped => {
                    sleep(script.stopping).await;
                    (Some(0), String::new())
                }
            };
            simulated.inner().running.remove(&task_arn);
            drop(address);
            // Nobody listens any more when the cloud has ended.
            let _ = reports.send(Report::Exited { task_arn, exit_code, reason });
        });
    }

    fn network(&self) -> Ipv4Addr {
        SILENT
    }

    fn stop(&self, task_arn: &str) {
        if let Some(stop) = self.inner().running.remove(task_arn) {
            let _ = stop.send(());
        }
    }
}

/// A task's life until it ends by itself, if it does.
async fn live(
    script: &Script,
    launch: &Launch,
    address: Option<&Address>,
    reports: &UnboundedSender<Report>,
) -> (Option<i32>, String) {
    let task_arn = || launch.task_arn.clone();
    let tell = |report| drop(reports.send(report));
    let stops = launch.stops.or(script.transient);
    let address = match (stops, address) {
        (None, Some(address)) => address.ip(),
        (stops, _) => {
            let stop = stops.unwrap_or(TransientStop::FreeAddresses);
            sleep(stop.after()).await;
            return (None, stop.reason(launch));
        }
    };
    sleep(script.pull).await;
    if script.image_missing {
        let image = launch.containers.first().map_or("", |container| container.image.as_str());
        return (None, missing_image(image));
    }
    tell(Report::Pulled { task_arn: task_arn() });
    sleep(script.boot).await;
    tell(Report::Running { task_arn: task_arn(), address, port: script.port });
    for target in launch.containers.iter().filter_map(|container| container.log.as_ref()) {
        for line in &script.log {
            let (group, stream) = (target.group.clone(), target.stream.clone());
            tell(Report::Log { group, stream, line: line.clone() });
        }
    }
    let healthy = async {
        if let Some(delay) = script.healthy {
            sleep(delay).await;
            tell(Report::Healthy { task_arn: task_arn() });
        }
        std::future::pending::<(Option<i32>, String)>().await
    };
    let exit = async {
        match script.exit {
            Some((after, code)) => {
                sleep(after).await;
                (Some(code), String::new())
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = exit => ended,
        ended = healthy => ended,
    }
}
