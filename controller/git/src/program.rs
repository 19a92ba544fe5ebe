//! Other programs (git, uv, Python) as children that cannot outlive their use.
//!
//! Guarantees: a child sees only the variables it is given; it leads a process group of its own, which is killed as a
//! whole when time is up and when the caller goes away; output is bounded; credentials in URLs are masked in what it
//! says.

use std::ffi::{OsStr, OsString};
use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use codeloc_crds::mask_credentials;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt};

/// In bytes: the listing of several hundred thousand files.
const MAX_STDOUT: u64 = 64 << 20;

/// In bytes; the rest of a longer complaint is read and dropped.
const MAX_STDERR: u64 = 1 << 20;

/// What programs need to reach servers from here. AWS credentials are not among them.
const INHERITED: [&str; 8] =
    ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"];

/// Those variables of our own environment that every program may see, and `more`; passed on, not interpreted.
pub fn inherited(more: &[&'static str]) -> Vec<(&'static str, OsString)> {
    INHERITED.iter().chain(more).filter_map(|name| Some((*name, std::env::var_os(name)?))).collect()
}

/// A program with arguments, ready to run once.
pub struct Program {
    name: String,
    command: Command,
    timeout: Duration,
    largest_output: u64,
    largest_file: Option<u64>,
}

/// What a program left behind.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// Without credentials.
    pub stderr: String,
}

/// Why there is no output to judge.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot start {program}: {reason}; is it installed?")]
    Start { program: String, reason: String },
    #[error("{program} took longer than {seconds} s")]
    TimedOut { program: String, seconds: u64 },
    #[error("{program} printed more than {bytes} bytes")]
    TooMuchOutput { program: String, bytes: u64 },
    #[error("{program} cannot be listened to: {reason}")]
    Pipe { program: String, reason: String },
}

impl Program {
    /// With an empty environment. `timeout` is that of the whole run.
    pub fn new(program: &Path, timeout: Duration) -> Self {
        let mut command = Command::new(program);
        command.env_clear().process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self { name, command, timeout, largest_output: MAX_STDOUT, largest_file: None }
    }

    /// Where the program runs; a relative path to the program itself is taken from there as well.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    #[must_use]
    pub fn arguments<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    #[must_use]
    pub fn environment<I: IntoIterator<Item = (K, V)>, K: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: I,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// In bytes, of what it prints; 64 MiB unless set.
    #[must_use]
    pub fn largest_output(mut self, bytes: u64) -> Self {
        self.largest_output = bytes;
        self
    }

    /// In bytes, of any one file that it or a child of it writes; a longer one ends it with SIGXFSZ.
    #[must_use]
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.largest_file = Some(bytes);
        self
    }

    /// Runs to the end; a failing exit is the caller's to judge. Dropping the future ends the program as well.
    pub async fn run(self) -> Result<Output, ProgramError> {
        let Self { name, command, timeout, largest_output, largest_file } = self;
        let mut command = tokio::process::Command::from(command);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ProgramError::Start { program: name.clone(), reason: error.to_string() })?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        if let (Some(bytes), Some(process)) = (largest_file, group.0) {
            let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            // Fails only where the program has ended already.
            let _ = prlimit(Some(process), Resource::Fsize, limit);
        }
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let pipe = |error: std::io::Error| ProgramError::Pipe { program: name.clone(), reason: error.to_string() };
        let finished = async {
            let printed = async {
                let mut bytes = Vec::new();
                stdout.take(largest_output + 1).read_to_end(&mut bytes).await.map_err(pipe)?;
                if bytes.len() as u64 > largest_output {
                    return Err(ProgramError::TooMuchOutput { program: name.clone(), bytes: largest_output });
                }
                Ok(bytes)
            };
            let complained = async { beginning(stderr).await.map_err(pipe) };
            let (stdout, stderr) = tokio::try_join!(printed, complained)?;
            Ok::<_, ProgramError>((child.wait().await.map_err(pipe)?, stdout, stderr))
        };
        let (status, stdout, stderr) = tokio::time::timeout(timeout, finished)
            .await
            .map_err(|_| ProgramError::TimedOut { program: name.clone(), seconds: timeout.as_secs() })??;
        group.0 = None;
        Ok(Output { status, stdout, stderr: mask_credentials(&String::from_utf8_lossy(&stderr)) })
    }

    /// Starts a program that is asked and answers until it is dropped, without a limit in time; for threads that may
    /// block. What it complains about is lost.
    pub fn start_interactive(mut self) -> Result<InteractiveProcess, ProgramError> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| ProgramError::Start { program: self.name, reason: error.to_string() })?;
        let group = Group(Pid::from_raw(child.id().cast_signed()));
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(InteractiveProcess { requests, answers, child, group })
    }
}

/// A running program that is asked through one pipe and answers through another.
pub struct InteractiveProcess {
    pub requests: ChildStdin,
    pub answers: BufReader<ChildStdout>,
    child: Child,
    group: Group,
}

impl Drop for InteractiveProcess {
    fn drop(&mut self) {
        self.group.end();
        let _ = self.child.wait();
    }
}

/// Keeps the beginning and reads the rest away, so that the program can end.
async fn beginning(mut stream: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut stream).take(MAX_STDERR).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// The last lines of a program's complaint, short enough for a status message.
pub fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The group of a child that has not been waited for, so that its number cannot have been given to another.
struct Group(Option<Pid>);

impl Group {
    fn end(&mut self) {
        if let Some(leader) = self.0.take() {
            // Fails only where nothing is left to end.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Program {
        let path = [("PATH", "/usr/bin:/bin")];
        Program::new(Path::new("/bin/sh"), timeout).arguments(["-c", script]).environment(path)
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let program = shell("sleep 600 & echo $! > child; wait", Duration::from_secs(2)).folder(folder.path());
        let Err(error) = program.run().await else { panic!("no timeout") };
        assert_eq!(error.to_string(), "sh took longer than 2 s");
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        let state = std::path::PathBuf::from(format!("/proc/{}/stat", child.trim()));
        while std::fs::read_to_string(&state).is_ok_and(|text| !text.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_child_sees_only_what_it_is_given() {
        let program = Program::new(Path::new("/usr/bin/env"), Duration::from_secs(10)).environment([("A", "b")]);
        assert_eq!(program.run().await.unwrap().stdout, b"A=b\n");
    }

    #[tokio::test]
    async fn a_program_that_prints_without_end_is_ended() {
        let program = shell("while :; do echo x; done", Duration::from_mins(1)).largest_output(1000);
        let Err(error) = program.run().await else { panic!("no bound") };
        assert_eq!(error.to_string(), "sh printed more than 1000 bytes");
    }

    #[tokio::test]
    async fn a_file_without_end_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let endless = shell("while :; do echo x; done > file", Duration::from_mins(1)).folder(folder.path());
        let output = endless.largest_file(100_000).run().await.unwrap();
        assert!(!output.status.success());
        assert_eq!(std::fs::metadata(folder.path().join("file")).unwrap().len(), 100_000);
    }

    #[tokio::test]
    async fn credentials_in_a_complaint_are_masked() {
        let output =
            shell("echo 'no https://me:hunter2@host/x' >&2; exit 3", Duration::from_mins(1)).run().await.unwrap();
        assert_eq!((output.status.code(), output.stderr.as_str()), (Some(3), "no https://**********@host/x\n"));
    }
}
