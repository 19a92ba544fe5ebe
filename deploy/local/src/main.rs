//! `localcloud`: AWS on loopback.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::Request;
use localcloud::driver::Driver;
use localcloud::driver::process::{Process, ProcessSettings};
use localcloud::model::images::Images;
use localcloud::registry::{self, Registry, RegistryError};
use localcloud::store::{Store, StoreError};
use localcloud::{LocalCloud, Rules, Settings, Throttling, dns};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// How long tasks may take to stop at the end: ECS gives a container 30 s.
const GRACE: Duration = Duration::from_secs(35);

#[derive(Parser)]
#[command(version, about = "A small, strict AWS in one process")]
struct Arguments {
    /// Where to listen, on loopback: nobody is authenticated
    #[arg(long, env = "LOCALCLOUD_LISTEN", default_value = "127.0.0.1:4566", value_parser = loopback)]
    listen: SocketAddr,
    /// A folder in which everything survives a restart
    #[arg(long, env = "LOCALCLOUD_STATE")]
    state: Option<PathBuf>,
    /// What runs tasks
    #[arg(long, value_enum, default_value_t = DriverKind::Simulated)]
    driver: DriverKind,
    /// A Python for tasks, where the search path has none of their version; may be given several times
    #[arg(long)]
    python: Vec<PathBuf>,
    /// Answer DNS questions for Cloud Map's names on this UDP address of loopback
    #[arg(long, value_parser = loopback)]
    dns: Option<SocketAddr>,
    #[arg(long, default_value = "123456789012")]
    account: String,
    /// The one region; requests signed for another are refused
    #[arg(long, env = "AWS_REGION", default_value = "eu-central-1")]
    region: String,
    /// How many seconds a new role cannot be assumed by ECS
    #[arg(long, default_value_t = 0)]
    role_propagation: u64,
    /// Refuse calls beyond the rates that AWS is known for, scaled to this many percent of them: 100 is AWS, 10 a tenth.
    /// Without it no call is refused for its rate. buckets.json says where each rate comes from
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..))]
    throttle: Option<u32>,
    /// A variable for every task, as its image would bring it: NAME=VALUE; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    task_environment: Vec<(String, String)>,
    /// A JSON file with the values of secrets and parameters by ARN, for the tasks that name them
    #[arg(long)]
    secrets: Option<PathBuf>,
    /// An action that nobody is allowed: ecs:CreateService; may be given several times
    #[arg(long, value_name = "ACTION")]
    deny: Vec<String>,
    /// A role that ECS tasks may assume, and that is there from the start
    #[arg(long)]
    role: Vec<String>,
    /// An ECS cluster that is there from the start
    #[arg(long)]
    cluster: Vec<String>,
    /// A private DNS namespace that is there from the start
    #[arg(long)]
    namespace: Vec<String>,
    /// An S3 bucket that is there from the start
    #[arg(long)]
    bucket: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverKind {
    /// Tasks start, are healthy, and run nothing
    Simulated,
    /// Pushed images run as processes of this machine
    Process,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("cannot read the secrets in {}: {why}", path.display())]
    Secrets { path: PathBuf, why: String },
    #[error("cannot make a temporary folder: {0}")]
    Folder(std::io::Error),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot draw randomness from /dev/urandom: {0}")]
    Randomness(std::io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("the listener failed: {0}")]
    Serve(std::io::Error),
    #[error("cannot make {what}: {answer}")]
    Bootstrap { what: String, answer: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let listen = |source| Failure::Listen { address: arguments.listen, source };
    let listener = TcpListener::bind(arguments.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let store = arguments.state.as_deref().map(Store::open).transpose()?;
    let saved = store.as_ref().map(Store::load).transpose()?.flatten();
    // Without a folder of one's own, images live as long as this process.
    let temporary = tempfile::tempdir().map_err(Failure::Folder)?;
    let folder = arguments.state.as_deref().unwrap_or(temporary.path());
    let registry = Registry::new(folder.join("registry"))?;
    let settings = settings(&arguments, address, folder, &registry)?;
    registry.set_token(Some(settings.rules.registry_token()));
    let cloud = LocalCloud::start_from(settings, saved);
    bootstrap(&cloud, &arguments)?;
    // After the bootstrap, whose calls do not count.
    cloud.throttle(arguments.throttle.map_or(Throttling::Off, Throttling::Percent));
    // Namespaces exist once their operations are complete. Wait, so that the first client finds them.
    tokio::time::sleep(cloud.with_cloud(|cloud| cloud.rules.operation_delay)).await;
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    info!(%address, region = arguments.region, account = arguments.account, "localcloud answers");
    println!("http://{address}");

    let saving = async {
        match &store {
            Some(store) => Failure::from(cloud.keep_saving(store).await),
            None => std::future::pending().await,
        }
    };
    let routes = cloud.router().merge(registry::router(registry));
    let names = async {
        match arguments.dns {
            Some(address) => answer_names(&cloud, address).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        served = axum::serve(listener, routes) => served.map_err(Failure::Serve),
        failure = names => Err(failure),
        failure = saving => Err(failure),
        _ = terminated.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Failure::Signals),
    };
    info!("localcloud stops its tasks and ends");
    if let Some(store) = &store {
        cloud.save(store).await?;
    }
    cloud.shut_down(GRACE).await;
    ended
}

fn settings(
    arguments: &Arguments,
    address: SocketAddr,
    folder: &Path,
    registry: &Arc<Registry>,
) -> Result<Settings, Failure> {
    let mut seed = [0; 32];
    let drawn = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed));
    drawn.map_err(Failure::Randomness)?;
    let rules = Rules {
        account: arguments.account.clone(),
        region: arguments.region.clone(),
        seed,
        registry: address.to_string(),
        role_propagation: Duration::from_secs(arguments.role_propagation),
        secrets: arguments.secrets.as_deref().map(read_secrets).transpose()?.unwrap_or_default(),
        denied: arguments.deny.iter().cloned().collect(),
        ..Rules::default()
    };
    let driver = match arguments.driver {
        DriverKind::Simulated => None,
        DriverKind::Process => {
            let mut settings = ProcessSettings::new(folder.join("tasks"), Arc::clone(registry));
            settings.python.clone_from(&arguments.python);
            settings.extra_environment.extend(task_environment(arguments, address));
            settings.extra_environment.extend(arguments.task_environment.iter().cloned());
            Some(Arc::new(Process::new(settings)) as Arc<dyn Driver>)
        }
    };
    let images = Arc::clone(registry) as Arc<dyn Images>;
    Ok(Settings { rules, start: SystemTime::now().into(), driver, images, ..Settings::default() })
}

/// Tasks are commands of whoever calls, so others must not reach this.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}; write 127.0.0.1:4566 or [::1]:4566"))?;
    let refused = || format!("{address} can be reached from other machines; write 127.0.0.1:{}", address.port());
    address.ip().is_loopback().then_some(address).ok_or_else(refused)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read_secrets(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let failure = |why: String| Failure::Secrets { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))?;
    // The parser's own text would show a piece of the file.
    serde_json::from_str(&text).map_err(|error| failure(format!("line {}: not a JSON object of texts", error.line())))
}

/// What leads a task's own AWS clients here; the credentials are nobody's.
fn task_environment(arguments: &Arguments, address: SocketAddr) -> [(String, String); 5] {
    [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_REGION", arguments.region.clone()),
        ("AWS_DEFAULT_REGION", arguments.region.clone()),
        ("AWS_ACCESS_KEY_ID", "localcloud".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "localcloud".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

async fn answer_names(cloud: &LocalCloud, address: SocketAddr) -> Failure {
    let lookup = |name: &str| cloud.with_cloud(|cloud| cloud.cloudmap.addresses(name));
    let answered = match UdpSocket::bind(address).await {
        Ok(socket) => dns::serve(socket, lookup).await,
        Err(source) => Err(source),
    };
    let source = answered.err().unwrap_or_else(|| std::io::ErrorKind::ConnectionAborted.into());
    Failure::Listen { address, source }
}

/// Makes what is asked for and not there, by the same calls that a client makes.
fn bootstrap(cloud: &LocalCloud, arguments: &Arguments) -> Result<(), Failure> {
    for name in &arguments.cluster {
        let body = serde_json::json!({"clusterName": name});
        ask(cloud, "AmazonEC2ContainerServiceV20141113.CreateCluster", &body, &[])?;
    }
    for name in &arguments.namespace {
        let body = serde_json::json!({"Name": name, "Vpc": "vpc-local"});
        ask(cloud, "Route53AutoNaming_v20170314.CreatePrivateDnsNamespace", &body, &["NamespaceAlreadyExists"])?;
    }
    for name in &arguments.role {
        let trust = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}"#;
        let trust = percent_encoding::utf8_percent_encode(trust, percent_encoding::NON_ALPHANUMERIC);
        let body = format!("Action=CreateRole&Version=2010-05-08&RoleName={name}&AssumeRolePolicyDocument={trust}");
        let request = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(Bytes::from(body)).map_err(|error| unmade(format!("role {name}"), &error))?;
        expect(cloud, &request, &format!("role {name}"), &["EntityAlreadyExists"])?;
    }
    for name in &arguments.bucket {
        let request = Request::put(format!("/{name}")).body(Bytes::new());
        let request = request.map_err(|error| unmade(format!("bucket {name}"), &error))?;
        expect(cloud, &request, &format!("bucket {name}"), &["BucketAlreadyOwnedByYou"])?;
    }
    Ok(())
}

fn ask(cloud: &LocalCloud, target: &str, body: &serde_json::Value, known: &[&str]) -> Result<(), Failure> {
    let request = Request::post("/").header("x-amz-target", target).body(Bytes::from(body.to_string()));
    let request = request.map_err(|error| unmade(target.to_owned(), &error))?;
    expect(cloud, &request, &format!("{target} {body}"), known)
}

fn expect(cloud: &LocalCloud, request: &Request<Bytes>, what: &str, known: &[&str]) -> Result<(), Failure> {
    let answer = cloud.call(request);
    match answer.refused {
        Some(code) if !known.contains(&code.as_str()) => {
            let text = String::from_utf8_lossy(answer.response.body()).into_owned();
            Err(Failure::Bootstrap { what: what.to_owned(), answer: text })
        }
        _ => Ok(()),
    }
}

fn unmade(what: String, error: &http::Error) -> Failure {
    Failure::Bootstrap { what, answer: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(flags: &[&str]) -> Result<Option<u32>, clap::Error> {
        let arguments = ["localcloud"].iter().chain(flags);
        Arguments::try_parse_from(arguments).map(|arguments| arguments.throttle)
    }

    #[test]
    fn other_machines_cannot_be_let_in() {
        for flag in ["--listen", "--dns"] {
            for address in ["127.0.0.1:0", "127.0.0.2:80", "[::1]:80"] {
                assert!(Arguments::try_parse_from(["localcloud", flag, address]).is_ok(), "{flag} {address}");
            }
            for address in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "127.0.0.1", "localhost:80"] {
                let refused = Arguments::try_parse_from(["localcloud", flag, address]).err().unwrap().to_string();
                assert!(refused.contains(flag) && refused.contains("write 127.0.0.1:"), "{refused}");
            }
        }
    }

    #[test]
    fn calls_are_throttled_only_on_demand_and_never_altogether() {
        assert_eq!(throttle(&[]).unwrap(), None);
        assert_eq!(throttle(&["--throttle", "50"]).unwrap(), Some(50));
        assert!(throttle(&["--throttle", "0"]).is_err());
        assert!(throttle(&["--throttle"]).is_err());
    }
}
