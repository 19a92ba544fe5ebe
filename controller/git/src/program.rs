//! Runs other programs (git, uv, Python) as children that cannot outlive their caller.
//!
//! Guarantees: a child sees only the given environment variables; it leads its own process group, which is killed as a whole at
//! the time limit and when the caller is dropped; output is bounded; credentials in URLs are masked in stderr.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use codeloc_crds::mask_credentials;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt};

/// In bytes: enough for a list of several hundred thousand files.
const MAX_STDOUT: u64 = 64 << 20;

/// In bytes. The rest of a longer stderr is read and dropped.
const MAX_STDERR: u64 = 1 << 20;

/// The time between two looks at what a program has written.
const WRITTEN_INTERVAL: Duration = Duration::from_millis(250);

/// The variables that programs need to reach servers. AWS credentials are not among them.
const INHERITED: [&str; 8] =
    ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"];

/// The variables of this process's environment that every program may see, and `more`, unchanged.
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
    most_written: Option<u64>,
}

/// The result of a program.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// Without credentials.
    pub stderr: String,
}

/// Why a program has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot start {program}: {source}; check that it is installed")]
    Start { program: String, source: Arc<io::Error> },
    #[error("{program} took longer than {seconds} s")]
    TimedOut { program: String, seconds: u64 },
    #[error("{program} printed more than {bytes} bytes")]
    TooMuchOutput { program: String, bytes: u64 },
    #[error("{program} wrote more than {bytes} bytes to files")]
    TooMuchWritten { program: String, bytes: u64 },
    #[error("cannot read the output of {program}: {source}")]
    Pipe { program: String, source: Arc<io::Error> },
}

impl Program {
    /// With an empty environment. `timeout` limits the whole run.
    pub fn new(program: &Path, timeout: Duration) -> Self {
        let mut command = Command::new(program);
        command.env_clear().process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self { name, command, timeout, largest_output: MAX_STDOUT, largest_file: None, most_written: None }
    }

    /// The working directory. A relative path to the program is resolved in it as well.
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

    /// The limit of stdout in bytes, by default 64 MiB.
    #[must_use]
    pub fn largest_output(mut self, bytes: u64) -> Self {
        self.largest_output = bytes;
        self
    }

    /// The limit in bytes of each file that the program or a child of it writes. A longer file ends it with SIGXFSZ.
    #[must_use]
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.largest_file = Some(bytes);
        self
    }

    /// The limit in bytes of everything that the program itself writes. Files in memory count, children do not. It ends within a quarter of a
    /// second after it has written more.
    #[must_use]
    pub fn most_written(mut self, bytes: u64) -> Self {
        self.most_written = Some(bytes);
        self
    }

    /// Runs to the end. The caller checks the exit status. Dropping the future kills the program.
    pub async fn run(self) -> Result<Output, ProgramError> {
        let Self { name, command, timeout, largest_output, largest_file, most_written } = self;
        let mut command = tokio::process::Command::from(command);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ProgramError::Start { program: name.clone(), source: Arc::new(error) })?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        if let (Some(bytes), Some(process)) = (largest_file, group.0) {
            let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            // Fails only if the program has ended already.
            let _ = prlimit(Some(process), Resource::Fsize, limit);
        }
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let pipe = |error: io::Error| ProgramError::Pipe { program: name.clone(), source: Arc::new(error) };
        let finished = async {
            let stdout = async {
                let mut bytes = Vec::new();
                stdout.take(largest_output + 1).read_to_end(&mut bytes).await.map_err(pipe)?;
                if bytes.len() as u64 > largest_output {
                    return Err(ProgramError::TooMuchOutput { program: name.clone(), bytes: largest_output });
                }
                Ok(bytes)
            };
            let stderr = async { read_start(stderr).await.map_err(pipe) };
            let (stdout, stderr) = tokio::try_join!(stdout, stderr)?;
            Ok::<_, ProgramError>((child.wait().await.map_err(pipe)?, stdout, stderr))
        };
        let written = written_more_than(most_written, group.0);
        let finished = async {
            tokio::select! {
                finished = finished => finished,
                bytes = written => Err(ProgramError::TooMuchWritten { program: name.clone(), bytes }),
            }
        };
        let (status, stdout, stderr) = tokio::time::timeout(timeout, finished)
            .await
            .map_err(|_| ProgramError::TimedOut { program: name.clone(), seconds: timeout.as_secs() })??;
        group.0 = None;
        Ok(Output { status, stdout, stderr: mask_credentials(&String::from_utf8_lossy(&stderr)) })
    }

    /// Starts a program that answers requests until it is dropped, without a time limit, for threads that may block. Its stderr
    /// is dropped.
    pub fn start_interactive(mut self) -> Result<InteractiveProcess, ProgramError> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| ProgramError::Start { program: self.name, source: Arc::new(error) })?;
        let group = Group(Pid::from_raw(child.id().cast_signed()));
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(InteractiveProcess { requests, answers, child, group })
    }
}

/// A running program that reads requests from one pipe and writes answers to another.
pub struct InteractiveProcess {
    pub requests: ChildStdin,
    pub answers: BufReader<ChildStdout>,
    child: Child,
    group: Group,
}

impl Drop for InteractiveProcess {
    fn drop(&mut self) {
        self.group.kill();
        let _ = self.child.wait();
    }
}

/// Ends when a process has written more bytes than the limit, which it returns. Never ends where the system does not count them.
async fn written_more_than(most: Option<u64>, process: Option<Pid>) -> u64 {
    if let (Some(most), Some(process)) = (most, process) {
        let path = format!("/proc/{}/io", process.as_raw_nonzero());
        while let Ok(text) = tokio::fs::read_to_string(&path).await {
            let written = text.lines().find_map(|line| line.strip_prefix("wchar: "));
            if written.and_then(|bytes| bytes.parse::<u64>().ok()).is_some_and(|bytes| bytes > most) {
                return most;
            }
            tokio::time::sleep(WRITTEN_INTERVAL).await;
        }
    }
    std::future::pending().await
}

/// Keeps the start and drops the rest, so that the program can end.
async fn read_start(mut stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut stream).take(MAX_STDERR).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// The last lines of a program's stderr, short enough for a status message.
pub fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The process group of a child that has not been waited for, so its id cannot belong to another group.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            // Fails only if no process is left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
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
    async fn a_timeout_kills_the_program_and_its_children() {
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
    async fn a_child_sees_only_the_given_variables() {
        let program = Program::new(Path::new("/usr/bin/env"), Duration::from_secs(10)).environment([("A", "b")]);
        assert_eq!(program.run().await.unwrap().stdout, b"A=b\n");
    }

    #[tokio::test]
    async fn a_program_that_prints_endlessly_is_killed() {
        let program = shell("while :; do echo x; done", Duration::from_mins(1)).largest_output(1000);
        let Err(error) = program.run().await else { panic!("no bound") };
        assert_eq!(error.to_string(), "sh printed more than 1000 bytes");
    }

    #[tokio::test]
    async fn an_endless_file_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let endless = shell("while :; do echo x; done > file", Duration::from_mins(1)).folder(folder.path());
        let output = endless.largest_file(100_000).run().await.unwrap();
        assert!(!output.status.success());
        assert_eq!(std::fs::metadata(folder.path().join("file")).unwrap().len(), 100_000);
    }

    #[tokio::test]
    async fn a_program_that_fills_the_disk_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let script = "while :; do echo 0123456789 > file; done";
        let endless = shell(script, Duration::from_mins(1)).folder(folder.path());
        let Err(error) = endless.most_written(100_000).run().await else { panic!("no bound") };
        assert_eq!(error.to_string(), "sh wrote more than 100000 bytes to files");
        let short = shell("echo x > file", Duration::from_mins(1)).folder(folder.path());
        assert!(short.most_written(100_000).run().await.unwrap().status.success());
    }

    #[tokio::test]
    async fn credentials_in_stderr_are_masked() {
        let output =
            shell("echo 'no https://me:hunter2@host/x' >&2; exit 3", Duration::from_mins(1)).run().await.unwrap();
        assert_eq!((output.status.code(), output.stderr.as_str()), (Some(3), "no https://**********@host/x\n"));
    }

    #[tokio::test]
    async fn a_missing_program_keeps_its_cause() {
        let program = Program::new(Path::new("/nonexistent/uv"), Duration::from_secs(10));
        let error = program.run().await.err().unwrap();
        assert!(error.to_string().starts_with("cannot start uv: No such file"), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().starts_with("No such file"), "{source}");
    }

    #[test]
    fn a_tail_is_the_last_lines_with_text() {
        let lines: Vec<String> = (0..20).map(|line| format!("{line} \n\n")).collect();
        assert_eq!(tail(&lines.concat()), (8..20).map(|line| line.to_string()).collect::<Vec<_>>().join("\n"));
    }
}
