//! Real tools use the pushed images: Debian's registry, skopeo, umoci and runc, and QEMU for the other architecture. If a tool
//! is not available, a test prints `SKIPPED`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use codeloc_core::dagster::Answer;
use codeloc_core::ids::Commit;
use codeloc_core::image::{Image, LoadTarget};
use codeloc_crds::Architecture;
use codeloc_dagster::CodeServer;
use codeloc_dagster::code_server::GrpcCodeServer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};

use super::python::{python, uv};
use super::{Anonymous, BuildSettings, OciBuilder, Repository, digest, git, request_for};
use crate::error::ErrorClass;
use crate::{BaseImage, Buildah, Builder, Compression};

const DEFINITIONS: &str = "import dagster\n\n\n@dagster.asset\ndef order_lines():\n    return [1]\n\n\n\
                           defs = dagster.Definitions(assets=[order_lines])\n";

const POLL: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_mins(2);

/// The folder that `tests/tools/prepare.py` prepares.
struct Tools(PathBuf);

impl Tools {
    fn prepared() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let output = Command::new(python()).arg(root.join("tests/tools/prepare.py")).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => Some(Self(root.canonicalize().unwrap().join(".local/registry-tools"))),
            Some(3) => {
                eprintln!("SKIPPED: {}", printed.trim());
                None
            }
            _ => panic!("{printed}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.0.join("bin").join(name));
        command.env("LD_LIBRARY_PATH", self.0.join("lib")).stdin(Stdio::null());
        command
    }

    /// Debian's Python in the base images, `3.11`.
    fn python(&self) -> String {
        std::fs::read_to_string(self.0.join("python")).unwrap()
    }
}

fn done(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

/// Returns the first line that contains `text`. Discards the lines after it in the background.
async fn line_with<R: AsyncRead + Unpin + Send + 'static>(mut lines: Lines<BufReader<R>>, text: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let Some(line) = lines.next_line().await.unwrap() else { panic!("ended without {text:?}: {seen:#?}") };
        if line.contains(text) {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return line;
        }
        seen.push(line);
    }
}

/// Debian's registry on a free port.
struct Registry {
    _process: tokio::process::Child,
    host: String,
}

impl Registry {
    async fn start(tools: &Tools, folder: &Path) -> Self {
        let config = folder.join("registry.yml");
        let text = json!({
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": folder.join("registry")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let mut command = tools.command("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, line_with(lines, "listening on 127.0.0.1:")).await.unwrap();
        let (_, address) = line.split_once("listening on ").unwrap();
        let host = address.split(['"', ' ']).next().unwrap().to_owned();
        Self { _process: process, host }
    }
}

/// One machine's containers.
struct Machine<'a> {
    tools: &'a Tools,
    folder: &'a Path,
    /// The name of the architecture in Debian and in images.
    name: &'static str,
    architecture: Architecture,
    /// Runs programs of another architecture.
    emulator: Option<&'static str>,
}

/// A container in runc, by name. Dropping it deletes the container.
struct Container<'a>(&'a Machine<'a>, String);

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.0.runc(&["delete", "--force", &self.1]).output();
    }
}

impl Machine<'_> {
    fn skopeo(&self, arguments: &[&str]) -> String {
        let mut skopeo = self.tools.command("skopeo");
        skopeo.env("HOME", self.folder).env("TMPDIR", self.folder).args(["--insecure-policy"]);
        done(skopeo.args(arguments))
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut runc = self.tools.command("runc");
        runc.arg("--root").arg(self.folder.join("runc")).args(arguments);
        runc
    }

    /// Pushes the base image with skopeo. Returns its reference.
    fn push_base(&self, registry: &Registry) -> String {
        let (from, name) = (self.tools.0.join("base"), format!("{}/base/python", registry.host));
        let digest = self.folder.join(format!("{}.digest", self.name));
        let to = format!("docker://{name}:{}", self.name);
        self.skopeo(&[
            "copy",
            "--dest-tls-verify=false",
            "--digestfile",
            digest.to_str().unwrap(),
            &format!("oci:{}:{}", from.display(), self.name),
            &to,
        ]);
        format!("{name}@{}", std::fs::read_to_string(digest).unwrap().trim())
    }

    /// Pulls an image with skopeo and unpacks it with umoci. Both check every digest.
    fn unpack(&self, image: &Image) -> PathBuf {
        let (layout, bundle) = (self.folder.join("layout"), self.folder.join(format!("bundle-{}", self.name)));
        let target = format!("{}:{}", layout.display(), self.name);
        let source = format!("docker://{}", image.reference);
        self.skopeo(&["copy", "--src-tls-verify=false", &source, &format!("oci:{target}")]);
        done(self.tools.command("umoci").args(["unpack", "--image", &target]).arg(&bundle));
        bundle
    }

    /// Prepares a bundle to run a program in the network of the host. Only /tmp is writable.
    fn prepare(&self, bundle: &Path, arguments: &[&str]) -> Container<'_> {
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let emulator = self.emulator.iter().copied();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = emulator.chain(arguments.iter().copied()).collect();
        config["process"]["capabilities"] = json!({});
        config["root"]["readonly"] = json!(true);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "network");
        let mounts = config["mounts"].as_array_mut().unwrap();
        if mounts.iter().all(|mount| mount["destination"] != "/tmp") {
            mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let number = config["process"]["args"].as_array().unwrap().len();
        Container(self, format!("codeloc-{}-{}-{number}", std::process::id(), self.name))
    }

    fn run(&self, bundle: &Path, arguments: &[&str]) -> Output {
        let container = self.prepare(bundle, arguments);
        self.runc(&["run", "--bundle", bundle.to_str().unwrap(), &container.1]).output().unwrap()
    }
}

/// Dagster in the versions of `make run`.
fn constraints(folder: &Path) -> PathBuf {
    let locked = include_str!("../../../../deploy/local/requirements/dagster.txt");
    let lines: Vec<&str> =
        locked.lines().filter(|line| !line.starts_with(' ')).map(|line| line.trim_end_matches(" \\")).collect();
    let path = folder.join("constraints.txt");
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn builder(tools: &Tools, folder: &Path, uv: &Path, base: String) -> OciBuilder<Anonymous> {
    let work = folder.join("build");
    let (cache, link) = (tools.0.join("uv"), work.join("uv"));
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    if !link.exists() {
        std::os::unix::fs::symlink(cache, link).unwrap();
    }
    let settings = BuildSettings {
        uv: uv.to_path_buf(),
        python: Some(python()),
        requirements: vec!["dagster".to_owned()],
        constraints: Some(constraints(folder)),
        base_image: BaseImage::Reference(base),
        // Debian's umoci knows no zstd.
        compression: Compression::Gzip,
        ..BuildSettings::new(work)
    };
    OciBuilder::new(settings, git(folder, true), Anonymous).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_tools_unpack_and_run_a_pushed_image() {
    let Some(uv) = uv() else { return };
    let Some(tools) = Tools::prepared() else { return };
    let (folder, repository) = (tempfile::tempdir().unwrap(), Repository::new());
    let registry = Registry::start(&tools, folder.path()).await;
    let files = [("pipeline/__init__.py", ""), ("pipeline/definitions.py", DEFINITIONS)];
    let commit = repository.commit(&files);
    let machine =
        |name, architecture, emulator| Machine { tools: &tools, folder: folder.path(), name, architecture, emulator };
    let machines = if cfg!(target_arch = "aarch64") {
        vec![machine("arm64", Architecture::Arm64, None)]
    } else {
        let emulator = Some("/qemu-aarch64-static");
        vec![machine("amd64", Architecture::X86_64, None), machine("arm64", Architecture::Arm64, emulator)]
    };
    for machine in &machines {
        let builder = builder(&tools, folder.path(), &uv, machine.push_base(&registry));
        let mut request = request_for(repository.folder.path().to_str().unwrap(), &registry.host, &commit);
        request.architecture = machine.architecture;
        request.python = Some(tools.python());
        let image = match builder.build(&request, &|_| ()).await {
            Ok(image) => image,
            Err(error) if error.is_transient() && error.to_string().contains("Failed to fetch") => {
                eprintln!("SKIPPED: the package index cannot be reached: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(builder.find(&request, None).await.unwrap(), Some(image.clone()));

        // skopeo reads the same image.
        let source = format!("docker://{}", image.reference);
        let inspected: Value =
            serde_json::from_str(&machine.skopeo(&["inspect", "--tls-verify=false", &source])).unwrap();
        assert_eq!((&inspected["Digest"], &inspected["Architecture"]), (&json!(digest(&image)), &json!(machine.name)));

        let bundle = machine.unpack(&image);
        let interpreter = "/opt/codeloc/env/bin/python";
        // The code server imports Dagster as well, and emulated each import takes half a minute.
        let (import, version) =
            if machine.emulator.is_some() { ("platform", "") } else { ("dagster", ", dagster.__version__") };
        let script = format!("import os, platform, {import}; print(platform.machine(), os.getuid(){version})");
        let imported = machine.run(&bundle, &[interpreter, "-c", &script]);
        let stderr = String::from_utf8_lossy(&imported.stderr);
        if !imported.status.success() && stderr.contains("runc") {
            eprintln!("SKIPPED: runc cannot run a container: {stderr}");
            return;
        }
        assert!(imported.status.success(), "{stderr}");
        let processor = if machine.name == "arm64" { "aarch64" } else { "x86_64" };
        let expected = format!("{processor} 65534{}", if machine.emulator.is_some() { "" } else { " 1.13.27" });
        assert_eq!(String::from_utf8_lossy(&imported.stdout).trim_end(), expected);

        check_code_server(machine, &bundle, &image).await;
        eprintln!("{} came from the registry, imported Dagster and served its definitions", machine.name);
    }
}

/// Writes a package into the environment of the base image of this machine, with bytecode that Python does not compare with its source.
fn push_base_with_dagster(machine: &Machine<'_>, registry: &Registry, version: &str) -> String {
    let (layout, place) =
        (machine.folder.join(format!("base-{version}")), machine.folder.join(format!("site-{version}")));
    let package = place.join("dagster");
    std::fs::create_dir_all(&package).unwrap();
    for (file, text) in [("__init__.py", format!("__version__ = '{version}'\n")), ("only_in_base.py", String::new())] {
        std::fs::write(package.join(file), text).unwrap();
    }
    // The interpreter of the image, so that it takes the bytecode.
    let minor = machine.tools.python();
    let name = format!("{}:{}", layout.display(), machine.name);
    machine.skopeo(&[
        "copy",
        &format!("oci:{}:{}", machine.tools.0.join("base").display(), machine.name),
        &format!("oci:{name}"),
    ]);
    let bundle = machine.folder.join(format!("bundle-base-{version}"));
    done(machine.tools.command("umoci").args(["unpack", "--image", &name]).arg(&bundle));
    let site = bundle.join(format!("rootfs/opt/codeloc/env/lib/python{minor}/site-packages"));
    std::fs::create_dir_all(&site).unwrap();
    done(Command::new("cp").arg("-r").arg(&package).arg(&site));
    let folder = format!("/opt/codeloc/env/lib/python{minor}/site-packages");
    let compile = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-d", &folder];
    // Python of this machine may have another minor version; then the base image has no bytecode.
    done(Command::new(python()).args(compile).arg(&site));
    done(machine.tools.command("umoci").args(["repack", "--image", &name]).arg(&bundle));
    let (digest, to) = (machine.folder.join("digest"), format!("{}/base/dagster", registry.host));
    machine.skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--digestfile",
        digest.to_str().unwrap(),
        &format!("oci:{name}"),
        &format!("docker://{to}:{version}"),
    ]);
    format!("{to}@{}", std::fs::read_to_string(digest).unwrap().trim())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_location_runs_its_own_dagster_on_any_base_image() {
    let Some(uv) = uv() else { return };
    let Some(tools) = Tools::prepared() else { return };
    let (folder, repository) = (tempfile::tempdir().unwrap(), Repository::new());
    let registry = Registry::start(&tools, folder.path()).await;
    let (name, architecture) =
        if cfg!(target_arch = "aarch64") { ("arm64", Architecture::Arm64) } else { ("amd64", Architecture::X86_64) };
    let machine = Machine { tools: &tools, folder: folder.path(), name, architecture, emulator: None };
    let wheels = super::python::wheels_from_script(
        "wheel('dagster', '1.12.0', {'dagster/__init__.py': '__version__ = \"1.12.0\"\\n', 'dagster/__main__.py': \
         'import dagster; print(dagster.__version__, dagster.__file__)\\n'})\n",
    );
    let files = [
        ("definitions.py", ""),
        ("types.py", "raise SystemExit('shadowed')\n"),
        ("dagster/__init__.py", "raise SystemExit\n"),
    ];
    let commit = repository.commit(&files);
    for version in ["1.11.9", "1.12.0", "1.13.27"] {
        let base = push_base_with_dagster(&machine, &registry, version);
        let settings = BuildSettings {
            uv: uv.clone(),
            python: Some(python()),
            find_links: Some(wheels.path().to_path_buf()),
            requirements: vec!["dagster".to_owned()],
            base_image: BaseImage::Reference(base),
            compression: Compression::Gzip,
            ..BuildSettings::new(folder.path().join(format!("build-{version}")))
        };
        let builder = OciBuilder::new(settings, git(folder.path(), true), Anonymous).unwrap();
        let mut request = request_for(repository.folder.path().to_str().unwrap(), &registry.host, &commit);
        request.code = codeloc_crds::CodePointer::PythonFile("definitions.py".to_owned());
        request.architecture = architecture;
        request.python = Some(tools.python());
        let image = builder.build(&request, &|_| ()).await.unwrap();
        let bundle = machine.unpack(&image);
        let shown = machine.run(&bundle, &["/opt/codeloc/env/bin/python", "-m", "dagster"]);
        let stderr = String::from_utf8_lossy(&shown.stderr);
        if !shown.status.success() && stderr.contains("runc") {
            eprintln!("SKIPPED: runc cannot run a container: {stderr}");
            return;
        }
        let site = format!("/opt/codeloc/env/lib/python{}/site-packages", tools.python());
        assert_eq!(
            String::from_utf8_lossy(&shown.stdout).trim_end(),
            format!("1.12.0 {site}/dagster/__init__.py"),
            "on a base image with {version}: {stderr}"
        );
        let absent = machine.run(&bundle, &["/opt/codeloc/env/bin/python", "-c", "import dagster.only_in_base"]);
        assert!(
            String::from_utf8_lossy(&absent.stderr).contains("No module named 'dagster.only_in_base'"),
            "{absent:?}"
        );
        std::fs::remove_dir_all(&bundle).unwrap();
    }
}

/// Checks that the code server of an image answers with the user's definitions.
async fn check_code_server(machine: &Machine<'_>, bundle: &Path, image: &Image) {
    let LoadTarget::Module(module) = &image.load.target else { panic!("{image:?}") };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let port = address.port().to_string();
    let container = machine.prepare(
        bundle,
        &[
            "/opt/codeloc/env/bin/python",
            "-m",
            "dagster",
            "api",
            "grpc",
            "--module-name",
            module,
            "--working-directory",
            &image.load.working_directory,
            "--host",
            "127.0.0.1",
            "--port",
            &port,
        ],
    );
    let mut runc = machine.runc(&["run", "--bundle", bundle.to_str().unwrap(), &container.1]);
    runc.stdout(Stdio::null());
    let mut server = tokio::process::Command::from(runc).kill_on_drop(true).spawn().unwrap();
    // Emulated, Dagster takes half a minute to come up.
    let loaded = async {
        let (mut polls, code_server) = (tokio::time::interval(POLL), GrpcCodeServer::new(PATIENCE));
        loop {
            polls.tick().await;
            if let answer @ (Answer::Loaded { .. } | Answer::LoadError { .. }) = code_server.ask(address).await {
                break answer;
            }
        }
    };
    let answer = tokio::select! {
        answer = tokio::time::timeout(PATIENCE, loaded) => answer.expect("the code server does not answer in time"),
        ended = server.wait() => panic!("the code server ended: {ended:?}"),
    };
    let Answer::Loaded { repositories, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(repositories, ["__repository__"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah_builds_a_dockerfile_without_the_controllers_environment() {
    let Some(tools) = Tools::prepared() else { return };
    let (folder, repository) = (tempfile::tempdir().unwrap(), Repository::new());
    let registry = Registry::start(&tools, folder.path()).await;
    let own = if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::X86_64 };
    let name = if own == Architecture::Arm64 { "arm64" } else { "amd64" };
    let machine = Machine { tools: &tools, folder: folder.path(), name, architecture: own, emulator: None };
    let base = machine.push_base(&registry);
    let dockerfile = |script: &str| {
        format!(
            "FROM {base}\nUSER 0:0\nCOPY pipeline /opt/codeloc/code/pipeline\n\
             RUN [\"/opt/codeloc/env/bin/python\", \"-c\", \"{script}\"]\nUSER 65534:65534\n"
        )
    };
    let good = dockerfile("import os; open('/opt/seen', 'w').write(' '.join(sorted(os.environ)))");
    let files = [("pipeline/definitions.py", "x = 1\n"), ("Dockerfile", &good)];
    let settings = BuildSettings::new(folder.path().join("build"));
    let builder = OciBuilder::new(settings, git(folder.path(), true), Anonymous).unwrap();
    let buildah =
        Buildah::new(&tools.0.join("bin/buildah"), &folder.path().join("build"), Duration::from_hours(1)).unwrap();
    let builder = builder.with_dockerfiles(buildah);
    let request_for = |commit: &Commit| {
        let mut request = request_for(repository.folder.path().to_str().unwrap(), &registry.host, commit);
        request.architecture = machine.architecture;
        request.dockerfile = Some("Dockerfile".to_owned());
        request
    };
    let request = request_for(&repository.commit(&files));
    let image = match builder.build(&request, &|_| ()).await {
        Err(error) if !error.is_transient() && error.to_string().contains("operation not permitted") => {
            eprintln!("SKIPPED: buildah may not build on this machine: {error}");
            return;
        }
        image => image.unwrap(),
    };
    assert_eq!(builder.find(&request, None).await.unwrap(), Some(image.clone()));
    let root = machine.unpack(&image).join("rootfs/opt");
    assert_eq!(std::fs::read_to_string(root.join("codeloc/code/pipeline/definitions.py")).unwrap(), "x = 1\n");
    let variables = std::fs::read_to_string(root.join("seen")).unwrap();
    assert!(!variables.is_empty() && !variables.contains("CARGO") && !variables.contains("AWS"), "{variables}");

    let broken = dockerfile("raise SystemExit('no such luck')");
    let request = request_for(&repository.commit(&[("Dockerfile", broken.as_str())]));
    let error = builder.build(&request, &|_| ()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Dockerfile, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("buildah cannot build Dockerfile: ") && text.contains("no such luck"), "{text}");
}
