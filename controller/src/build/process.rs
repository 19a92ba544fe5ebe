//! git, uv and the compiler of `.pyc` files as child processes.
//!
//! Guarantees: the child sees only the variables it is given; it leads a process group of its own, which is killed as a
//! whole on a timeout and when the caller goes away; output is bounded; credentials inside URLs never reach a text.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::BuildError;

/// More output than this is a fault: 64 MiB hold the listing of several hundred thousand files.
const MAX_OUTPUT: u64 = 64 << 20;

/// A program with arguments, ready to run once.
pub(super) struct Program {
    name: String,
    command: tokio::process::Command,
    timeout: Duration,
}

/// What a program left behind.
pub(super) struct Output {
    pub success: bool,
    /// Absent where a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Program {
    pub(super) fn new(program: &Path, folder: &Path, timeout: Duration) -> Self {
        let mut command = tokio::process::Command::new(program);
        command
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0);
        let name = program
            .file_name()
            .unwrap_or(program.as_os_str())
            .to_string_lossy()
            .into_owned();
        Self {
            name,
            command,
            timeout,
        }
    }

    pub(super) fn arguments<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        mut self,
        arguments: I,
    ) -> Self {
        self.command.args(arguments);
        self
    }

    pub(super) fn environment<I: IntoIterator<Item = (K, V)>, K: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: I,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Runs to the end. A program that cannot start or takes too long is [`BuildError::Transient`]; a failing exit is the
    /// caller's to judge.
    pub(super) async fn run(mut self) -> Result<Output, BuildError> {
        let name = self.name;
        let mut child = self.command.spawn().map_err(|error| {
            BuildError::Transient(format!("cannot start {name}: {error}; is it installed?"))
        })?;
        let group = Group::of(&child);
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let finished = tokio::time::timeout(self.timeout, async {
            let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), child.wait());
            Ok::<_, std::io::Error>((stdout?, stderr?, status?))
        })
        .await;
        drop(group);
        let (stdout, stderr, status) = match finished {
            Ok(result) => {
                result.map_err(|error| BuildError::Transient(format!("{name}: {error}")))?
            }
            Err(_) => {
                return Err(BuildError::Transient(format!(
                    "{name} took longer than {} s",
                    self.timeout.as_secs()
                )));
            }
        };
        Ok(Output {
            success: status.success(),
            code: status.code(),
            stdout,
            stderr: redacted(&String::from_utf8_lossy(&stderr)),
        })
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_OUTPUT {
        return Err(std::io::Error::other("more output than any sound run has"));
    }
    Ok(bytes)
}

/// Kills a process group when dropped; a group that has already ended is no error.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .and_then(rustix::process::Pid::from_raw),
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// The text with `user:password@` taken out of every URL.
pub(super) fn redacted(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        clean.push_str(before);
        let end = after
            .find(|letter: char| letter.is_whitespace() || "/\"'`<>".contains(letter))
            .unwrap_or(after.len());
        let authority = &after[..end];
        match authority.rfind('@') {
            Some(at) => {
                clean.push_str("***");
                clean.push_str(&authority[at..]);
            }
            None => clean.push_str(authority),
        }
        rest = &after[end..];
    }
    clean.push_str(rest);
    clean
}

/// The last lines of a program's complaint, short enough for a status message.
pub(super) fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| {
        Err(BuildError::Transient(format!(
            "a thread of the build ended early: {error}"
        )))
    })
}

/// A fresh folder below `parent`, removed with everything in it when dropped.
pub(super) fn fresh_folder(parent: &Path) -> Result<tempfile::TempDir, BuildError> {
    std::fs::create_dir_all(parent)
        .and_then(|()| tempfile::TempDir::new_in(parent))
        .map_err(|error| on_disk(parent, &error))
}

/// A fault of the controller's own disk.
pub(super) fn on_disk(path: &Path, error: &std::io::Error) -> BuildError {
    BuildError::Transient(format!("{}: {error}", path.display()))
}

/// Writes a file so that readers see all of it or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let parent: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&parent)?;
        let mut file = tempfile::NamedTempFile::new_in(&parent)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| on_disk(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_taken_out_of_texts() {
        let text =
            "fatal: https://user:secret@host.example/path.git and ssh://git@host/x, `https://t@h`";
        assert_eq!(
            redacted(text),
            "fatal: https://***@host.example/path.git and ssh://***@host/x, `https://***@h`"
        );
        assert_eq!(redacted("no url here"), "no url here");
        assert_eq!(redacted("https://host/a@b"), "https://host/a@b");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $! > child; wait";
        let program = Program::new(Path::new("/bin/sh"), folder.path(), Duration::from_secs(2))
            .arguments(["-c", script])
            .environment([("PATH", "/usr/bin:/bin")]);
        let Err(BuildError::Transient(text)) = program.run().await else {
            panic!("no timeout")
        };
        assert_eq!(text, "sh took longer than 2 s");
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        let state = PathBuf::from(format!("/proc/{}/stat", child.trim()));
        while std::fs::read_to_string(&state).is_ok_and(|text| !text.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_child_sees_only_what_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(
            Path::new("/usr/bin/env"),
            folder.path(),
            Duration::from_secs(10),
        )
        .environment([("A", "b")]);
        assert_eq!(program.run().await.unwrap().stdout, b"A=b\n");
    }
}
