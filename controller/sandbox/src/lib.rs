//! Runs a program that is not trusted on this machine: isolated builds, where there is no AWS.
//!
//! Guarantees, on Linux with unprivileged user namespaces: the program sees no file of this machine but the given ones, and cannot change
//! those; it has no privilege and no process of others in sight; its network ends at a proxy, which connects to public addresses, to the
//! given addresses and to the given URLs; its disk, its processes and the memory of each process are limited; all of it ends with the
//! command. Elsewhere the command fails with [`NO_SANDBOX`], and nothing runs.

mod proxy;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use proxy::{Proxy, Reachable};

const SCRIPT: &str = include_str!("sandbox.sh");
const BRIDGE: &str = include_str!("bridge.py");

/// The exit code if this machine allows no sandbox. One line on standard error says why.
pub const NO_SANDBOX: i32 = 125;

/// The folders that every program needs.
const SYSTEM: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/pki",
    "/etc/ld.so.cache",
    "/etc/alternatives",
];

#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of all files that the program writes.
    pub disk: u64,
    /// Bytes of address space of each process.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Open files of each process.
    pub files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { disk: 6 << 30, memory: 8 << 30, processes: 512, files: 4096 }
    }
}

/// A prepared sandbox for one command.
pub struct Sandbox {
    /// Holds the socket of the proxy.
    scratch: tempfile::TempDir,
    /// Ends with the sandbox.
    _proxy: Proxy,
    python: PathBuf,
    read_only: Vec<PathBuf>,
    limits: Limits,
}

impl Sandbox {
    /// Starts the proxy. Call it inside a tokio runtime. `python` is an interpreter from version 3.10 on; `read_only` are the files and
    /// folders that the program sees besides those of the system.
    pub fn new(
        folder: &Path,
        python: &Path,
        read_only: Vec<PathBuf>,
        limits: Limits,
        reachable: Reachable,
    ) -> io::Result<Self> {
        // The path of a socket has about 100 bytes at most.
        let scratch = tempfile::Builder::new().prefix("s").tempdir_in(folder)?;
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o700))?;
        std::fs::write(scratch.path().join("bridge.py"), BRIDGE)?;
        let proxy = Proxy::start(&scratch.path().join("proxy.sock"), reachable)?;
        Ok(Self { scratch, _proxy: proxy, python: std::fs::canonicalize(python)?, read_only, limits })
    }

    /// The command line that runs a program in the sandbox. The caller starts it in a new process group, and kills that to end it early.
    pub fn words(&self, program: impl IntoIterator<Item = String>) -> Vec<String> {
        let start = ["/bin/sh", "-c", SCRIPT, "sandbox"].map(str::to_owned);
        start.into_iter().chain(program).collect()
    }

    /// The whole environment of that command line: the variables of the program, and the settings of the sandbox.
    pub fn environment(&self, program: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut paths: Vec<String> = SYSTEM.map(str::to_owned).to_vec();
        paths.extend(self.read_only.iter().map(|path| text(path)));
        paths.extend(prefix_of(&self.python).map(|path| text(&path)));
        let Limits { disk, memory, processes, files } = &self.limits;
        let settings = [
            ("SANDBOX_SCRATCH", text(self.scratch.path())),
            ("SANDBOX_RO", paths.join("\n")),
            ("SANDBOX_PYTHON", text(&self.python)),
            ("SANDBOX_DISK", disk.to_string()),
            ("SANDBOX_MEM", memory.to_string()),
            ("SANDBOX_NPROC", processes.to_string()),
            ("SANDBOX_NOFILE", files.to_string()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        program.into_iter().filter(|(name, _)| !name.starts_with("LD_")).chain(settings).collect()
    }
}

/// The installation of an interpreter, if it is not part of the system: `PREFIX/bin/python3.12` → `PREFIX`.
pub fn prefix_of(python: &Path) -> Option<PathBuf> {
    let prefix = python.parent()?.parent()?;
    (prefix != Path::new("/usr") && prefix != Path::new("/")).then(|| prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn python() -> PathBuf {
        let output =
            std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    }

    /// Runs a Python program in a sandbox. Skips the test, with a message, where this machine allows none.
    async fn run(program: &str, limits: Limits, reachable: Reachable) -> Option<(i32, String)> {
        let folder = tempfile::tempdir().unwrap();
        let python = std::fs::canonicalize(python()).unwrap();
        let sandbox = Sandbox::new(folder.path(), &python, vec![], limits, reachable).unwrap();
        let environment = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into();
        let words = [python.to_string_lossy().into_owned(), "-I".to_owned(), "-c".to_owned(), program.to_owned()];
        let words = sandbox.words(words);
        let mut command = tokio::process::Command::new(&words[0]);
        let command = command.args(&words[1..]).env_clear().envs(sandbox.environment(environment));
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let output = command.output().await.unwrap();
        let code = output.status.code().unwrap_or(-1);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if code == NO_SANDBOX {
            eprintln!("no sandbox on this machine: {text}");
            return None;
        }
        Some((code, text))
    }

    #[tokio::test]
    async fn a_program_sees_no_file_of_the_machine() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        let program = format!(
            "import os\nfor path in [{:?}, '/etc/shadow', '/root', '/home', '/proc/1/environ']:\n    try:\n        print(path, os.stat(path) and open(path).read())\n    except OSError as error:\n        print('refused', error.errno)\nprint(sorted(os.environ))",
            secret.path()
        );
        let Some((code, text)) = run(&program, Limits::default(), Reachable::default()).await else { return };
        assert_eq!(code, 0, "{text}");
        assert_eq!(text.matches("refused").count(), 5, "{text}");
        assert!(!text.contains("CARGO") && !text.contains("SANDBOX_"), "{text}");
    }

    #[tokio::test]
    async fn the_network_ends_at_the_proxy() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let mut served = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                served += 1;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
                if served == 1 {
                    return;
                }
            }
        });
        let allowed = format!("http://{address}/object?signature=1");
        let program = format!(
            "import socket, urllib.request\ntry:\n    socket.create_connection(('127.0.0.1', {}), 5)\n    print('direct')\nexcept OSError:\n    print('refused')\n\
             for url in ['http://{address}/other', 'http://{address}/object?signature=2', '{allowed}']:\n    try:\n        print(urllib.request.urlopen(url).read())\n    except OSError as error:\n        print('refused', error)",
            address.port()
        );
        let reachable = Reachable { urls: vec![allowed.clone()], ..Reachable::default() };
        let Some((code, text)) = run(&program, Limits::default(), reachable).await else { return };
        assert_eq!(code, 0, "{text}");
        assert_eq!(text.matches("refused").count(), 3, "{text}");
        assert!(text.contains("b'hello'"), "{text}");
        served.await.unwrap();
    }

    #[tokio::test]
    async fn disk_and_processes_are_limited() {
        let program = "import os, errno\ntry:\n    with open('/work/x', 'wb') as file:\n        for _ in range(64): file.write(bytes(1 << 20))\nexcept OSError as error:\n    print('disk', errno.errorcode[error.errno])\n\
                       for _ in range(64):\n    try:\n        if os.fork() == 0: os.read(0, 1) or os.pause() if hasattr(os, 'pause') else __import__('signal').pause()\n    except OSError as error:\n        print('fork', errno.errorcode[error.errno]); break";
        let limits = Limits { disk: 16 << 20, processes: 24, ..Limits::default() };
        let Some((_, text)) = run(program, limits, Reachable::default()).await else { return };
        assert!(text.contains("disk ENOSPC") && text.contains("fork EAGAIN"), "{text}");
    }
}
