//! Real processes with their own ports, and an HTTP client for them.
//!
//! Guarantees: a process ends when its guard is dropped, also after a panic.
//! Assumes: `make prepare` created `.local/`; [`prepared`] checks that.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(100);

/// One call that localcloud received.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    pub sequence: u64,
    /// Seconds since 1970.
    pub time: f64,
    pub service: String,
    pub operation: String,
    pub resource: Option<String>,
    pub mutating: bool,
    pub outcome: String,
}

/// The root of the source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the source tree")
}

/// Checks whether `make prepare` ran; otherwise prints which test is skipped.
pub fn prepared(skipped: &str) -> bool {
    let ready = [".local/dagster/bin/dagster-webserver", ".local/tools/bin/uv", ".local/git"];
    let missing: Vec<&str> = ready.into_iter().filter(|path| !root().join(path).exists()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {skipped}\n  {} is missing: run `make prepare`", missing.join(", "));
    }
    missing.is_empty()
}

/// A program of the workspace, built from the current sources. `cargo test` builds a binary only for the integration tests of its
/// package, so this runs cargo once per test process; cargo returns quickly if the binary is up to date.
pub fn binary(name: &str) -> PathBuf {
    binaries().join(name)
}

fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("find the test program");
        let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
        // The same features as a test of the whole workspace, so that no dependency is built twice.
        let arguments = ["build", "--quiet", "--locked", "--workspace", "--bins", "--test", "e2e"];
        let profile = if folder.ends_with("release") { "release" } else { "test" };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(arguments).args(["--profile", profile]);
        let built = cargo.status().expect("cargo runs");
        assert!(built.success(), "codeloc and localcloud do not build");
        folder
    })
}

/// Runs a program to its end, in the environment of [`command`].
pub fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    let program = program.as_ref();
    let output = command(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{} does not run: {error}", program.display()))
}

/// A program with test credentials and without the AWS, codeloc and Dagster variables of this machine.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["AWS_", "CODELOC_", "LOCALCLOUD_", "DAGSTER_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let aws = [
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("NO_COLOR", "1"),
    ];
    command.envs(aws).stdin(Stdio::null());
    command
}

/// Runs git in a folder as a test author, without the git settings of this machine, and returns its output.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut git = command("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(folder);
    let output = git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]).args(arguments).output();
    let output = output.expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", stderr(&output));
    stdout(&output).trim().to_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Free ports; each is returned once per process.
///
/// The system takes the port for port 0 from the range of outgoing connections, and any connection can use it before the test
/// listens. These ports are below that range, and each process starts at a different one.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let mut candidates = std::iter::repeat_with(|| {
        let offset = std::process::id().wrapping_mul(101).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        u16::try_from(FIRST + offset % COUNT).expect("a port below 32,000")
    })
    .take(COUNT as usize)
    .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    std::array::from_fn(|_| candidates.next().expect("find a free port"))
}

/// Repeats `ask` until it succeeds; panics with `what` and the last error after `seconds`.
pub async fn wait_for<T, F>(what: &str, seconds: u64, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if Instant::now() >= deadline => panic!("not within {seconds} s: {what}\n{last}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A process that ends when this guard is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let output = std::fs::File::create(&log).expect("create the log");
        let errors = output.try_clone().expect("duplicate the file handle");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")), log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Panics with the log if the process ended.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait for the process") {
            panic!("ended with {status}:\n{}", self.log());
        }
    }

    /// Ends the process immediately, as a power cut does.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the process");
        self.child.wait().expect("wait for the process");
    }

    fn terminate(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
        if std::thread::panicking() {
            let text = self.log();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("last lines of {}:\n{}", self.log.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// An HTTP client without a proxy.
#[derive(Clone, Debug)]
pub struct Web {
    pub client: reqwest::Client,
}

impl Default for Web {
    fn default() -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
        Self { client: client.expect("create a client without TLS") }
    }
}

impl Web {
    pub async fn get(&self, url: &str) -> Result<Value, String> {
        let answer = self.client.get(url).send().await.map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    }

    /// All calls that localcloud received after call number `since`.
    pub async fn calls(&self, cloud_port: u16, since: u64) -> Result<Vec<Call>, String> {
        let answer = self.get(&format!("http://127.0.0.1:{cloud_port}/_localcloud/calls?since={since}")).await?;
        serde_json::from_value(answer["calls"].clone()).map_err(|error| error.to_string())
    }

    /// One AWS call of the JSON protocols, unsigned.
    pub async fn aws(&self, cloud_port: u16, target: &str, body: Value) -> Result<Value, String> {
        let request = self.client.post(format!("http://127.0.0.1:{cloud_port}/")).header("x-amz-target", target);
        let answer = request.body(body.to_string()).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{target}: {status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{target}: {error}: {text}"))
    }
}
