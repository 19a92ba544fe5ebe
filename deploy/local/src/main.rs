//! `localcloud`: AWS on loopback.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::Request;
use localcloud::cloud::{Cloud, Rules};
use localcloud::store::{Store, StoreError};
use localcloud::time::Time;
use localcloud::{LocalCloud, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

/// How long tasks may take to stop at the end: ECS gives a container 30 s.
const GRACE: Duration = Duration::from_secs(35);

#[derive(Parser)]
#[command(version, about = "A small, strict AWS in one process")]
struct Arguments {
    /// Where to listen; nobody is authenticated, so anything but loopback is at your own risk
    #[arg(long, env = "LOCALCLOUD_LISTEN", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// A folder in which everything survives a restart
    #[arg(long, env = "LOCALCLOUD_STATE")]
    state: Option<PathBuf>,
    /// What runs tasks
    #[arg(long, value_enum, default_value_t = DriverKind::Simulated)]
    driver: DriverKind,
    #[arg(long, default_value = "123456789012")]
    account: String,
    /// The one region; requests signed for another are refused
    #[arg(long, env = "AWS_REGION", default_value = "eu-central-1")]
    region: String,
    /// How many seconds a new role cannot be assumed by ECS
    #[arg(long, default_value_t = 0)]
    role_propagation: u64,
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
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
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
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let listen = |source| Failure::Listen {
        address: arguments.listen,
        source,
    };
    let listener = TcpListener::bind(arguments.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let store = arguments.state.as_deref().map(Store::open).transpose()?;
    let saved = store.as_ref().map(Store::load).transpose()?.flatten();
    let cloud = LocalCloud::start_from(settings(&arguments, address)?, saved);
    cloud.with_cloud(|cloud| bootstrap(cloud, &arguments))?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    info!(%address, region = arguments.region, account = arguments.account, "localcloud answers");
    println!("http://{address}");

    let saving = async {
        match &store {
            Some(store) => Failure::from(cloud.keep_saving(store).await),
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        served = cloud.serve(listener) => served.map_err(Failure::Serve),
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

fn settings(arguments: &Arguments, address: SocketAddr) -> Result<Settings, Failure> {
    let mut seed = [0; 32];
    let drawn =
        std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed));
    drawn.map_err(Failure::Randomness)?;
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let rules = Rules {
        account: arguments.account.clone(),
        region: arguments.region.clone(),
        seed,
        registry: address.to_string(),
        role_propagation: Duration::from_secs(arguments.role_propagation),
        ..Rules::default()
    };
    match arguments.driver {
        DriverKind::Simulated => Ok(Settings {
            rules,
            start: Time::default() + since_epoch,
            ..Settings::default()
        }),
    }
}

/// Makes what is asked for and not there, by the same calls that a client makes.
fn bootstrap(cloud: &mut Cloud, arguments: &Arguments) -> Result<(), Failure> {
    for name in &arguments.cluster {
        let body = serde_json::json!({"clusterName": name});
        ask(
            cloud,
            "AmazonEC2ContainerServiceV20141113.CreateCluster",
            &body,
            &[],
        )?;
    }
    for name in &arguments.namespace {
        let body = serde_json::json!({"Name": name, "Vpc": "vpc-local"});
        ask(
            cloud,
            "Route53AutoNaming_v20170314.CreatePrivateDnsNamespace",
            &body,
            &["NamespaceAlreadyExists"],
        )?;
    }
    for name in &arguments.bucket {
        let request = Request::put(format!("/{name}")).body(Bytes::new());
        let request = request.map_err(|error| unmade(format!("bucket {name}"), &error))?;
        expect(
            cloud,
            &request,
            &format!("bucket {name}"),
            &["BucketAlreadyOwnedByYou"],
        )?;
    }
    Ok(())
}

fn ask(
    cloud: &mut Cloud,
    target: &str,
    body: &serde_json::Value,
    known: &[&str],
) -> Result<(), Failure> {
    let request = Request::post("/")
        .header("x-amz-target", target)
        .body(Bytes::from(body.to_string()));
    let request = request.map_err(|error| unmade(target.to_owned(), &error))?;
    expect(cloud, &request, &format!("{target} {body}"), known)
}

fn expect(
    cloud: &mut Cloud,
    request: &Request<Bytes>,
    what: &str,
    known: &[&str],
) -> Result<(), Failure> {
    let answer = cloud.call(request, cloud.now());
    match answer.refused {
        Some(code) if !known.contains(&code.as_str()) => {
            let text = String::from_utf8_lossy(answer.response.body()).into_owned();
            Err(Failure::Bootstrap {
                what: what.to_owned(),
                answer: text,
            })
        }
        _ => Ok(()),
    }
}

fn unmade(what: String, error: &http::Error) -> Failure {
    Failure::Bootstrap {
        what,
        answer: error.to_string(),
    }
}
