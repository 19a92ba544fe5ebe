//! Isolated builds in a sandbox of this machine.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, put};
use codeloc_git::program::inherited;
use codeloc_images::{BuildError, GUEST, IsolatedBuild, IsolatedBuilder, OnProgress, TIMED_OUT, disk_error};
use codeloc_sandbox::{Limits, NO_SANDBOX, Reachable, Sandbox};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

/// The variables with which programs find certificates.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Runs guests in a sandbox of this machine.
#[derive(Clone, Debug)]
pub struct SandboxBuilder {
    /// Absolute path.
    pub uv: PathBuf,
    pub timeout: Duration,
    /// `HOST:PORT` of package indexes of this machine.
    pub reachable: Vec<String>,
    /// Receives each line that a guest prints.
    pub show: fn(&str),
}

impl IsolatedBuilder for SandboxBuilder {
    fn run<'a>(&'a self, build: &'a IsolatedBuild, _: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.build(build))
    }
}

/// The files that the guest reads and writes.
struct Exchange {
    input: PathBuf,
    output: PathBuf,
    largest_output: u64,
}

impl SandboxBuilder {
    async fn build(&self, build: &IsolatedBuild) -> Result<(), BuildError> {
        let failed =
            |error: io::Error| BuildError::transient("cannot start the sandbox of an isolated build").caused_by(error);
        let exchange =
            Exchange { input: build.input.clone(), output: build.output.clone(), largest_output: build.largest_output };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = Router::new().route("/input", get(send)).route("/output", put(receive));
        let router = router.layer(axum::extract::DefaultBodyLimit::disable()).with_state(Arc::new(exchange));
        let _server = AbortOnDrop(tokio::spawn(async move { axum::serve(listener, router).await }));

        let folder = tempfile::tempdir().map_err(failed)?;
        let python = local_python(&self.uv, &build.python).await?;
        let urls = ["input", "output"].map(|name| format!("http://{address}/{name}"));
        let reachable = Reachable { addresses: self.reachable.clone(), urls: urls.to_vec() };
        let certificates: BTreeMap<String, String> = inherited(&[])
            .into_iter()
            .filter(|(name, _)| CERTIFICATES.contains(name))
            .map(|(name, value)| (name.to_owned(), value.to_string_lossy().into_owned()))
            .collect();
        let mut shown = vec![self.uv.clone()];
        shown.extend(certificates.values().map(PathBuf::from));
        let sandbox = Sandbox::new(folder.path(), &python, shown, Limits::default(), reachable).map_err(failed)?;
        let program = [python.to_string_lossy().into_owned(), "-I".to_owned(), "-c".to_owned(), GUEST.to_owned()];
        let words = sandbox.words(program);
        let mut environment = certificates;
        environment.insert("PATH".to_owned(), search_path(&[&python, &self.uv]));
        environment.insert("CODELOC_INPUT".to_owned(), urls[0].clone());
        environment.insert("CODELOC_OUTPUT".to_owned(), urls[1].clone());
        environment.insert("CODELOC_SECONDS".to_owned(), self.timeout.as_secs().to_string());
        let (first, rest) = words.split_first().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let mut command = Command::new(first);
        let command = command.args(rest).env_clear().envs(sandbox.environment(environment));
        // The end of the process is the end of the sandbox.
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.process_group(0).spawn().map_err(failed)?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let last = std::sync::Mutex::new(String::new());
        let lines = async {
            let output = async {
                if let Some(output) = output {
                    self.forward(output, &last).await;
                }
            };
            let errors = async {
                if let Some(errors) = errors {
                    self.forward(errors, &last).await;
                }
            };
            tokio::join!(output, errors);
        };
        let ((), status) = tokio::join!(lines, child.wait());
        let code = status.map_err(failed)?.code();
        let last = last.into_inner().unwrap_or_default();
        match code {
            // The report of the guest says what failed.
            Some(0 | 1) if build.output.exists() => Ok(()),
            Some(NO_SANDBOX) => Err(BuildError::terminal(format!(
                "{}: this needs code of the package or of the project to run, and this machine allows no sandbox ({last}); build on Linux \
                 with unprivileged user namespaces",
                build.why
            ))),
            Some(TIMED_OUT) => Err(build.too_long(self.timeout)),
            code => Err(BuildError::dockerfile(format!(
                "the isolated build ({}) ended with code {}: {last}",
                build.why,
                code.map_or_else(|| "of a signal".to_owned(), |code| code.to_string())
            ))),
        }
    }

    async fn forward(&self, output: impl tokio::io::AsyncRead + Unpin, last: &std::sync::Mutex<String>) {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            (self.show)(&line);
            *codeloc_core::lock::lock(last) = line;
        }
    }
}

/// An interpreter of this machine with the minor version.
pub async fn local_python(uv: &Path, version: &str) -> Result<PathBuf, BuildError> {
    let output = Command::new(uv)
        .args(["python", "find", "--system", "--no-config", version])
        .output()
        .await
        .map_err(|error| BuildError::transient("cannot run uv").caused_by(error))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        return Err(BuildError::terminal(format!(
            "this machine has no Python {version}; install it, or set build.python to one that it has"
        )));
    }
    std::fs::canonicalize(&path).map_err(|error| disk_error(Path::new(&path), error))
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The folders of programs, and those of the system.
fn search_path(programs: &[&Path]) -> String {
    let folders =
        programs.iter().filter_map(|program| program.parent()).map(|folder| folder.to_string_lossy().into_owned());
    folders.chain(["/usr/bin".to_owned(), "/bin".to_owned()]).collect::<Vec<_>>().join(":")
}

async fn send(State(exchange): State<Arc<Exchange>>) -> Result<Body, StatusCode> {
    tokio::fs::read(&exchange.input).await.map(Body::from).map_err(|_| StatusCode::NOT_FOUND)
}

async fn receive(State(exchange): State<Arc<Exchange>>, body: Body) -> StatusCode {
    match store(&exchange, body).await {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            tracing::warn!(%error, "cannot store the result of an isolated build");
            StatusCode::PAYLOAD_TOO_LARGE
        }
    }
}

async fn store(exchange: &Exchange, body: Body) -> io::Result<()> {
    let mut file = tokio::fs::File::create(&exchange.output).await?;
    let (mut stream, mut size) = (body.into_data_stream(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(io::Error::other)?;
        size += chunk.len() as u64;
        if size > exchange.largest_output {
            return Err(io::Error::other(format!("it has more than {} bytes", exchange.largest_output)));
        }
        file.write_all(&chunk).await?;
    }
    file.flush().await
}
