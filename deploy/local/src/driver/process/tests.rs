//! Builds images, pushes them to a registry, and runs them as processes.

use std::path::Path;

use axum::body::Body;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tower::ServiceExt;

use super::*;
use crate::model::launch::{Container, LogTarget};
use crate::registry;

/// A generous limit for steps that take a fraction of a second on an idle machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Opens a port on its address, prints lines, and acts by its argument.
const PROGRAM: &str = r#"
import os, signal, socket, subprocess, sys, time
import fruit
print("hello from", fruit.NAME, flush=True)
print("interrupts", signal.getsignal(signal.SIGINT) is signal.default_int_handler, file=sys.stderr, flush=True)
print("secret", os.environ.get("CARGO_MANIFEST_DIR"), "colour", os.environ["COLOUR"], flush=True)
print("in", os.getcwd(), flush=True)
what = sys.argv[1]
if what == "exit":
    sys.exit(7)
if what == "long":
    print("x" * 40000, flush=True)
    sys.exit(0)
child = subprocess.Popen(["sleep", "1000"])
print("pids", os.getpid(), child.pid, flush=True)
if what == "leave":
    os._exit(3)
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server((os.environ["DAGSTER_GRPC_HOST"], int(os.environ["DAGSTER_GRPC_PORT"])))
print("listening", flush=True)
while True:
    listener.accept()
"#;

struct Fixture {
    folder: tempfile::TempDir,
    registry: Arc<Registry>,
    /// The minor version of this machine's `python3`.
    python: String,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("registry")).unwrap();
        registry.create("team/fruit").unwrap();
        let version = "import sys; print('3.%d' % sys.version_info[1])";
        let output = std::process::Command::new("python3").args(["-c", version]).output().unwrap();
        let python = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Self { folder, registry, python }
    }

    fn driver(&self) -> Process {
        Process::new(ProcessSettings::new(self.folder.path().join("tasks"), Arc::clone(&self.registry)))
    }

    async fn put(&self, path: &str, content_type: &str, body: Vec<u8>) {
        let method = if path.contains("/manifests/") { "PUT" } else { "POST" };
        let request = http::Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        let request = request.header("content-type", content_type);
        let router = registry::router(Arc::clone(&self.registry));
        let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        assert_eq!(response.status(), http::StatusCode::CREATED);
    }

    async fn blob(&self, bytes: Vec<u8>) -> (String, usize) {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.put(&format!("/v2/team/fruit/blobs/uploads/?digest={digest}"), "application/octet-stream", bytes).await;
        (digest, size)
    }

    /// An image like those of the builder: a base that must not be unpacked, dependencies and code.
    async fn image(&self, python: &str, code: &str) -> String {
        let site_packages = format!("opt/codeloc/env/lib/python{python}/site-packages/fruit.py");
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let dependencies = zstd::encode_all(&archive(&site_packages, "NAME = 'mango'\n")[..], 1).unwrap();
        let mut layers = Vec::new();
        for (bytes, media_type, kind) in [
            (b"no archive at all".to_vec(), format!("{tar}+gzip"), None),
            (dependencies, format!("{tar}+zstd"), Some("dependencies")),
            (archive("opt/codeloc/code/main.py", code), tar.to_owned(), Some("code")),
        ] {
            let (digest, size) = self.blob(bytes).await;
            let annotations = kind.map_or_else(|| json!({}), |kind| json!({ "codeloc.layer": kind }));
            layers.push(json!({ "mediaType": media_type, "digest": digest, "size": size, "annotations": annotations }));
        }
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["COLOUR=green", "PYTHONUNBUFFERED=1"],
                "Cmd": ["python", "/opt/codeloc/code/main.py", "serve"],
                "WorkingDir": "/opt/codeloc/code",
                "Labels": { "codeloc.python": python },
            },
        });
        let media_type = "application/vnd.oci.image.config.v1+json";
        let (config, size) = self.blob(config.to_string().into_bytes()).await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": media_type, "digest": config, "size": size },
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = digest(&bytes);
        let path = format!("/v2/team/fruit/manifests/{digest}");
        self.put(&path, "application/vnd.oci.image.manifest.v1+json", bytes).await;
        format!("127.0.0.1:4566/team/fruit@{digest}")
    }

    fn unpacked(&self, kind: &str) -> Vec<PathBuf> {
        let folder = self.folder.path().join("tasks").join(kind);
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn archive(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

fn launch(task_arn: &str, image: &str, what: &str) -> Launch {
    let environment = [("DAGSTER_GRPC_HOST", "0.0.0.0"), ("DAGSTER_GRPC_PORT", "4999")];
    Launch {
        task_arn: task_arn.to_owned(),
        family: "fruit".to_owned(),
        containers: vec![Container {
            name: "server".to_owned(),
            image: image.to_owned(),
            entry_point: Vec::new(),
            command: ["python", "/opt/codeloc/code/main.py", what].map(str::to_owned).into(),
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            working_directory: None,
            port: (what != "exit" && what != "long").then_some(4999),
            log: Some(LogTarget { group: "fruit".to_owned(), stream: task_arn.to_owned() }),
            stop_timeout: Duration::from_mins(1),
        }],
        stops: None,
    }
}

/// The reports of one task.
struct Follow {
    reports: UnboundedReceiver<Report>,
    lines: Vec<String>,
}

impl Follow {
    fn launch(driver: &Process, launch: Launch) -> Self {
        Self::launch_at(&Addresses::default(), driver, launch)
    }

    fn launch_at(addresses: &Addresses, driver: &Process, launch: Launch) -> Self {
        let (sender, reports) = unbounded_channel();
        driver.launch(launch, addresses, sender);
        Self { reports, lines: Vec::new() }
    }

    async fn next(&mut self) -> Report {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        report.unwrap_or_else(|_| panic!("nothing came after {:?}", self.lines)).unwrap()
    }

    /// The next report that is not a log line.
    async fn step(&mut self) -> Report {
        loop {
            match self.next().await {
                Report::Log { line, .. } => self.lines.push(line),
                other => return other,
            }
        }
    }

    async fn line(&mut self, start: &str) -> String {
        loop {
            if let Some(line) = self.lines.iter().find(|line| line.starts_with(start)) {
                return line.clone();
            }
            match self.next().await {
                Report::Log { line, .. } => self.lines.push(line),
                Report::Exited { reason, .. } => panic!("ended: {reason}, {:?}", self.lines),
                _ => {}
            }
        }
    }

    async fn exited(&mut self) -> (Option<i32>, String) {
        loop {
            if let Report::Exited { exit_code, reason, .. } = self.step().await {
                return (exit_code, reason);
            }
        }
    }

    /// The process of the task and its child.
    async fn pids(&mut self) -> [Pid; 2] {
        let line = self.line("pids ").await;
        let pids: Vec<_> = line.split(' ').skip(1).map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
        pids.try_into().unwrap()
    }
}

/// Waits for the end of a process; a zombie counts as ended.
async fn gone(pid: Pid) {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let runs = || match fs::read_to_string(&stat) {
        Ok(stat) => !stat.contains(") Z"),
        Err(_) => !Path::new("/proc/self").exists() && test_kill_process(pid).is_ok(),
    };
    let waiting = async {
        while runs() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{pid:?} still runs"));
}

#[tokio::test]
async fn a_pushed_image_runs_and_stops_with_its_group() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let mut task = Follow::launch(&driver, launch("arn:task/1", &image, "serve"));
    assert!(matches!(task.step().await, Report::Pulled { .. }));
    let Report::Running { address, port, .. } = task.step().await else { panic!("not running") };
    if cfg!(target_os = "linux") {
        assert_eq!((&address.octets()[..2], port), (&[127, 64][..], None));
    }
    assert!(matches!(task.step().await, Report::Healthy { .. }));
    assert!(TcpStream::connect((address, port.unwrap_or(4999))).await.is_ok());
    assert_eq!(task.line("hello").await, "hello from mango");
    assert_eq!(task.line("interrupts").await, "interrupts True");
    assert_eq!(task.line("secret").await, "secret None colour green");
    assert!(task.line("in ").await.ends_with("/rootfs/opt/codeloc/code"));
    let [server, child] = task.pids().await;
    driver.stop("arn:task/1");
    assert_eq!(task.exited().await, (Some(143), "Task stopped on request".to_owned()));
    gone(server).await;
    gone(child).await;
    assert!(fixture.unpacked("tasks").is_empty(), "the scratch folder was not removed");
}

#[tokio::test]
async fn tasks_of_one_image_share_files_but_not_addresses() {
    let fixture = Fixture::new();
    let (first, second) =
        (fixture.image(&fixture.python, PROGRAM).await, fixture.image(&fixture.python, &format!("{PROGRAM}#")).await);
    let driver = fixture.driver();
    let pool = Addresses::default();
    let mut addresses = Vec::new();
    let mut tasks = Vec::new();
    for (arn, image) in [("arn:1", &first), ("arn:2", &first), ("arn:3", &second)] {
        let mut task = Follow::launch_at(&pool, &driver, launch(arn, image, "serve"));
        loop {
            match task.step().await {
                Report::Running { address, port, .. } => addresses.push((address, port)),
                Report::Healthy { .. } => break,
                Report::Exited { reason, .. } => panic!("{reason} {:?}", task.lines),
                _ => {}
            }
        }
        tasks.push(task);
    }
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 3);
    assert_eq!(fixture.unpacked("images").len(), 2);
    assert_eq!(fixture.unpacked("layers").len(), 3, "one of dependencies, two of code, none of the base");
    let fruit = format!("rootfs/opt/codeloc/env/lib/python{}/site-packages/fruit.py", fixture.python);
    let inodes = fixture.unpacked("images").into_iter().map(|image| {
        use std::os::unix::fs::MetadataExt;
        image.join(&fruit).metadata().unwrap().ino()
    });
    let inodes: Vec<_> = inodes.collect();
    assert_eq!(inodes[0], inodes[1]);
}

#[tokio::test]
async fn a_released_address_is_not_reused_at_once() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let pool = Addresses::new(LISTENING, 1);
    let mut seen = Vec::new();
    for arn in ["arn:1", "arn:2", "arn:3"] {
        let mut task = Follow::launch_at(&pool, &driver, launch(arn, &image, "exit"));
        loop {
            match task.step().await {
                Report::Running { address, port, .. } => seen.push((address, port)),
                Report::Exited { .. } => break,
                _ => {}
            }
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");

    let mut first = Follow::launch_at(&pool, &driver, launch("arn:4", &image, "serve"));
    first.line("listening").await;
    let (code, reason) = Follow::launch_at(&pool, &driver, launch("arn:5", &image, "serve")).exited().await;
    assert_eq!(code, None);
    assert!(reason.contains("InsufficientFreeAddressesInSubnet"), "{reason}");
}

#[tokio::test]
async fn the_exit_code_is_reported_after_the_last_line() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let mut task = Follow::launch(&driver, launch("arn:1", &image, "exit"));
    assert_eq!(task.exited().await, (Some(7), "Essential container in task exited".to_owned()));
    assert!(task.lines.iter().any(|line| line.starts_with("in ")), "{:?}", task.lines);
    let mut task = Follow::launch(&driver, launch("arn:2", &image, "long"));
    assert_eq!(task.exited().await.0, Some(0));
    let pieces: Vec<usize> = task.lines.iter().filter(|line| line.starts_with('x')).map(String::len).collect();
    assert_eq!(pieces, [16384, 16384, 7232]);
}

#[tokio::test]
async fn the_end_of_a_task_kills_its_group() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let mut task = Follow::launch(&driver, launch("arn:1", &image, "leave"));
    let [_, child] = task.pids().await;
    assert_eq!(task.exited().await.0, Some(3));
    gone(child).await;
}

#[tokio::test]
async fn a_task_that_ignores_sigterm_is_killed_after_its_timeout() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let mut deaf = launch("arn:1", &image, "deaf");
    deaf.containers[0].stop_timeout = Duration::from_millis(50);
    let mut task = Follow::launch(&driver, deaf);
    task.line("listening").await;
    driver.stop("arn:1");
    assert_eq!(task.exited().await.0, Some(137));
}

#[tokio::test]
async fn dropping_the_driver_stops_its_tasks() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let mut task = Follow::launch(&driver, launch("arn:1", &image, "serve"));
    let [server, child] = task.pids().await;
    drop(driver);
    assert_eq!(task.exited().await.0, Some(143));
    gone(server).await;
    gone(child).await;
}

#[test]
fn the_end_of_the_runtime_kills_its_tasks() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ending = runtime();
    let pids = ending.block_on(async {
        let fixture = Fixture::new();
        let image = fixture.image(&fixture.python, PROGRAM).await;
        let driver = fixture.driver();
        Follow::launch(&driver, launch("arn:1", &image, "deaf")).pids().await
    });
    drop(ending);
    runtime().block_on(async {
        for pid in pids {
            gone(pid).await;
        }
    });
}

#[tokio::test]
async fn a_task_that_cannot_run_reports_the_reason() {
    let fixture = Fixture::new();
    let driver = fixture.driver();
    let mut absent = Follow::launch(&driver, launch("arn:1", "127.0.0.1:4566/team/fruit:v9", "serve"));
    let (code, reason) = absent.exited().await;
    assert_eq!(code, None);
    assert_eq!(reason, "CannotPullContainerError: failed to resolve ref 127.0.0.1:4566/team/fruit:v9: not found");

    let image = fixture.image("3.99", PROGRAM).await;
    let mut no_python = Follow::launch(&driver, launch("arn:2", &image, "serve"));
    let (code, reason) = no_python.exited().await;
    assert_eq!(code, None);
    assert!(reason.starts_with("CannotPullContainerError: the image needs Python 3.99"), "{reason}");

    let image = fixture.image(&fixture.python, PROGRAM).await;
    let mut no_program = launch("arn:3", &image, "serve");
    no_program.containers[0].command = vec!["no-such-program".to_owned()];
    let (code, reason) = Follow::launch(&driver, no_program).exited().await;
    assert_eq!(code, None);
    assert!(reason.starts_with("CannotStartContainerError: exec: \"no-such-program\""), "{reason}");
    assert!(fixture.unpacked("tasks").is_empty());
}

#[tokio::test]
async fn the_guardian_kills_only_its_groups_when_its_pipe_closes() {
    let spawn = || {
        let mut command = tokio::process::Command::new("sleep");
        command.arg("1000").process_group(0).kill_on_drop(true).spawn().unwrap()
    };
    let group = |child: &tokio::process::Child| Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    let (mut watched, mut dropped, mut late) = (spawn(), spawn(), spawn());
    let mut guardian = Guardian::default();
    guardian.add(group(&watched)).unwrap();
    guardian.add(group(&dropped)).unwrap();
    guardian.add(group(&late)).unwrap();
    guardian.remove(group(&dropped));
    drop(guardian);
    for child in [&mut watched, &mut late] {
        tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    }
    assert!(dropped.try_wait().unwrap().is_none(), "a removed group was killed");
}

#[test]
fn the_launcher_undoes_signals_that_its_parent_ignored() {
    let asks = "import signal; print(*(signal.getsignal(s).name for s in (signal.SIGTERM, signal.SIGHUP)), \
                signal.getsignal(signal.SIGINT) is signal.default_int_handler)";
    let script = "trap '' INT TERM HUP PIPE; exec python3 -I -S -c \"$0\" / \"$1\" -c \"$2\"";
    let python = python::find(&Fixture::new().python, std::env::var_os("PATH").unwrap().as_os_str(), &[]).unwrap();
    let mut shell = std::process::Command::new("sh")
        .args(["-c", script, include_str!("launcher.py")])
        .arg(python)
        .arg(asks)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "SIG_DFL SIG_DFL True\n");
}

#[test]
fn the_launcher_starts_nothing_if_the_driver_has_died() {
    let output = std::process::Command::new("python3")
        .args(["-I", "-S", "-c", include_str!("launcher.py"), "/", "/bin/echo", "started"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0));
}

/// A helper of the next test, which runs it in another process and kills it.
#[tokio::test]
#[ignore = "run by the_death_of_the_driver_kills_every_task"]
async fn a_driver_to_be_killed() {
    let fixture = Fixture::new();
    let image = fixture.image(&fixture.python, PROGRAM).await;
    let driver = fixture.driver();
    let mut task = Follow::launch(&driver, launch("arn:1", &image, "deaf"));
    let line = task.line("pids ").await;
    task.line("listening").await;
    println!("\n{line}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_death_of_the_driver_kills_every_task() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let mut victim = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["driver::process::tests::a_driver_to_be_killed", "--exact", "--ignored", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let pids = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the driver runs");
            if let Some(pids) = line.strip_prefix("pids ") {
                break pids.to_owned();
            }
        }
    };
    let pids = tokio::time::timeout(PATIENCE, pids).await.unwrap();
    let own = Pid::from_raw(victim.id().unwrap().try_into().unwrap()).unwrap();
    kill_process_group(own, Signal::KILL).unwrap();
    for pid in pids.split(' ') {
        gone(Pid::from_raw(pid.parse().unwrap()).unwrap()).await;
    }
    victim.wait().await.unwrap();
}
