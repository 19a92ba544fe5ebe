//! Builds in real time by a separate process, pushed to localcloud's registry in this one. Packages come from a folder, so the
//! figures do not include downloads.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use codeloc_core::ids::Commit;
use codeloc_crds::{Architecture, CodePointer, LocationName};
use codeloc_git::{Git, GitSettings};
use codeloc_images::{Anonymous, BuildSettings, Builder, OciBuilder, Request};
use codeloc_tests::processes::root;
use localcloud::registry;
use tokio::time::Instant;

use crate::figures::Table;
use crate::real::peak_megabytes;

/// Megabytes of packages.
const SMALL: usize = 200;
const LARGE: usize = 800;
const BOUND_MEGABYTES: f64 = 256.0;

/// Packages that do not compress, in ten wheels.
const WHEELS: &str = r#"
import os, sys, zipfile
for number in range(10):
    name, info = f"heavy{number}", f"heavy{number}-1.0.dist-info"
    with zipfile.ZipFile(f"{name}-1.0-py3-none-any.whl", "w") as archive:
        files = {f"{name}/__init__.py": b""} | {f"{name}/{part}.bin": os.urandom(100_000 * int(sys.argv[1])) for part in range(1)}
        files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
        files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
        for path, content in files.items():
            archive.writestr(path, content)
"#;

pub fn builds(table: &mut Table) {
    if !uv().exists() {
        println!("skipped builds: run `make prepare` to install .local/tools");
        return;
    }
    for megabytes in [SMALL, LARGE] {
        let [packages, code, memory] = measure(megabytes);
        let bound = (megabytes == SMALL).then_some(30.0);
        table.add(&format!("{megabytes} MB of new packages: resolved to pushed"), 1, packages, bound, "s");
        table.add(&format!("code-only commit with {megabytes} MB of packages"), 1, code, Some(2.0), "s");
        table.add(&format!("peak memory of the builder, {megabytes} MB"), 1, memory, Some(BOUND_MEGABYTES), "MB");
    }
}

fn uv() -> PathBuf {
    root().join(".local/tools/bin/uv")
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().expect("the program runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn commit(folder: &Path, text: &str) -> String {
    std::fs::write(folder.join("definitions.py"), text).expect("a file can be written");
    let identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.com", "-c", "commit.gpgsign=false"];
    run(folder, "git", &["add", "--all"]);
    run(folder, "git", &[&identity[..], &["commit", "--quiet", "--message=x"]].concat());
    run(folder, "git", &["rev-parse", "HEAD"])
}

fn measure(megabytes: usize) -> [f64; 3] {
    let folder = tempfile::tempdir().expect("a folder");
    let (wheels, repository) = (folder.path().join("wheels"), folder.path().join("repository"));
    for made in [&wheels, &repository] {
        std::fs::create_dir(made).expect("a folder");
    }
    run(&wheels, "python3", &["-c", WHEELS, &megabytes.to_string()]);
    run(&repository, "git", &["init", "--quiet"]);
    let requirements: Vec<String> = (0..10).map(|number| format!("heavy{number}==1.0\n")).collect();
    std::fs::write(repository.join("requirements.txt"), requirements.concat()).expect("a file can be written");
    let first = commit(&repository, "one = 1\n");
    let second = commit(&repository, "two = 2\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let registry = registry::Registry::new(folder.path().join("registry")).expect("a registry");
        registry.create("codeloc/bench").expect("a repository");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move { axum::serve(listener, registry::router(registry)).await });
        let mut builder = tokio::process::Command::new(std::env::current_exe().expect("this program"));
        builder.arg("build").arg(&host).arg(folder.path()).args([&first, &second]).kill_on_drop(true);
        let output = builder.output().await.expect("the builder runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        figures.try_into().unwrap_or_else(|_| panic!("unexpected output of the builder: {text}"))
    })
}

/// The measured process. Arguments: registry, folder and two commits.
pub fn build(arguments: &[String]) {
    let [host, folder, commits @ ..] = arguments else { panic!("the builder needs a registry and a folder") };
    let folder = Path::new(folder);
    let git = Git::new(GitSettings {
        program: PathBuf::from("git"),
        home: folder.join("home"),
        url_rewrites: std::collections::BTreeMap::new(),
        tokens: std::collections::BTreeMap::new(),
        allow_local: true,
        timeout: Duration::from_secs(60),
    });
    let settings =
        BuildSettings { uv: uv(), find_links: Some(folder.join("wheels")), ..BuildSettings::new(folder.join("work")) };
    let builder = OciBuilder::new(settings, git, Anonymous).expect("a builder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for commit in commits {
        let request = Request {
            location: LocationName::new("bench").expect("a name"),
            git_url: folder.join("repository").display().to_string(),
            commit: Commit::from(commit.as_str()),
            subdirectory: None,
            code: CodePointer::PythonFile("definitions.py".to_owned()),
            dependencies: None,
            dockerfile: None,
            commands: vec![],
            python: None,
            architecture: Architecture::Arm64,
            target: format!("{host}/codeloc/bench"),
        };
        let start = Instant::now();
        runtime.block_on(builder.build(&request, &|_| {})).expect("an image");
        println!("{}", start.elapsed().as_secs_f64());
    }
    println!("{}", peak_megabytes());
}
