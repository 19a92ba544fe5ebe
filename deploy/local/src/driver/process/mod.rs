//! Tasks as processes: runs pushed images like containers, without root and without a container engine.
//!
//! Guarantees: a task runs the layers of its manifest in a separate process group, and gets only the configured part of this
//! process's environment. Its lines are reported before its end. The group ends with the task, and with this process. This is no
//! security boundary: a task has access to the files and the network of this machine. The exception are tasks of the image
//! [`SANDBOX_IMAGE`], which stands for programs of this machine in a [`Sandbox`].
//!
//! The environment of an image is at `/opt/codeloc/env`, its code at `/opt/codeloc/code`. The machine's Python of the same minor
//! version replaces the base image. See [`image`] and [`paths`].

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
use crate::model::launch::{Container, Launch, Report, TransientStop};
use crate::registry::Registry;
use address::LeaseError;
use codeloc_sandbox::{Limits, Reachable, Sandbox};
use container::{Plan, SandboxTask, StartError, TaskEnvironment};
use guardian::Guardian;
use image::{Image, ImageError, Store};

/// Between two attempts to connect to a task.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// Settings of the process driver.
pub struct ProcessSettings {
    /// Layers, images and the scratch folders of tasks. Only one driver can use it.
    pub folder: PathBuf,
    /// The registry of all images; the host in their names is ignored.
    pub registry: Arc<Registry>,
    /// Variables of every task (`AWS_ENDPOINT_URL`, credentials, certificates), overridden by the image and the task definition.
    pub extra_environment: BTreeMap<String, String>,
    /// Python programs to try if the search path has none of the version.
    pub python: Vec<PathBuf>,
    /// The folder that every image has as `/opt/codeloc/platform`, as from its base image.
    pub platform: Option<PathBuf>,
    /// The search path for programs of this machine, appended to the PATH of every task.
    pub search_path: String,
    /// Folders with programs that a sandboxed task sees, such as uv.
    pub tools: Vec<PathBuf>,
    /// `HOST:PORT` of this machine that a sandboxed task reaches, such as a package index.
    pub reachable: Vec<String>,
}

/// An image that no registry has; its tag is the minor version of Python.
pub const SANDBOX_IMAGE: &str = "localcloud.invalid/sandbox";
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

impl ProcessSettings {
    /// Settings with `PATH` and the certificates of this process, and no other part of its environment.
    pub fn new(folder: PathBuf, registry: Arc<Registry>) -> Self {
        let text = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
        let certificate = |name: &str| text(name).map(|value| (name.to_owned(), value));
        Self {
            folder,
            registry,
            extra_environment: CERTIFICATES.into_iter().filter_map(certificate).collect(),
            python: Vec::new(),
            platform: None,
            tools: Vec::new(),
            reachable: Vec::new(),
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
    python: Vec<PathBuf>,
    tools: Vec<PathBuf>,
    reachable: Vec<String>,
    /// Prepares one image at a time: the next often needs the same layers.
    store: Arc<tokio::sync::Mutex<Store>>,
    guardian: Arc<Mutex<Guardian>>,
    tasks: Mutex<HashMap<String, CancellationToken>>,
}

/// What a container runs in.
enum Runtime {
    Image(Image),
    /// With the interpreter that it shows.
    Sandbox(Sandbox, PathBuf),
}

/// Why a task did not run, with the names of ECS in `stoppedReason`.
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
        let ProcessSettings { folder, registry, extra_environment, python, platform, search_path, tools, reachable } =
            settings;
        clear_leftovers(&folder);
        let store = Store::new(&folder, registry, OsString::from(&search_path), python.clone(), platform);
        let store = Arc::new(tokio::sync::Mutex::new(store));
        let (guardian, tasks) = (Arc::default(), Mutex::default());
        let shared =
            Shared { folder, extra_environment, search_path, python, tools, reachable, store, guardian, tasks };
        Self { shared: Arc::new(shared) }
    }
}

impl Driver for Process {
    /// Call it inside a tokio runtime.
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
    /// Runs one task from its image to its end.
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
                image = self.runtime(container) => image?,
            });
        }
        let port = launch.containers.iter().find_map(|container| container.port);
        let lease = address::lease(addresses, port).map_err(|error| match error {
            LeaseError::NoFreeAddress(_) => TaskError::Transient(TransientStop::FreeAddresses.reason(&launch)),
            LeaseError::Port(error) => TaskError::Resources(error),
        })?;
        let scratch = scratch(&self.folder).map_err(TaskError::Resources)?;
        report(Report::Pulled { task_arn: task_arn.clone() });

        let task = TaskEnvironment {
            environment: &self.extra_environment,
            search_path: &self.search_path,
            scratch: scratch.path(),
            lease: &lease,
        };
        let containers = launch.containers.iter().zip(&images);
        let plans = containers.map(|(container, runtime)| match runtime {
            Runtime::Image(image) => Plan::new(container, image, &task),
            Runtime::Sandbox(sandbox, python) => Ok(self.sandboxed(container, sandbox, python, scratch.path())),
        });
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let running = plans.iter().map(|plan| plan.start(&self.guardian));
        let running = running.collect::<Result<Vec<_>, _>>()?;
        let mut ends = JoinSet::new();
        for (mut process, container) in running.into_iter().zip(&launch.containers) {
            process.release().await;
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

    async fn runtime(&self, container: &Container) -> Result<Runtime, TaskError> {
        let version = container.image.strip_prefix(SANDBOX_IMAGE).and_then(|rest| rest.strip_prefix(':'));
        let Some(version) = version else {
            return self.prepare(container.image.clone()).await.map(Runtime::Image);
        };
        let python =
            python::find(version, &OsString::from(&self.search_path), &self.python).map_err(ImageError::from)?;
        let folder = self.folder.join("tasks");
        fs::create_dir_all(&folder).map_err(TaskError::Resources)?;
        let urls = container.environment.values().filter(|value| value.starts_with("http://")).cloned().collect();
        let reachable = Reachable { addresses: self.reachable.clone(), urls };
        let certificates = self.certificates().into_values().map(PathBuf::from);
        let shown = self.tools.iter().cloned().chain(certificates).collect();
        let sandbox = Sandbox::new(&folder, &python, shown, Limits::default(), reachable);
        Ok(Runtime::Sandbox(
            sandbox.map_err(TaskError::Resources)?,
            fs::canonicalize(python).map_err(TaskError::Resources)?,
        ))
    }

    fn certificates(&self) -> BTreeMap<String, String> {
        let all = CERTIFICATES.into_iter().filter_map(|name| self.extra_environment.get_key_value(name));
        all.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn sandboxed(&self, container: &Container, sandbox: &Sandbox, python: &Path, scratch: &Path) -> Plan {
        let folders = python
            .parent()
            .map(Path::to_owned)
            .into_iter()
            .chain(self.tools.iter().cloned())
            .chain(["/usr/bin", "/bin"].map(PathBuf::from));
        let folders: Vec<String> = folders.map(|folder| folder.to_string_lossy().into_owned()).collect();
        let search_path = folders.join(":");
        let task = SandboxTask { certificates: self.certificates(), search_path: &search_path, scratch };
        Plan::sandboxed(container, sandbox, python, &task)
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

/// The home and temporary folder of a task. Its path is short, because socket paths have about 100 bytes at most.
fn scratch(folder: &Path) -> io::Result<tempfile::TempDir> {
    let tasks = folder.join("tasks");
    fs::create_dir_all(&tasks)?;
    let scratch = tempfile::Builder::new().prefix("").tempdir_in(&tasks)?;
    fs::create_dir(scratch.path().join("home"))?;
    fs::create_dir(scratch.path().join("tmp"))?;
    Ok(scratch)
}

/// Removes leftovers of an earlier driver. A failure only costs disk space.
fn clear_leftovers(folder: &Path) {
    let inside = |name: &str| fs::read_dir(folder.join(name)).into_iter().flatten().flatten().map(|entry| entry.path());
    let partial = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".partial-"));
    let unfinished = inside("layers").chain(inside("images")).filter(partial);
    for path in inside("tasks").chain(unfinished) {
        if let Err(error) = fs::remove_dir_all(&path) {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot remove files of an earlier localcloud; delete the folder");
        }
    }
}

#[cfg(test)]
mod tests;
