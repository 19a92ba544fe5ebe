//! Real processes on ports of their own, and what is asked of them over HTTP.
//!
//! Guarantees: every process that is started here has ended when its guard is dropped, also by a panic.
//! Assumes: `make prepare` has made `.local/`; [`prepared`] tells.

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

/// The top of the sources.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the sources")
}

/// Whether `make prepare` was run. Says what is left out where it was not.
pub fn prepared(left_out: &str) -> bool {
    let ready = [".local/dagster/bin/dagster-webserver", ".local/tools/bin/uv", ".local/git"];
    let missing: Vec<&str> = ready.into_iter().filter(|path| !root().join(path).exists()).collect();
    if !missing.is_empty() {
        eprintln!("LEFT OUT: {left_out}\n  {} is missing: run `make prepare`", missing.join(", "));
    }
    missing.is_empty()
}

/// A program of the workspace, as the sources are now. `cargo test` builds binaries only for the integration tests of their
/// own package, so an old one may lie there: cargo is asked once for each process, which is quick when nothing is to do.
pub fn binary(name: &str) -> PathBuf {
    binaries().join(name)
}

fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its own path");
        let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
        // The features of dependencies are those of a test of the whole workspace, so that none is built twice.
        let words = ["build", "--quiet", "--locked", "--workspace", "--bins", "--test", "e2e"];
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(words);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.status().expect("cargo runs");
        assert!(built.success(), "codeloc and localcloud do not build");
        folder
    })
}

/// Runs a program to its end, without the tools' settings of this machine.
pub fn run(program: impl AsRef<Path>, words: &[&str]) -> Output {
    let program = program.as_ref();
    let output = command(program).args(words).output();
    output.unwrap_or_else(|error| panic!("{} does not run: {error}", program.display()))
}

/// A program in the environment that every child of a test gets.
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

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ports that nobody listens on now, each given out once in a process.
///
/// A port that the system chose (port 0) is of the range it also takes for connections that go out: between choosing and
/// listening any connection of this machine may get it. So these lie below that range, and each process begins elsewhere.
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
    std::array::from_fn(|_| candidates.next().expect("loopback has free ports"))
}

/// Asks again until there is an answer; panics with `what` and the last thing said when the time is up.
pub async fn until<T, F>(what: &str, seconds: u64, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(said) if Instant::now() >= deadline => panic!("not within {seconds} s: {what}\n{said}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A process that is told to end, and waited for, when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let output = std::fs::File::create(&log).expect("a log can be made");
        let errors = output.try_clone().expect("a file can be opened twice");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")), log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails with the end of the log when the process is gone.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("ended with {status}:\n{}", self.log());
        }
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
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
            eprintln!("the end of {}:\n{}", self.log.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// What everything asks over HTTP.
#[derive(Clone, Debug)]
pub struct Web {
    pub client: reqwest::Client,
}

impl Default for Web {
    fn default() -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
        Self { client: client.expect("a client without TLS can be made") }
    }
}

impl Web {
    pub async fn get(&self, url: &str) -> Result<Value, String> {
        let answer = self.client.get(url).send().await.map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    }

    /// All calls that the localcloud at this port has received after the one numbered `since`.
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
