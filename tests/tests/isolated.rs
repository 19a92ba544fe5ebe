//! Isolated builds with real processes: localcloud runs the tasks of `RunTask` in its sandbox.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::io::{BufRead, BufReader};
use std::path::Path;

use codeloc_aws::Clients;
use codeloc_tests::processes::{binary, command, git, prepared, root, stderr, stdout, wait_for};
use codeloc_tests::sandbox::Sandbox;
use serde_json::Value;

const CODE: &str =
    "import dagster as dg\n\n@dg.asset\ndef hello():\n    return 1\n\ndefs = dg.Definitions(assets=[hello])\n";

/// A build backend in the project itself, which needs no package. It computes the dependencies, and runs `ATTACK` first.
const BACKEND: &str = r#"
import os, zipfile
EXTRA = {}
def build_wheel(folder, config=None, metadata=None):
    ATTACK
    name = "computed-1.0-py3-none-any.whl"
    info = "computed-1.0.dist-info"
    files = {
        "computed/__init__.py": "",
        "computed/made.py": "ANSWER = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: computed\nVersion: 1.0\nRequires-Dist: dagster\nRequires-Dist: DEPENDENCY\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files.update(EXTRA)
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return name
def build_sdist(folder, config=None): raise NotImplementedError
"#;

/// A git repository with a project whose backend runs `attack`.
fn project(folder: &Path, dependency: &str, attack: &str) -> String {
    let pyproject = "[project]\nname = 'computed'\nversion = '1.0'\ndynamic = ['dependencies']\n\
                     [build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n";
    let code = format!("from computed.made import ANSWER\nassert ANSWER == 42\n{CODE}");
    let backend = BACKEND.replace("DEPENDENCY", dependency).replace("ATTACK", attack);
    repository(
        folder,
        &[
            ("pyproject.toml", pyproject),
            ("backend.py", &backend),
            ("computed/__init__.py", ""),
            ("computed/definitions.py", &code),
        ],
    )
}

fn repository(folder: &Path, files: &[(&str, &str)]) -> String {
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(folder, &["init", "--quiet", "--initial-branch=main"]);
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "--message", "x"]);
    folder.display().to_string()
}

fn config(name: &str, url: &str, file: &str) -> String {
    let architecture = if cfg!(target_arch = "aarch64") { "ARM64" } else { "X86_64" };
    format!(
        "name: {name}\ngit_url: {url}\nbranch: main\npython_file: {file}\nresources: {{architecture: {architecture}}}\nscaling: {{max_capacity: 1}}\n"
    )
}

/// Whether this machine has what the tests need. Otherwise they print what they skip.
fn is_possible() -> bool {
    let mut unshare = command("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "true"]);
    let allowed = unshare.output().is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("SKIPPED: isolated builds\n  this machine allows no user namespaces");
    }
    allowed && prepared("isolated builds")
}

async fn start(folder: &Path) -> Sandbox {
    let tools = root().join(".local/tools/bin");
    let sandbox = Sandbox::start_with(folder, "process", &["--tools", tools.to_str().unwrap()]).await;
    sandbox.write_settings(&folder.join("work"));
    sandbox
}

async fn wait_for_status(sandbox: &Sandbox, name: &str, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, 400, || async {
        let status = sandbox.status(name).await?;
        if matches(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

fn is_healthy(status: &Value) -> bool {
    status["sync"] == "Synced" && status["health"] == "Healthy"
}

/// The calls of an operation that localcloud has answered.
async fn calls(sandbox: &Sandbox, operation: &str) -> usize {
    let url = format!("http://127.0.0.1:{}/_localcloud/calls", sandbox.cloud_port());
    let all = sandbox.web.get(&url).await.unwrap();
    all["calls"].as_array().unwrap().iter().filter(|call| call["operation"] == operation).count()
}

/// What isolated builds of a location printed.
async fn build_log(sandbox: &Sandbox, location: &str) -> String {
    let logs = Clients::new(&sandbox.sdk(), &std::sync::Arc::default()).logs;
    let group = format!("/codeloc-local/locations/{location}");
    let events = logs.filter_log_events().log_group_name(group).log_stream_name_prefix("build").send().await.unwrap();
    events.events().iter().filter_map(|event| event.message()).flat_map(|line| [line, "\n"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_needs_code_to_run_starts_a_task() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = start(folder.path()).await;
    let plain = [("requirements.txt", "dagster\n"), ("definitions.py", CODE)];
    let plain = repository(&folder.path().join("plain"), &plain);
    sandbox.write_config("plain", &config("plain", &plain, "definitions.py"));
    let _daemon = sandbox.daemon(1);
    wait_for_status(&sandbox, "plain", "a project with wheels only runs", is_healthy).await;
    assert_eq!(calls(&sandbox, "RunTask").await, 0);

    // docopt has only an sdist.
    let computed = project(&folder.path().join("computed"), "docopt", "print('building')");
    sandbox.write_config("computed", &config("computed", &computed, "computed/definitions.py"));
    let status =
        wait_for_status(&sandbox, "computed", "a project that computes its dependencies runs", is_healthy).await;
    let text = status.to_string();
    assert!(text.contains("codeloc built in isolation: sdist: docopt"), "{text}");
    // The project, and then the sdist that it needs.
    assert_eq!(calls(&sandbox, "RunTask").await, 2);
    assert_eq!(calls(&sandbox, "DeregisterTaskDefinition").await, 2);
    assert!(build_log(&sandbox, "computed").await.contains("building"));

    // The same commit of another location is built again: a location never uses what the code of another one made.
    sandbox.write_config("again", &config("again", &computed, "computed/definitions.py"));
    wait_for_status(&sandbox, "again", "the other location runs", is_healthy).await;
    assert_eq!(calls(&sandbox, "RunTask").await, 4);
}

/// Looks for everything that a build must not reach, and prints what it finds.
const ATTACK: &str = r#"
    import glob, socket, subprocess, urllib.request
    print("BEGIN")
    print("ENV", sorted(name for name in os.environ if name.startswith(("AWS", "ECS", "CODELOC", "SANDBOX", "UV_INDEX_"))))
    for path in ["/etc/shadow", "/root/.ssh", "WORK", "STATE/codeloc.yml", "STATE/repos", "/proc/1/environ", "/proc/1/root/etc/shadow"]:
        try:
            found = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()
            print("READ", path, len(found))
        except OSError:
            pass
    for port in [CLOUD, API]:
        try:
            socket.create_connection(("127.0.0.1", port), 2)
            print("CONNECTED", port)
        except OSError:
            pass
        for url in [f"http://127.0.0.1:{port}/v1/locations", f"http://localhost:{port}/dagster-platform?list-type=2",
                    f"http://127.0.0.1:{port}/dagster-platform/codeloc/codeloc-local/lease.json", f"http://[::ffff:127.0.0.1]:{port}/"]:
            try:
                print("FETCHED", url, urllib.request.urlopen(url, timeout=5).read(100))
            except OSError:
                pass
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            if b"X-Amz-Signature" in open(path, "rb").read():
                print("READ the URLs in", path)
        except OSError:
            pass
    children = []
    try:
        while len(children) < 5000:
            children.append(subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    except OSError:
        pass
    print("CHILDREN", "bounded" if len(children) < 5000 else "unbounded")
    for child in children: child.kill()
    print("END")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_build_obtains_nothing_and_delays_no_other() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = start(folder.path()).await;
    let settings = folder.path().join("codeloc.yml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace("build:\n", "build:\n  isolated_minutes: 1\n") + "  builds: 1\n").unwrap();

    let state = folder.path().display().to_string();
    let attack = ATTACK
        .replace("WORK", &format!("{state}/work"))
        .replace("STATE", &state)
        .replace("CLOUD", &sandbox.cloud_port().to_string())
        .replace("API", &sandbox.codeloc_port().to_string());
    let endless = "import time\n    while True: time.sleep(1)";
    let full = "with open('/work/zeros', 'wb') as file:\n        while True: file.write(bytes(1 << 20))";
    let escape = "EXTRA['../../../../opt/codeloc/env/bin/python'] = 'exit 1'";
    for (name, attack) in [("curious", attack.trim_start()), ("endless", endless), ("full", full), ("escape", escape)] {
        let url = project(&folder.path().join(name), "dagster", attack);
        sandbox.write_config(name, &config(name, &url, "computed/definitions.py"));
    }
    let good = project(&folder.path().join("good"), "dagster", "pass");
    sandbox.write_config("good", &config("good", &good, "computed/definitions.py"));
    let _daemon = sandbox.daemon(1);

    wait_for_status(&sandbox, "good", "the good location runs", is_healthy).await;
    let log = wait_for("the attack has ended", 200, || async {
        let log = build_log(&sandbox, "curious").await;
        if log.contains("END\n") { Ok(log) } else { Err(log) }
    })
    .await;
    assert!(log.contains("ENV []\n") && log.contains("CHILDREN bounded\n"), "{log}");
    for leak in ["READ", "CONNECTED", "FETCHED"] {
        assert!(!log.contains(leak), "{log}");
    }
    let failed = |status: &Value| status["health"] == "Degraded";
    let late = wait_for_status(&sandbox, "endless", "the endless build is ended", failed).await;
    assert!(late["message"].as_str().unwrap().contains("takes longer than 1 min (build.isolated_minutes)"), "{late}");
    let full = wait_for_status(&sandbox, "full", "the build that fills the disk fails", failed).await;
    assert!(full["message"].as_str().unwrap().contains("No space left on device"), "{full}");
    let escape = wait_for_status(&sandbox, "escape", "the archive is refused", failed).await;
    assert!(escape["message"].as_str().unwrap().contains("../../../../opt/codeloc/env/bin/python"), "{escape}");
}

/// `codeloc build` of a repository, with caches in `folder`.
fn build(folder: &Path, repository: &str, more: &[&str]) -> std::process::Output {
    let root = root();
    let mut codeloc = command(binary("codeloc"));
    codeloc.args(["build", repository, "--load"]).args(more);
    codeloc.args(["--build-uv", root.join(".local/tools/bin/uv").to_str().unwrap()]);
    codeloc.args(["--build-compile-python", root.join(".local/dagster/bin/python").to_str().unwrap()]);
    codeloc.arg("--build-work-folder").arg(folder.join("cache"));
    codeloc.output().unwrap()
}

#[test]
fn a_laptop_builds_and_loads_a_repository_without_aws() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let repository = project(&folder.path().join("computed"), "docopt", "pass");
    let layout = folder.path().join("layout");
    let code = ["--python-file", "computed/definitions.py"];
    let built = build(folder.path(), &repository, &[&code[..], &["--output", layout.to_str().unwrap()]].concat());
    let (shown, steps) = (stdout(&built), stderr(&built));
    assert!(built.status.success(), "{shown}{steps}");
    for line in [
        "code        computed/definitions.py",
        "packages    pyproject.toml",
        "isolated    pyproject.toml: it says `dynamic = [\"dependencies\"]`",
        "note        codeloc built in isolation: sdist: docopt 0.6.2",
        "layer       dependencies: ",
        "assets      hello\n",
    ] {
        assert!(shown.contains(line), "no `{line}` in\n{shown}{steps}");
    }
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    assert!(shown.contains(&format!("built       {digest} in ")), "{shown}");
    let manifest = std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let hex = blob["digest"].as_str().unwrap().trim_start_matches("sha256:");
        let size = std::fs::metadata(layout.join("blobs/sha256").join(hex)).unwrap().len();
        assert_eq!(Some(size), blob["size"].as_u64());
    }

    let broken = format!("{CODE}\n\ndef fail():\n    raise RuntimeError('broken on purpose')\n\nfail()\n");
    let repository = self::repository(
        &folder.path().join("broken"),
        &[("requirements.txt", "dagster\n"), ("definitions.py", &broken)],
    );
    let failed = build(folder.path(), &repository, &[]);
    let text = stderr(&failed);
    assert_eq!(failed.status.code(), Some(1), "{text}");
    for part in [
        "the code server does not load the definitions",
        "line 13, in <module>",
        "line 11, in fail",
        "RuntimeError: broken on purpose",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }

    let refused = build(
        folder.path(),
        &self::repository(&folder.path().join("piped"), &[("Pipfile", ""), ("definitions.py", CODE)]),
        &[],
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("codeloc does not read Pipfile"), "{}", stderr(&refused));
}

/// A package index with one package, `dbt-core`, whose `dbt` does what the tests need of the real one. Prints its port.
const DBT_INDEX: &str = r#"
import hashlib, http.server, os, zipfile
DBT = """
import json, os, sys
def main():
    project = open("dbt_project.yml").read()
    if sys.argv[1] == "deps":
        os.makedirs("dbt_packages/shared")
        open("dbt_packages/shared/dbt_project.yml", "w").write("name: shared")
    else:
        assert os.path.exists("dbt_packages/shared"), "dbt deps did not run"
        os.makedirs("target")
        json.dump({"models": project.split()[1:]}, open("target/manifest.json", "w"))
"""
os.makedirs("simple/dbt-core")
wheel, info = "simple/dbt-core/dbt_core-1.10.0-py3-none-any.whl", "dbt_core-1.10.0.dist-info"
files = {
    "dbt_cli.py": DBT,
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: dbt-core\nVersion: 1.10.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/entry_points.txt": "[console_scripts]\ndbt = dbt_cli:main\n",
}
files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
with zipfile.ZipFile(wheel, "w") as archive:
    for path, text in files.items():
        archive.writestr(path, text)
name, digest = os.path.basename(wheel), hashlib.sha256(open(wheel, "rb").read()).hexdigest()
open("simple/dbt-core/index.html", "w").write(f'<a href="{name}#sha256={digest}">{name}</a>')
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

#[test]
fn a_dbt_project_without_a_manifest_is_prepared_in_isolation() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut index = command(root().join(".local/dagster/bin/python"));
    index.args(["-c", DBT_INDEX]).current_dir(folder.path()).stdout(std::process::Stdio::piped());
    let mut index = Process(index.stderr(std::process::Stdio::null()).spawn().unwrap());
    let mut port = String::new();
    BufReader::new(index.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let code = "import json, pathlib\nimport dagster as dg\n\n\
                MANIFEST = pathlib.Path(__file__).parent.parent / 'warehouse/target/manifest.json'\n\
                models = json.loads(MANIFEST.read_text())['models']\n\
                defs = dg.Definitions(assets=[dg.AssetSpec(model) for model in models])\n";
    let repository = repository(
        &folder.path().join("shop"),
        &[
            ("requirements.txt", "dagster\ndbt-core==1.10.0\n"),
            ("shop/definitions.py", code),
            ("warehouse/dbt_project.yml", "models: orders customers\n"),
            ("warehouse/packages.yml", "packages: []\n"),
        ],
    );
    let indexes = format!("{{local: 'http://127.0.0.1:{}/simple'}}", port.trim());
    let built = build(folder.path(), &repository, &["--build-indexes", &indexes]);
    let (shown, steps) = (stdout(&built), stderr(&built));
    assert!(built.status.success(), "{shown}{steps}");
    assert!(shown.contains("assets      customers, orders\n"), "{shown}{steps}");
    assert!(steps.contains("command: cd 'warehouse' && if [ -f packages.yml ]"), "{shown}{steps}");
}

/// Ends with its guard.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
