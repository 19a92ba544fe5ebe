//! Simulated tasks follow a script in tokio's time, so that a day of rollouts takes seconds.

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

/// The behaviour of a task.
#[derive(Clone, Debug)]
pub struct Script {
    /// The time to pull the image.
    pub pull: Duration,
    /// The image cannot be pulled.
    pub image_missing: bool,
    /// The task stops before it runs, for this transient reason.
    pub transient: Option<TransientStop>,
    /// The time from the pull until the container runs.
    pub boot: Duration,
    /// The time from the start until the port accepts connections; `None` for never.
    pub healthy: Option<Duration>,
    /// Lines that the task logs when its container starts. A task that fails later, or whose registration in Cloud Map fails, has
    /// logged them.
    pub log: Vec<String>,
    /// When the task ends by itself after its start, and its exit code.
    pub exit: Option<(Duration, i32)>,
    /// The time to stop.
    pub stopping: Duration,
    /// A port that differs from the requested one.
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
    /// A task that starts and exits at once with `code`.
    pub fn exits(code: i32) -> Self {
        Self { exit: Some((Duration::from_millis(500), code)), healthy: None, ..Self::default() }
    }

    /// A task that starts and never accepts connections.
    pub fn never_healthy() -> Self {
        Self { healthy: None, ..Self::default() }
    }

    pub fn image_missing() -> Self {
        Self { image_missing: true, ..Self::default() }
    }

    pub fn stops_for(reason: TransientStop) -> Self {
        Self { transient: Some(reason), ..Self::default() }
    }

    /// The same behaviour, after these lines in the log.
    #[must_use]
    pub fn logging(self, lines: &[&str]) -> Self {
        Self { log: lines.iter().map(ToString::to_string).collect(), ..self }
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
    /// Sets the script for new tasks of a family or with this exact image name. The script of an image has priority over
    /// that of a family.
    pub fn script(&self, family_or_image: &str, script: Script) {
        self.inner().scripts.insert(family_or_image.to_owned(), script);
    }

    /// Sets the script for all other new tasks.
    pub fn script_default(&self, script: Script) {
        self.inner().default = script;
    }

    /// The number of tasks started so far.
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
                ended = run_script(&script, &launch, address.as_ref(), &reports) => ended,
                // An error means that the driver was dropped, so no stop can follow.
                Ok(()) = stopped => {
                    sleep(script.stopping).await;
                    (Some(0), String::new())
                }
            };
            simulated.inner().running.remove(&task_arn);
            drop(address);
            // The receiver is dropped when the cloud ends.
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

/// Runs a task until it ends by itself, if it does.
async fn run_script(
    script: &Script,
    launch: &Launch,
    address: Option<&Address>,
    reports: &UnboundedSender<Report>,
) -> (Option<i32>, String) {
    let task_arn = || launch.task_arn.clone();
    let report = |report| drop(reports.send(report));
    let stops = launch.stops.or(script.transient);
    let address = match (stops, address) {
        (None, Some(address)) => address.ip(),
        (stops, _) => {
            let stop = stops.unwrap_or(TransientStop::FreeAddresses);
            sleep(stop.after()).await;
            if stop.is_after_start() {
                report_log(script, launch, reports);
            }
            return (None, stop.reason(launch));
        }
    };
    sleep(script.pull).await;
    if script.image_missing {
        let image = launch.containers.first().map_or("", |container| container.image.as_str());
        return (None, missing_image(image));
    }
    report(Report::Pulled { task_arn: task_arn() });
    sleep(script.boot).await;
    report(Report::Running { task_arn: task_arn(), address, port: script.port });
    report_log(script, launch, reports);
    let healthy = async {
        if let Some(delay) = script.healthy {
            sleep(delay).await;
            report(Report::Healthy { task_arn: task_arn() });
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

/// Reports the lines of the script, from each container with a log.
fn report_log(script: &Script, launch: &Launch, reports: &UnboundedSender<Report>) {
    for target in launch.containers.iter().filter_map(|container| container.log.as_ref()) {
        for line in &script.log {
            let (group, stream) = (target.group.clone(), target.stream.clone());
            // The receiver is dropped when the cloud ends.
            let _ = reports.send(Report::Log { group, stream, line: line.clone() });
        }
    }
}
