//! The program `localcloud`: AWS on loopback.

use std::collections::BTreeMap;
use std::fmt::Write as _;
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

/// The time that tasks have to stop when localcloud ends. ECS gives a container 30 s.
const GRACE: Duration = Duration::from_secs(35);

#[derive(Parser)]
#[command(version, about = "Emulate the part of AWS that codeloc uses, in one process on loopback")]
struct Arguments {
    /// Listen on this loopback address, without authenticating callers
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4566", value_parser = loopback)]
    #[arg(env = "LOCALCLOUD_LISTEN")]
    listen: SocketAddr,
    /// Keep the state in this folder across restarts [default: keep it in memory]
    #[arg(long, env = "LOCALCLOUD_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Choose how tasks run
    #[arg(long, value_enum, value_name = "NAME", default_value_t = DriverKind::Simulated)]
    driver: DriverKind,
    /// Use this Python for tasks if PATH has none of their version; repeatable
    #[arg(long, value_name = "FILE")]
    python: Vec<PathBuf>,
    /// Use this folder as /opt/codeloc/platform of every image: the base image has codeloc's own package there
    #[arg(long, value_name = "FOLDER")]
    platform: Option<PathBuf>,
    /// Show the programs in this folder to tasks with the image localcloud.invalid/sandbox:PYTHON, which run in a sandbox; repeatable
    #[arg(long, value_name = "FOLDER")]
    tools: Vec<PathBuf>,
    /// Let sandboxed tasks reach this address of the machine, such as a package index; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    reachable: Vec<String>,
    /// Answer DNS queries for Cloud Map names on this loopback UDP address
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    dns: Option<SocketAddr>,
    /// Use this AWS account id
    #[arg(long, value_name = "ID", default_value = "123456789012")]
    account: String,
    /// Use this region, and refuse requests signed for another one
    #[arg(long, env = "AWS_REGION", value_name = "NAME", default_value = "eu-central-1")]
    region: String,
    /// Let ECS assume a new role only after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    role_propagation: u64,
    /// Throttle calls above this percentage of AWS's rates in buckets.json [default: no throttling]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..))]
    throttle: Option<u32>,
    /// Set a variable in every task, which its image and task definition can override; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    task_environment: Vec<(String, String)>,
    /// Read the values of secrets and parameters, by ARN, from this JSON file
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Deny this action to every caller, for example ecs:CreateService; repeatable
    #[arg(long, value_name = "ACTION")]
    deny: Vec<String>,
    /// Create an execution role: ECS can pull images, write logs and read every secret with it; repeatable
    #[arg(long, value_name = "NAME")]
    role: Vec<String>,
    /// Create an ECS cluster; repeatable
    #[arg(long, value_name = "NAME")]
    cluster: Vec<String>,
    /// Create a private DNS namespace; repeatable
    #[arg(long, value_name = "NAME")]
    namespace: Vec<String>,
    /// Create an S3 bucket; repeatable
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverKind {
    /// Report tasks as healthy, but run nothing
    Simulated,
    /// Run pushed images as processes of this machine
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
    #[error("cannot create a temporary folder: {0}")]
    Folder(std::io::Error),
    #[error("cannot listen on {address}: {source}; choose another address with --listen or --dns")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot read /dev/urandom: {0}")]
    Randomness(std::io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("the HTTP server stopped: {0}")]
    Serve(std::io::Error),
    #[error("cannot create {what} at the start: {answer}")]
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
    // Without --state, images live as long as this process.
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
    info!(%address, region = arguments.region, account = arguments.account, "localcloud is ready");
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
    info!("stopping all tasks");
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
            settings.platform.clone_from(&arguments.platform);
            settings.tools.clone_from(&arguments.tools);
            settings.reachable.clone_from(&arguments.reachable);
            settings.extra_environment.extend(task_environment(arguments, address));
            settings.extra_environment.extend(arguments.task_environment.iter().cloned());
            Some(Arc::new(Process::new(settings)) as Arc<dyn Driver>)
        }
    };
    let images = Arc::clone(registry) as Arc<dyn Images>;
    Ok(Settings { rules, start: SystemTime::now().into(), driver, images, ..Settings::default() })
}

/// A caller can run any command as a task, so other machines must not reach localcloud.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}; write 127.0.0.1:4566 or [::1]:4566"))?;
    let refused = || format!("other machines can reach {address}; write 127.0.0.1:{}", address.port());
    address.ip().is_loopback().then_some(address).ok_or_else(refused)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read_secrets(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let failure = |why: String| Failure::Secrets { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| failure(error.to_string()))?;
    // The message of the parser would show a part of the file.
    serde_json::from_str(&text)
        .map_err(|error| failure(format!("line {}: write one JSON object whose values are strings", error.line())))
}

/// Variables that point the AWS clients of a task to this endpoint.
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

/// Creates the requested resources that do not exist, with the calls that a client makes.
fn bootstrap(cloud: &LocalCloud, arguments: &Arguments) -> Result<(), Failure> {
    for name in &arguments.cluster {
        let body = serde_json::json!({"clusterName": name});
        call_json(cloud, "AmazonEC2ContainerServiceV20141113.CreateCluster", &body, &[])?;
    }
    for name in &arguments.namespace {
        let body = serde_json::json!({"Name": name, "Vpc": "vpc-local"});
        call_json(cloud, "Route53AutoNaming_v20170314.CreatePrivateDnsNamespace", &body, &["NamespaceAlreadyExists"])?;
    }
    for name in &arguments.role {
        execution_role(cloud, name)?;
    }
    for name in &arguments.bucket {
        let request = Request::put(format!("/{name}")).body(Bytes::new());
        let request = request.map_err(|error| invalid_request(format!("bucket {name}"), &error))?;
        call(cloud, &request, &format!("bucket {name}"), &["BucketAlreadyOwnedByYou"])?;
    }
    Ok(())
}

/// Creates an execution role with the managed policy for it, and permission to read every secret.
fn execution_role(cloud: &LocalCloud, name: &str) -> Result<(), Failure> {
    const TRUST: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}"#;
    const MANAGED: &str = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy";
    const SECRETS: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue", "ssm:GetParameters"], "Resource": "*"}]}"#;
    let calls: [(&str, &[(&str, &str)]); 3] = [
        ("CreateRole", &[("AssumeRolePolicyDocument", TRUST)]),
        ("AttachRolePolicy", &[("PolicyArn", MANAGED)]),
        ("PutRolePolicy", &[("PolicyName", "secrets"), ("PolicyDocument", SECRETS)]),
    ];
    for (operation, fields) in calls {
        let mut body = format!("Action={operation}&Version=2010-05-08&RoleName={name}");
        for (field, value) in fields {
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            let _ = write!(body, "&{field}={value}");
        }
        let request = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
        let request =
            request.body(Bytes::from(body)).map_err(|error| invalid_request(format!("role {name}"), &error))?;
        call(cloud, &request, &format!("role {name}"), &["EntityAlreadyExists"])?;
    }
    Ok(())
}

fn call_json(cloud: &LocalCloud, target: &str, body: &serde_json::Value, known: &[&str]) -> Result<(), Failure> {
    let request = Request::post("/").header("x-amz-target", target).body(Bytes::from(body.to_string()));
    let request = request.map_err(|error| invalid_request(target.to_owned(), &error))?;
    call(cloud, &request, &format!("{target} {body}"), known)
}

fn call(cloud: &LocalCloud, request: &Request<Bytes>, what: &str, known: &[&str]) -> Result<(), Failure> {
    let answer = cloud.call(request);
    match answer.refused {
        Some(code) if !known.contains(&code.as_str()) => {
            let text = String::from_utf8_lossy(answer.response.body()).into_owned();
            Err(Failure::Bootstrap { what: what.to_owned(), answer: text })
        }
        _ => Ok(()),
    }
}

fn invalid_request(what: String, error: &http::Error) -> Failure {
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
    fn addresses_outside_loopback_are_refused() {
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
    fn throttling_is_off_by_default_and_never_zero_percent() {
        assert_eq!(throttle(&[]).unwrap(), None);
        assert_eq!(throttle(&["--throttle", "50"]).unwrap(), Some(50));
        assert!(throttle(&["--throttle", "0"]).is_err());
        assert!(throttle(&["--throttle"]).is_err());
    }
}
