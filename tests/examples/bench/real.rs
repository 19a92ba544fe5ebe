//! Fleets in real time: a daemon in a separate process, localcloud over HTTP in this one. localcloud answers without throttling and
//! delay, so the figures are those of the daemon.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use codeloc::config_source::{Snapshot, SourceState};
use codeloc::daemon::find_deployment;
use codeloc::daemon::wiring::{self, Parts};
use codeloc::reconcile::{Aws, Ports};
use codeloc::runtime::Clock;
use codeloc_aws::Clients;
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_core::dagster::Answer;
use codeloc_core::ids::Digest;
use codeloc_core::image::Image;
use codeloc_core::status::Health;
use codeloc_crds::LocationName;
use codeloc_dagster::CodeServer;
use codeloc_images::{BuildError, Builder, OnProgress, Request};
use codeloc_tests::{Branches, CloudWebserver, SWEEP_CALL, TestDeployment, built_image, names, role_pages, settings};
use localcloud::calls::Call;

use crate::bare;
use crate::figures::{Table, number};
use crate::simulated::rules;

/// The ports of the measured daemon.
struct Bench;

impl Ports for Bench {
    type Builder = Built;
    type CodeServer = Known;
    type Webserver = CloudWebserver;
}

/// Seconds from the end of a sweep to the next one.
const INTERVAL: u64 = 3;
/// The number of measured sweeps, of the daemon and of the SDK alone.
const SWEEPS: u32 = 5;
/// The number of sweeps before them: the first sweeps of a process fill its caches.
const SETTLING: u32 = 5;

/// The usage of one sweep with its follow-up work, and the peak memory.
struct Used {
    calls: f64,
    cpu: f64,
    /// The CPU of the same calls by the SDK alone.
    bare_cpu: f64,
    megabytes: f64,
}

pub fn growth(table: &mut Table, sizes: &[usize]) {
    let (mut calls, mut cpu, mut memory) = (vec![], vec![], vec![]);
    for n in sizes.iter().copied() {
        let used = measure(n);
        table.add("no changes: calls of one sweep", n, used.calls, None, "calls");
        table.add("no changes: CPU of one sweep", n, used.cpu, (n == 1000).then_some(0.1), "s");
        table.add("the same calls by the SDK alone: CPU", n, used.bare_cpu, None, "s");
        table.add("peak memory", n, used.megabytes, (n == 1000).then_some(40.0), "MB");
        calls.push(used.calls);
        cpu.push(used.cpu);
        memory.push(used.megabytes);
    }
    table.exponent("calls of a sweep", sizes, &calls);
    table.exponent("CPU of a sweep", sizes, &cpu);
    table.exponent("peak memory", sizes, &memory);
}

fn measure(n: usize) -> Used {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let names = names(n);
        let mut deployment = TestDeployment::with_latency(Duration::ZERO, rules()).await;
        deployment.rate_limited = false;
        deployment.settings.reconcile.lease_seconds = 8;
        deployment.commit_all(&names);
        deployment.start().await;
        while !names.iter().all(|name| deployment.healthy(name)) {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        deployment.kill().await;
        let answers: Vec<String> = deployment.cloud.with_cloud(|cloud| {
            cloud.ecs.tasks.values().filter_map(|task| task.address).map(|address| address.to_string()).collect()
        });
        let answers: Vec<String> = answers
            .into_iter()
            .filter_map(|address| {
                let server = deployment.code_server.at(address.parse().expect("an address"))?;
                Some(format!("{address} {}", server.server_id))
            })
            .collect();
        let folder = deployment.workspace_file().parent().expect("a folder").to_owned();
        std::fs::write(folder.join("answers"), answers.join("\n")).expect("a file");

        tokio::time::resume();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let cloud = deployment.cloud.clone();
        tokio::spawn(async move { cloud.serve(listener).await });
        let mut daemon = tokio::process::Command::new(std::env::current_exe().expect("this program"));
        daemon.arg("daemon").arg(&endpoint).arg(&folder).arg(n.to_string()).kill_on_drop(true);
        // As docs/aws.md says for `codeloc run`.
        daemon.env("MALLOC_MMAP_THRESHOLD_", "131072");
        let output = daemon.output().await.expect("the daemon runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [cpu, bare_cpu, megabytes] = figures[..] else { panic!("unexpected output of the daemon: {text}") };
        Used { calls: calls_of_a_sweep(&deployment.cloud.calls(), role_pages(n)), cpu, bare_cpu, megabytes }
    })
}

/// The calls per sweep, from a page of roles to the same page three sweeps later, without calls for the lease. Each sweep reads
/// `pages` pages of roles; the sweeps of the SDK alone come last.
fn calls_of_a_sweep(calls: &[Call], pages: usize) -> f64 {
    const COUNTED: usize = 3;
    let role_reads: Vec<usize> = (0..calls.len()).filter(|index| calls[*index].operation == SWEEP_CALL).collect();
    let by_the_sdk = usize::try_from(SETTLING + SWEEPS).expect("few") * pages;
    let last = role_reads.len() - by_the_sdk - 1;
    let counted = &calls[role_reads[last - COUNTED * pages]..role_reads[last]];
    number(counted.iter().filter(|call| call.service != "s3").count()) / number(COUNTED)
}

/// Code servers with the server ids of the tasks in the other process.
#[derive(Clone)]
struct Known(Arc<HashMap<IpAddr, String>>);

impl CodeServer for Known {
    async fn ask(&self, address: SocketAddr) -> Answer {
        match self.0.get(&address.ip()) {
            Some(server_id) => Answer::Loaded { server_id: server_id.clone(), repositories: vec![] },
            None => Answer::Unreachable { message: "connection refused".to_owned() },
        }
    }
}

/// Finds the images that the other process built.
struct Built;

impl Builder for Built {
    async fn find(&self, request: &Request, _: Option<&str>) -> Result<Option<Image>, BuildError> {
        Ok(Some(built_image(request)))
    }

    async fn build(&self, request: &Request, _: &OnProgress<'_>) -> Result<Image, BuildError> {
        Ok(built_image(request))
    }

    async fn digest(&self, reference: &str) -> Result<Option<Digest>, BuildError> {
        Ok(reference.split_once('@').map(|(_, digest)| Digest::from(digest)))
    }

    fn refresh(&self) {
        // The images have no base image.
    }
}

/// The measured process.
pub fn daemon(arguments: &[String]) {
    let [endpoint, folder, n] = arguments else { panic!("daemon needs an endpoint, a folder and a number") };
    let names = names(n.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(endpoint, &PathBuf::from(folder), &names));
}

async fn run(endpoint: &str, folder: &Path, names: &[String]) {
    let credentials = Credentials::new("codeloc", "test", None, None, "test");
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .load()
        .await;
    let mut settings = settings(folder.join("workspace.yaml"));
    settings.reconcile.resync_seconds = INTERVAL;
    settings.reconcile.lease_seconds = 8;
    let limits = Arc::new(RateLimiter::none());
    let clients = Clients::new(&config, &limits);
    let deployment = find_deployment(&settings, &clients, Some("eu-central-1")).await.expect("find the deployment");
    let answers = std::fs::read_to_string(folder.join("answers")).expect("the answers");
    let answers = answers.lines().filter_map(|line| line.split_once(' '));
    let answers = answers.map(|(address, id)| (address.parse().expect("an address"), id.to_owned())).collect();
    settings.dagster.workspace_file = folder.join("workspace.yaml");
    settings.git.poll_seconds = 3600;
    let (refs, receiver) = wiring::follow_refs(Branches::default(), &settings);
    let mut snapshot = Snapshot::default();
    for name in names {
        let parsed = codeloc_crds::parse(name, &codeloc_tests::config(name)).expect("a valid config");
        snapshot.locations.insert(LocationName::new(name).expect("a name"), Ok(parsed.into()));
    }
    let state = SourceState { snapshot: Some(Arc::new(snapshot)), ..SourceState::default() };
    let (_keep, source) = tokio::sync::watch::channel(state);
    let parts = Parts::<Bench> {
        settings,
        clients,
        limits,
        deployment,
        holder: "bench".to_owned(),
        refs,
        builder: Built,
        code_server: Known(Arc::new(answers)),
        webserver: None,
        clock: Clock::of_this_machine(),
        source,
    };
    let daemon = Arc::new(parts.assemble().expect("a workspace file"));
    let running = tokio::spawn({
        let daemon = daemon.clone();
        async move { daemon.run(receiver).await }
    });
    let statuses = &daemon.context.status.statuses;
    let healthy = |name: &String| statuses.read(name, |status| status.health == Health::Healthy).unwrap_or(false);
    while !names.iter().all(healthy) {
        assert!(!running.is_finished(), "the daemon ended");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let sweeps = daemon.context.status.recorder.metrics.sweeps.with_label_values(&["done"]);
    let ended = async |number: u32| {
        let until = sweeps.get_sample_count() + u64::from(number);
        while sweeps.get_sample_count() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    ended(SETTLING).await;
    let before = cpu_seconds();
    ended(SWEEPS).await;
    let cpu = (cpu_seconds() - before) / f64::from(SWEEPS);
    let megabytes = peak_megabytes();
    running.abort();
    let Aws { clients, deployment, .. } = &*daemon.context.observer.aws;
    let sweep_alone = async |times: u32| {
        for _ in 0..times {
            Box::pin(bare::sweep(clients, deployment, names.len())).await;
        }
    };
    sweep_alone(SETTLING).await;
    let before = cpu_seconds();
    sweep_alone(SWEEPS).await;
    let bare_cpu = (cpu_seconds() - before) / f64::from(SWEEPS);
    println!("{cpu} {bare_cpu} {megabytes}");
}

/// User and system time of this process, in hundredths as the kernel counts them.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux tells the time that was used");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) / 100.0
}

pub fn peak_megabytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux tells the memory that was used");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak is there");
    line.split_whitespace().next().expect("a number").parse::<f64>().expect("kB") / 1024.0
}
