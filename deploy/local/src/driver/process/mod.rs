//! Tasks as real processes: what was pushed, run as it would be in a container, without root and without an engine.
//!
//! Guarantees: a task runs the layers its manifest names, in a process group of its own, with nothing of this process's
//! environment but what the settings hand on; its lines are reported before its end; nothing of its group outlives it,
//! and no group outlives this process, however that ends. Not a boundary: a task sees this machine's files and network.
//!
//! An image has its environment at `/opt/codeloc/env` and its code at `/opt/codeloc/code`; the machine's Python of the
//! same minor version stands in for the base image. See [`image`] and [`paths`] for what is taken from it.

mod address;
mod container;
mod guardian;
mod image;
mod layer;
mod paths;
mod python;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Driver;
use super::addresses::{Addresses, LISTENING};
use crate::lock::lock;
use crate::model::launch::{Launch, Report, TransientStop};
use crate::registry::Registry;
use address::LeaseError;
use container::{Plan, StartError, Surroundings};
use guardian::Guardian;
use image::{Image, ImageError, Store};

/// Between two attempts to reach a task's port.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// What the process driver is told about its surroundings.
pub struct ProcessSettings {
    /// Unpacked layers, images and the tasks' scratch folders; used by one driver at a time.
    pub folder: PathBuf,
    /// Where every image comes from, whatever host its name has.
    pub registry: Arc<Registry>,
    /// Every task's, under the image's and the task definition's own: `AWS_ENDPOINT_URL`, credentials, certificates.
    pub extra_environment: BTreeMap<String, String>,
    /// Programs to try as Python where the search path has none of the version.
    pub python: Vec<PathBuf>,
    /// Where programs of this machine are looked for, like `PATH`; ends every task's own.
    pub search_path: String,
}

impl ProcessSettings {
    /// Settings that hand on this process's `PATH` and certificates, and no more of its environment.
    pub fn new(folder: PathBuf, registry: Arc<Registry>) -> Self {
        let text = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
        let certificate = |name: &str| text(name).map(|value| (name.to_owned(), value));
        Self {
            folder,
            registry,
            extra_environment: ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(certificate).collect(),
            python: Vec::new(),
            search_path: text("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned()),
        }
    }
}

/// The driver. Dropping it stops its tasks.
pub struct Process {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    extra_environment: BTreeMap<String, String>,
    search_path: String,
    /// One image is prepared at a time: the next one often needs the same layers.
    store: Arc<tokio::sync::Mutex<Store>>,
    guardian: Arc<Mutex<Guardian>>,
    tasks: Mutex<HashMap<String, CancellationToken>>,
}

/// Why a task never ran, with the names that ECS gives in `stoppedReason`.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error("CannotPullContainerError: {0}")]
    Pull(#[from] ImageError),
    #[error("ResourceInitializationError: {0}")]
    Resources(#[source] io::Error),
    #[error("CannotStartContainerError: {0}")]
    Start(#[from] StartError),
    #[error("Task stopped before it started")]
    Stopped,
    #[error("{0}")]
    Transient(String),
}

impl Process {
    pub fn new(settings: ProcessSettings) -> Self {
        let ProcessSettings { folder, registry, extra_environment, python, search_path } = settings;
        clear_leftovers(&folder);
        let store = Store::new(&folder, registry, OsString::from(&search_path), python);
        let store = Arc::new(tokio::sync::Mutex::new(store));
        let (guardian, tasks) = (Arc::default(), Mutex::default());
        Self { shared: Arc::new(Shared { folder, extra_environment, search_path, store, guardian, tasks }) }
    }
}

impl Driver for Process {
    /// Has to be called in a tokio runtime.
    fn launch(&self, launch: Launch, addresses: &Addresses, reports: UnboundedSender<Report>) {
        let stop = CancellationToken::new();
        lock(&self.shared.tasks).insert(launch.task_arn.clone(), stop.clone());
        let (shared, addresses) = (Arc::clone(&self.shared), addresses.clone());
        tokio::spawn(async move {
            let task_arn = launch.task_arn.clone();
            let outcome = shared.run(launch, &addresses, &stop, &reports).await;
            lock(&shared.tasks).remove(&task_arn);
            let (exit_code, reason) = match outcome {
                Ok((exit_code, reason)) => (Some(exit_code), reason),
                Err(error) => (None, error.to_string()),
            };
            drop(reports.send(Report::Exited { task_arn, exit_code, reason }));
        });
    }

    fn network(&self) -> Ipv4Addr {
        LISTENING
    }

    fn stop(&self, task_arn: &str) {
        if let Some(stop) = lock(&self.shared.tasks).get(task_arn) {
            stop.cancel();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for stop in lock(&self.shared.tasks).values() {
            stop.cancel();
        }
    }
}

impl Shared {
    /// One task from its image to its end.
    async fn run(
        &self,
        launch: Launch,
        addresses: &Addresses,
        stop: &CancellationToken,
        reports: &UnboundedSender<Report>,
    ) -> Result<(i32, String), TaskError> {
        let task_arn = &launch.task_arn;
        let report = |report| drop(reports.send(report));
        if let Some(transient) = launch.stops {
            tokio::select! {
                () = stop.cancelled() => return Err(TaskError::Stopped),
                () = tokio::time::sleep(transient.after()) => return Err(TaskError::Transient(transient.reason(&launch))),
            }
        }
        let mut images = Vec::with_capacity(launch.containers.len());
        for container in &launch.containers {
            images.push(tokio::select! {
                () = stop.cancelled() => return Err(TaskError::Stopped),
                image = self.prepare(container.image.clone()) => image?,
            });
        }
        let port = launch.containers.iter().find_map(|container| container.port);
        let lease = address::lease(addresses, port).map_err(|error| match error {
            LeaseError::NoneFree(_) => TaskError::Transient(TransientStop::FreeAddresses.reason(&launch)),
            LeaseError::Port(error) => TaskError::Resources(error),
        })?;
        let scratch = scratch(&self.folder).map_err(TaskError::Resources)?;
        report(Report::Pulled { task_arn: task_arn.clone() });

        let around = Surroundings {
            environment: &self.extra_environment,
            search_path: &self.search_path,
            scratch: scratch.path(),
            lease: &lease,
        };
        let containers = launch.containers.iter().zip(&images);
        let plans = containers.map(|(container, image)| Plan::new(container, image, &around));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let running = plans.iter().map(|plan| plan.start(&self.guardian));
        let running = running.collect::<Result<Vec<_>, _>>()?;
        let mut ends = JoinSet::new();
        for (mut process, container) in running.into_iter().zip(&launch.containers) {
            process.go().await;
            let log = container.log.clone();
            ends.spawn(process.ended(log, reports.clone(), stop.clone(), container.stop_timeout));
        }
        let address = lease.address;
        report(Report::Running { task_arn: task_arn.clone(), address, port: lease.other_port });

        let healthy = async {
            if let Some(port) = lease.other_port.or(port) {
                until_reachable(address, port).await;
            }
            report(Report::Healthy { task_arn: task_arn.clone() });
            std::future::pending::<Infallible>().await
        };
        let first = tokio::select! {
            first = ends.join_next() => first,
            never = healthy => match never {},
        };
        let asked = stop.is_cancelled();
        // Every container is essential: the end of one is the end of the task.
        stop.cancel();
        while ends.join_next().await.is_some() {}
        let exit_code = match first {
            Some(Ok(ended)) => ended.map_err(TaskError::Resources)?,
            Some(Err(error)) => return Err(TaskError::Resources(io::Error::other(error))),
            None => return Err(TaskError::Start(StartError::NoCommand)),
        };
        let reason = if asked { "Task stopped on request" } else { "Essential container in task exited" };
        Ok((exit_code, reason.to_owned()))
    }

    async fn prepare(&self, image: String) -> Result<Image, TaskError> {
        let store = Arc::clone(&self.store).lock_owned().await;
        let prepared = tokio::task::spawn_blocking(move || store.prepare(&image)).await;
        Ok(prepared.map_err(|error| TaskError::Resources(io::Error::other(error)))??)
    }
}

async fn until_reachable(address: Ipv4Addr, port: u16) {
    while TcpStream::connect((address, port)).await.is_err() {
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

/// A task's own home and temporary folder. The path is short: sockets in it may have little more than 100 bytes.
fn scratch(folder: &Path) -> io::Result<tempfile::TempDir> {
    let tasks = folder.join("tasks");
    fs::create_dir_all(&tasks)?;
    let scratch = tempfile::Builder::new().prefix("").tempdir_in(&tasks)?;
    fs::create_dir(scratch.path().join("home"))?;
    fs::create_dir(scratch.path().join("tmp"))?;
    Ok(scratch)
}

/// Removes what an earlier driver had no time to remove; what cannot be removed only takes space.
fn clear_leftovers(folder: &Path) {
    let inside = |name: &str| fs::read_dir(folder.join(name)).into_iter().flatten().flatten().map(|entry| entry.path());
    let partial = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".partial-"));
    let unfinished = inside("layers").chain(inside("images")).filter(partial);
    for path in inside("tasks").chain(unfinished) {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "left over from an earlier run");
        }
    }
}

#[cfg(test)]
mod tests;
