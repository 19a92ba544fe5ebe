//! A child process that cannot outlive its use: bounded in time and output, ended with its whole process group.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// In bytes; what a program has to say about a failure is in the first lines.
const LARGEST_ERROR_TEXT: usize = 16 * 1024;

pub(super) struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

pub(super) enum Failed {
    Start(std::io::Error),
    TimedOut,
    TooMuchOutput,
}

/// Runs to the end. Dropping the future, a passed limit in time, and output past `largest_output` bytes end the group.
pub(super) async fn run(
    mut command: Command,
    limit: Duration,
    largest_output: usize,
) -> Result<Output, Failed> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(Failed::Start)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let all = async {
        let (stdout, stderr) = tokio::join!(
            bounded(stdout, largest_output),
            bounded(stderr, LARGEST_ERROR_TEXT)
        );
        let (stdout, stderr) = (
            stdout.map_err(Failed::Start)?,
            stderr.map_err(Failed::Start)?,
        );
        let status = child.wait().await.map_err(Failed::Start)?;
        Ok((status, stdout, stderr))
    };
    let (status, stdout, stderr) = tokio::time::timeout(limit, all)
        .await
        .map_err(|_| Failed::TimedOut)??;
    group.0 = None;
    if stdout.cut {
        return Err(Failed::TooMuchOutput);
    }
    Ok(Output {
        status,
        stdout: stdout.bytes,
        stderr: String::from_utf8_lossy(&stderr.bytes).into_owned(),
    })
}

struct Bounded {
    bytes: Vec<u8>,
    cut: bool,
}

/// Keeps the beginning and reads the rest away, so that the program can end.
async fn bounded(mut stream: impl AsyncRead + Unpin, largest: usize) -> std::io::Result<Bounded> {
    let mut bytes = Vec::new();
    (&mut stream)
        .take(largest as u64)
        .read_to_end(&mut bytes)
        .await?;
    let cut = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await? > 0;
    Ok(Bounded { bytes, cut })
}

/// The group of a child that has not been waited for, so that its number cannot have been given to another.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Fails only where nothing is left to end.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
