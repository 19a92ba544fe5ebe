//! One container as one process group: what it is started with, how its lines come out, how it ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
/// Longer lines are cut, as container engines cut them.
const LINE_BYTES: u64 = 16 << 10;
/// For the last lines, when something that left the process group still holds the pipe.
const LAST_LINES: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("neither the task definition nor the image says what to run")]
    NoCommand,
    #[error("the working directory {0:?} leads out of the image")]
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

/// What a container's process is started with; all paths are this machine's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    python: PathBuf,
    directory: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// What every container gets from around it.
pub(super) struct Surroundings<'a> {
    /// Under the image's and the task definition's own variables.
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) search_path: &'a str,
    /// The task's own folder, removed with it.
    pub(super) scratch: &'a Path,
    pub(super) lease: &'a Lease,
}

impl Plan {
    pub(super) fn new(container: &Container, image: &Image, around: &Surroundings<'_>) -> Result<Self, StartError> {
        let environment = environment(container, image, around);
        let (entry_point, command) = if container.entry_point.is_empty() {
            let command = if container.command.is_empty() { &image.command } else { &container.command };
            (&image.entry_point, command)
        } else {
            // An entry point of the task definition's own takes away the image's command too.
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

    /// Starts the launcher, which waits for [`Running::go`]: its group is watched before the command runs.
    pub(super) fn start(&self, guardian: &Arc<Mutex<Guardian>>) -> Result<Running, StartError> {
        // A container engine makes the working directory, too.
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

fn environment(container: &Container, image: &Image, around: &Surroundings<'_>) -> BTreeMap<String, String> {
    let mut all = around.environment.clone();
    let own = image.environment.iter().chain(&container.environment);
    all.extend(own.map(|(name, value)| (name.clone(), mapped(value, &image.rootfs))));
    if let Some(host) = all.get_mut("DAGSTER_GRPC_HOST") {
        *host = host.replace("0.0.0.0", &around.lease.address.to_string());
    }
    if let Some(port) = around.lease.other_port {
        all.insert("DAGSTER_GRPC_PORT".to_owned(), port.to_string());
    }
    let programs = image.programs().to_string_lossy().into_owned();
    let paths = [Some(programs), all.remove("PATH"), Some(around.search_path.to_owned())];
    let paths: Vec<String> = paths.into_iter().flatten().filter(|path| !path.is_empty()).collect();
    all.insert("PATH".to_owned(), paths.join(":"));
    for (name, folder) in [("HOME", "home"), ("TMPDIR", "tmp")] {
        all.insert(name.to_owned(), around.scratch.join(folder).to_string_lossy().into_owned());
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
    /// Before the child: as long as nobody waited for that, the group's number is no other's.
    group: Group,
    child: Child,
}

impl Running {
    /// Lets the launcher become the container's command.
    pub(super) async fn go(&mut self) {
        if let Some(mut input) = self.child.stdin.take()
            && let Err(error) = input.write_all(b"\n").await
        {
            // It has ended already: its exit code tells.
            tracing::debug!(%error, "the launcher does not listen");
        }
    }

    /// Follows the process to its end: lines go out as they come; on `stop` the group gets SIGTERM and, after
    /// `stop_timeout`, SIGKILL. Gives the exit code, or 128 + signal.
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
        // What is left of the group goes with its leader.
        drop(self.group);
        if tokio::time::timeout(LAST_LINES, async { while lines.join_next().await.is_some() {} }).await.is_err() {
            tracing::debug!("a process that left its group holds the task's output open");
        }
        status.map(code)
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Sends lines on, without their ends; a line that is too long comes in pieces.
async fn forward(output: impl AsyncRead + Unpin, log: Option<LogTarget>, reports: UnboundedSender<Report>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Err(error) => {
                tracing::debug!(%error, "a task's output broke off");
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
        // Nobody listens any more when localcloud ends; the process is not to block on its output all the same.
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
        let around = Surroundings {
            environment: &environment,
            search_path: "/usr/bin:/bin",
            scratch: Path::new("/scratch"),
            lease,
        };
        Plan::new(container, &image(), &around)
    }

    #[test]
    fn the_image_gives_defaults_and_the_task_definition_overrides_them() {
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
    fn the_server_is_told_the_tasks_own_address() {
        let lease = address::lease(&Addresses::default(), None).unwrap();
        let pairs = [("DAGSTER_GRPC_HOST", "0.0.0.0"), ("OTHER", "0.0.0.0")];
        let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let plan = plan(&Container { environment, ..container() }, &lease).unwrap();
        assert_eq!(plan.environment["DAGSTER_GRPC_HOST"], lease.address.to_string());
        assert_eq!(plan.environment["OTHER"], "0.0.0.0");
        assert!(!plan.environment.contains_key("DAGSTER_GRPC_PORT"));
    }

    #[test]
    fn a_program_that_is_nowhere_and_a_directory_outside_are_errors() {
        let lease = address::lease(&Addresses::default(), None).unwrap();
        let absent = Container { entry_point: vec!["no-such-program".to_owned()], ..container() };
        assert!(matches!(plan(&absent, &lease), Err(StartError::NoProgram(_))));
        let outside = Container { working_directory: Some("/opt/../../etc".to_owned()), ..container() };
        assert!(matches!(plan(&outside, &lease), Err(StartError::Directory(_))));
    }
}
