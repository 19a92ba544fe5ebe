//! One container as one process group: start, output and end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use codeloc_sandbox::Sandbox;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::address::Lease;
use super::guardian::{Group, Guardian};
use super::image::Image;
use super::paths::{below, mapped};
use crate::model::launch::{Container, LogTarget, Report};

const LAUNCHER: &str = include_str!("launcher.py");
/// Longer lines are split, as container engines do.
const LINE_BYTES: u64 = 16 << 10;
/// How long to wait for the last lines if a process outside the group holds the pipe open.
const LAST_LINES: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("neither the task definition nor the image has a command")]
    NoCommand,
    #[error("the working directory {0:?} is outside the image")]
    Directory(String),
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NoProgram(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io { path, source }
}

/// The command line of a container's process. All paths are paths of this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    python: PathBuf,
    directory: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// The environment of the containers of a task.
pub(super) struct TaskEnvironment<'a> {
    /// Overridden by the variables of the image and of the task definition.
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) search_path: &'a str,
    /// The folder of the task, removed with it.
    pub(super) scratch: &'a Path,
    pub(super) lease: &'a Lease,
}

/// What a sandboxed container gets of this machine.
pub(super) struct SandboxTask<'a> {
    pub(super) certificates: BTreeMap<String, String>,
    /// Folders of programs that the sandbox shows.
    pub(super) search_path: &'a str,
    pub(super) scratch: &'a Path,
}

impl Plan {
    pub(super) fn new(container: &Container, image: &Image, task: &TaskEnvironment<'_>) -> Result<Self, StartError> {
        let environment = environment(container, image, task);
        let (entry_point, command) = if container.entry_point.is_empty() {
            let command = if container.command.is_empty() { &image.command } else { &container.command };
            (&image.entry_point, command)
        } else {
            // An entry point in the task definition also overrides the command of the image.
            (&container.entry_point, &container.command)
        };
        let mut words = entry_point.iter().chain(command).map(|word| mapped(word, &image.rootfs));
        let program = words.next().ok_or(StartError::NoCommand)?;
        let wanted = container.working_directory.as_ref().unwrap_or(&image.working_directory);
        let directory = below(&image.rootfs, Path::new(wanted)).ok_or_else(|| StartError::Directory(wanted.clone()))?;
        let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
        let found = locate(&program, &directory, OsStr::new(path));
        Ok(Self {
            python: image.python(),
            program: found.ok_or(StartError::NoProgram(program))?,
            arguments: words.collect(),
            directory,
            environment,
        })
    }

    /// The plan of a container whose image is the sandbox of this machine. It gets its own variables only: none of the cloud.
    pub(super) fn sandboxed(container: &Container, sandbox: &Sandbox, python: &Path, task: &SandboxTask<'_>) -> Self {
        let program = container.entry_point.iter().chain(&container.command).cloned();
        let mut words = sandbox.words(program).into_iter();
        let mut environment = container.environment.clone();
        environment.extend(task.certificates.clone());
        environment.insert("PATH".to_owned(), task.search_path.to_owned());
        Self {
            python: python.to_owned(),
            directory: task.scratch.to_owned(),
            program: PathBuf::from(words.next().unwrap_or_default()),
            arguments: words.collect(),
            environment: sandbox.environment(environment),
        }
    }

    /// Starts the launcher, which waits for [`Running::release`], so that the guardian knows the group before the command runs.
    pub(super) fn start(&self, guardian: &Arc<Mutex<Guardian>>) -> Result<Running, StartError> {
        // Container engines create the working directory, too.
        std::fs::create_dir_all(&self.directory).map_err(at(&self.directory))?;
        let child = Command::new(&self.python)
            .args(["-I", "-S", "-c", LAUNCHER])
            .arg(&self.directory)
            .arg(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(at(&self.python))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let group = group.ok_or_else(|| at(&self.python)(io::ErrorKind::NotFound.into()))?;
        let group = Group::new(group, guardian).map_err(at(&self.python))?;
        Ok(Running { group, child })
    }
}

fn environment(container: &Container, image: &Image, task: &TaskEnvironment<'_>) -> BTreeMap<String, String> {
    let mut all = task.environment.clone();
    let own = image.environment.iter().chain(&container.environment);
    all.extend(own.map(|(name, value)| (name.clone(), mapped(value, &image.rootfs))));
    if let Some(host) = all.get_mut("DAGSTER_GRPC_HOST") {
        *host = host.replace("0.0.0.0", &task.lease.address.to_string());
    }
    if let Some(port) = task.lease.other_port {
        all.insert("DAGSTER_GRPC_PORT".to_owned(), port.to_string());
    }
    let programs = image.programs().to_string_lossy().into_owned();
    let paths = [Some(programs), all.remove("PATH"), Some(task.search_path.to_owned())];
    let paths: Vec<String> = paths.into_iter().flatten().filter(|path| !path.is_empty()).collect();
    all.insert("PATH".to_owned(), paths.join(":"));
    for (name, folder) in [("HOME", "home"), ("TMPDIR", "tmp")] {
        all.insert(name.to_owned(), task.scratch.join(folder).to_string_lossy().into_owned());
    }
    all
}

fn locate(program: &str, directory: &Path, search_path: &OsStr) -> Option<PathBuf> {
    let runs =
        |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return Some(directory.join(program)).filter(runs);
    }
    std::env::split_paths(search_path).map(|folder| folder.join(program)).find(runs)
}

/// A container's process and the group it leads.
pub(super) struct Running {
    /// Dropped before the child: until the child is reaped, the kernel does not reuse the id of the group.
    group: Group,
    child: Child,
}

impl Running {
    /// Lets the launcher run the command of the container.
    pub(super) async fn release(&mut self) {
        if let Some(mut input) = self.child.stdin.take()
            && let Err(error) = input.write_all(b"\n").await
        {
            // The launcher has ended; its exit code is reported.
            tracing::debug!(%error, "the launcher has ended");
        }
    }

    /// Waits for the end of the process and forwards its lines. On `stop` the group gets SIGTERM and, after
    /// `stop_timeout`, SIGKILL. Returns the exit code, or 128 + signal.
    pub(super) async fn ended(
        mut self,
        log: Option<LogTarget>,
        reports: UnboundedSender<Report>,
        stop: CancellationToken,
        stop_timeout: Duration,
    ) -> io::Result<i32> {
        let mut lines = JoinSet::new();
        if let Some(output) = self.child.stdout.take() {
            lines.spawn(forward(output, log.clone(), reports.clone()));
        }
        if let Some(output) = self.child.stderr.take() {
            lines.spawn(forward(output, log, reports));
        }
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = stop.cancelled() => {
                self.group.signal(Signal::TERM);
                if let Ok(status) = tokio::time::timeout(stop_timeout, self.child.wait()).await {
                    status
                } else {
                    self.group.signal(Signal::KILL);
                    self.child.wait().await
                }
            }
        };
        // Kill the rest of the group.
        drop(self.group);
        if tokio::time::timeout(LAST_LINES, async { while lines.join_next().await.is_some() {} }).await.is_err() {
            tracing::debug!("a process outside the group keeps the output of the task open");
        }
        status.map(code)
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Forwards lines without line ends, long lines in pieces.
async fn forward(output: impl AsyncRead + Unpin, log: Option<LogTarget>, reports: UnboundedSender<Report>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Err(error) => {
                tracing::debug!(%error, "cannot read the output of a task");
                return;
            }
            Ok(_) => {}
        }
        let Some(LogTarget { group, stream }) = log.clone() else {
            continue;
        };
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let line = String::from_utf8_lossy(text).into_owned();
        // Keep reading when localcloud ends and drops the receiver, so that the process does not block on its output.
        drop(reports.send(Report::Log { group, stream, line }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::addresses::Addresses;
    use crate::driver::process::address;

    fn image() -> Image {
        let pairs = [("PATH", "/opt/codeloc/env/bin:/usr/bin"), ("PYTHONPATH", "/opt/codeloc/code")];
        Image {
            rootfs: PathBuf::from("/r"),
            entry_point: vec!["/bin/sh".to_owned()],
            command: vec!["-c".to_owned(), "true".to_owned()],
            environment: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            working_directory: "/opt/codeloc/code".to_owned(),
        }
    }

    fn container() -> Container {
        Container {
            name: "server".to_owned(),
            image: String::new(),
            entry_point: Vec::new(),
            command: Vec::new(),
            environment: BTreeMap::new(),
            working_directory: None,
            port: None,
            log: None,
            stop_timeout: Duration::from_secs(1),
        }
    }

    fn plan(container: &Container, lease: &Lease) -> Result<Plan, StartError> {
        let environment = BTreeMap::from([("AWS_REGION".to_owned(), "eu-west-1".to_owned())]);
        let task = TaskEnvironment {
            environment: &environment,
            search_path: "/usr/bin:/bin",
            scratch: Path::new("/scratch"),
            lease,
        };
        Plan::new(container, &image(), &task)
    }

    #[test]
    fn the_task_definition_overrides_the_image() {
        let lease = address::lease(&Addresses::default(), None).unwrap();
        let plain = plan(&container(), &lease).unwrap();
        assert_eq!(
            (plain.program.as_path(), plain.directory.as_path()),
            (Path::new("/bin/sh"), Path::new("/r/opt/codeloc/code"))
        );
        assert_eq!(plain.arguments, ["-c", "true"]);
        assert_eq!(plain.environment["PYTHONPATH"], "/r/opt/codeloc/code");
        assert_eq!(plain.environment["PATH"], "/r/opt/codeloc/env/bin:/r/opt/codeloc/env/bin:/usr/bin:/usr/bin:/bin");
        assert_eq!(plain.environment["HOME"], "/scratch/home");
        assert_eq!(plain.environment["AWS_REGION"], "eu-west-1");

        let command = Container { command: vec!["/opt/codeloc/code/run.sh".to_owned()], ..container() };
        assert_eq!(plan(&command, &lease).unwrap().arguments, ["/r/opt/codeloc/code/run.sh"]);
        let entry_point = Container { entry_point: vec!["/bin/echo".to_owned()], ..container() };
        let own = plan(&entry_point, &lease).unwrap();
        assert_eq!((own.program.as_path(), own.arguments.len()), (Path::new("/bin/echo"), 0));
    }

    #[test]
    fn the_server_gets_the_address_of_its_task() {
        let lease = address::lease(&Addresses::default(), None).unwrap();
        let pairs = [("DAGSTER_GRPC_HOST", "0.0.0.0"), ("OTHER", "0.0.0.0")];
        let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let plan = plan(&Container { environment, ..container() }, &lease).unwrap();
        assert_eq!(plan.environment["DAGSTER_GRPC_HOST"], lease.address.to_string());
        assert_eq!(plan.environment["OTHER"], "0.0.0.0");
        assert!(!plan.environment.contains_key("DAGSTER_GRPC_PORT"));
    }

    #[test]
    fn missing_programs_and_outside_directories_are_errors() {
        let lease = address::lease(&Addresses::default(), None).unwrap();
        let absent = Container { entry_point: vec!["no-such-program".to_owned()], ..container() };
        assert!(matches!(plan(&absent, &lease), Err(StartError::NoProgram(_))));
        let outside = Container { working_directory: Some("/opt/../../etc".to_owned()), ..container() };
        assert!(matches!(plan(&outside, &lease), Err(StartError::Directory(_))));
    }
}
