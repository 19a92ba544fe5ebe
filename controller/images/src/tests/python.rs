//! Builds with the real uv and small wheels. Without uv, the tests print `SKIPPED` and check nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{BuildSettings, CODE, Repository, TestBuilder, TestRegistry, config, digest, layer, tar_of_layer};
use crate::error::{expect_terminal, expect_transient};
use crate::{Platform, Request};

pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// From `CODELOC_UV`, the tools that `make prepare` installs, or `PATH`.
pub(super) fn uv() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.local/tools/bin/uv");
    let found = std::env::var_os("CODELOC_UV")
        .map(PathBuf::from)
        .or_else(|| tools.is_file().then_some(tools))
        .or_else(|| on_path("uv"));
    if found.is_none() {
        eprintln!("SKIPPED: uv is not installed; set CODELOC_UV or run `make prepare`");
    }
    found
}

pub(super) fn python() -> PathBuf {
    let python = on_path("python3").expect("tests of packages need python3 on the PATH");
    let output = Command::new(&python).args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn is_bytecode(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "pyc")
}

pub(super) fn python_minor() -> String {
    let output =
        Command::new(python()).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The Python function `wheel`, which writes a wheel into the current folder.
const WHEEL: &str = r"
import io, tarfile, zipfile
def wheel(name, version, files, metadata=''):
    info = f'{name}-{version}.dist-info'
    files = dict(files)
    files[f'{info}/METADATA'] = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}'
    files[f'{info}/WHEEL'] = 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    record = ''.join(f'{path},,\n' for path in files)
    files[f'{info}/RECORD'] = record + f'{info}/RECORD,,\n'
    with zipfile.ZipFile(f'{name}-{version}-py3-none-any.whl', 'w') as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), text)
";

/// A folder of packages that a Python script creates with `wheel`.
pub(super) fn wheels_from_script(script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(python()).current_dir(folder.path()).args(["-c", &format!("{WHEEL}{script}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// Two wheels (one with a console script, one that requires the other), two with an equal path, and a package without a
/// wheel.
pub(super) fn wheels() -> tempfile::TempDir {
    wheels_from_script(
        r#"
for version in ('1.0', '2.0'):
    wheel('tiny', version, {'tiny/__init__.py': f'version = "{version}"\nnames = frozenset({{"a", "b", "c"}})\n',
                            f'tiny-{version}.dist-info/entry_points.txt': '[console_scripts]\ntiny = tiny:main\n'})
wheel('needy', '1.0', {'needy.py': 'import tiny\n', 'needy_template/broken.py': 'def {{ name }}(:\n'}, 'Requires-Dist: tiny\n')
# Two with an equal path.
for name in ('shared_one', 'shared_two'):
    wheel(name, '1.0', {'shared/__init__.py': f'by = "{name}"\n', f'shared/{name}.py': ''})
with tarfile.open('sourceonly-1.0.tar.gz', 'w:gz') as archive:
    text = b'Metadata-Version: 2.1\nName: sourceonly\nVersion: 1.0\n'
    entry = tarfile.TarInfo('sourceonly-1.0/PKG-INFO'); entry.size = len(text)
    archive.addfile(entry, io.BytesIO(text))
"#,
    )
}

/// Installs packages with uv from a folder of wheels.
pub(super) fn use_wheels(settings: &mut BuildSettings, uv: &Path, wheels: &Path) {
    settings.uv = uv.to_path_buf();
    settings.python = Some(python());
    settings.find_links = Some(wheels.to_path_buf());
}

fn builder(uv: &Path, wheels: &Path) -> TestBuilder {
    TestBuilder::with(|settings| {
        use_wheels(settings, uv, wheels);
        settings.requirements = vec!["tiny==1.0".to_owned()];
    })
}

#[tokio::test]
async fn packages_that_unpack_to_too_many_bytes_are_refused() {
    let Some(uv) = uv() else { return };
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    // 250 KB that become 256 MiB; no file alone exceeds the limit.
    let wheels = wheels_from_script(
        r"
wheel('large', '1.0', {})
with zipfile.ZipFile('large-1.0-py3-none-any.whl', 'a', zipfile.ZIP_DEFLATED) as archive:
    for number in range(64):
        archive.writestr(f'large/{number}.bin', bytes(4 << 20))
",
    );
    let builder = TestBuilder::with(|settings| {
        use_wheels(settings, &uv, wheels.path());
        settings.limits.packages = 5 << 20;
    });
    let refused = builder.build(&request(&registry, &repository, &[("requirements.txt", "large\n")])).await;
    let message = expect_terminal(refused);
    assert!(message.contains("packages have more than 5242880 bytes"), "{message}");
}

fn request(registry: &TestRegistry, repository: &Repository, files: &[(&str, &str)]) -> Request {
    repository.request(registry, &repository.commit(&[CODE.as_slice(), files].concat()))
}

#[tokio::test]
async fn equal_packages_give_an_equal_layer() {
    let Some(uv) = uv() else { return };
    let (wheels, repository) = (wheels(), Repository::new());
    let mut images = Vec::new();
    for _ in 0..2 {
        let registry = TestRegistry::start().await;
        let builder = builder(&uv, wheels.path());
        let mut request =
            request(&registry, &repository, &[("requirements.txt", &format!("needy>=1\n# {}\n", registry.host))]);
        request.python = Some(python_minor());
        let image = builder.build(&request).await.unwrap();
        let expected = [
            "fetching the commit",
            "resolving 2 requirements",
            "installing 2 packages",
            "packing the packages",
            "packing the code",
            "uploading the image",
        ];
        assert_eq!(builder.progress(), expected);
        let site = format!("opt/codeloc/env/lib/python{}/site-packages", python_minor());
        let layer = layer(&registry, &image, "dependencies");
        assert!(layer[&format!("{site}/tiny/__init__.py")].starts_with("version = \"1.0\""));
        assert_eq!(layer[&format!("{site}/needy.py")], "import tiny\n");
        let compiled: Vec<&String> = layer.keys().filter(|path| is_bytecode(path)).collect();
        assert_eq!(compiled.len(), 2, "{compiled:?}");
        for (path, content) in &layer {
            let has_builder_path = content.contains(builder.work.path().to_str().unwrap())
                || content.contains(wheels.path().to_str().unwrap());
            assert!(!has_builder_path, "{path} contains a path of the builder: {content}");
            assert!(!["/.lock", "/REQUESTED"].iter().any(|part| path.contains(part)), "{path}");
        }
        assert!(!layer[&format!("{site}/tiny-1.0.dist-info/RECORD")].contains("bin/"));
        assert!(layer["opt/codeloc/env/bin/tiny"].starts_with("#!/bin/sh\n"));
        assert_eq!(layer[&format!("{site}/codeloc.pth")], "../../../../platform\n");
        let manifest = registry.manifest("codeloc/demo", &digest(&image));
        images.push(manifest["layers"][0]["digest"].clone());

        // Another text with the same requirements neither resolves nor packs again.
        let again = request_again(&registry, &repository, &request);
        let image = builder.build(&again).await.unwrap();
        assert_eq!(builder.progress(), ["fetching the commit", "packing the code", "uploading the image"]);
        assert_eq!(registry.manifest("codeloc/demo", &digest(&image))["layers"][0]["digest"], images[images.len() - 1]);
    }
    assert_eq!(images[0], images[1]);
}

fn request_again(registry: &TestRegistry, repository: &Repository, first: &Request) -> Request {
    let mut request =
        request(registry, repository, &[("requirements.txt", &format!("needy >= 1 # again {}\n", registry.host))]);
    request.python.clone_from(&first.python);
    request
}

#[tokio::test]
async fn python_imports_a_file_that_a_later_layer_replaces() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    let mut request = request(&registry, &repository, &[]);
    request.python = Some(python_minor());
    let image = builder.build(&request).await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let layer = tar_of_layer(&registry, &image, "dependencies");
    tar::Archive::new(layer.as_slice()).unpack(root.path()).unwrap();
    let site = root.path().join(format!("opt/codeloc/env/lib/python{}/site-packages", python_minor()));
    let imported = || {
        let script = "import tiny; print(tiny.version)";
        let output = Command::new(python()).env("PYTHONPATH", &site).args(["-B", "-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(site.join("tiny/__pycache__").is_dir());
    assert_eq!(imported(), "1.0\n");

    // Another version with the same size and time.
    let file = site.join("tiny/__init__.py");
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    let text = std::fs::read_to_string(&file).unwrap().replace("1.0", "2.0");
    std::fs::write(&file, text).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    assert_eq!(imported(), "2.0\n");
}

#[tokio::test]
async fn a_dependency_file_that_is_a_link_is_read() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    std::os::unix::fs::symlink("deps/prod.txt", repository.path("requirements.txt")).unwrap();
    std::os::unix::fs::symlink("deps", repository.path("current")).unwrap();
    std::os::unix::fs::symlink("definitions.py", repository.path("pipeline/entry.py")).unwrap();
    let mut changed = request(&registry, &repository, &[("deps/prod.txt", "needy\n")]);
    changed.code = codeloc_crds::CodePointer::PythonFile("pipeline/entry.py".to_owned());
    for dependencies in [None, Some("requirements.txt"), Some("current/prod.txt")] {
        changed.dependencies = dependencies.map(str::to_owned);
        let image = builder.build(&changed).await.unwrap();
        let layer = layer(&registry, &image, "dependencies");
        assert!(layer.keys().any(|path| path.ends_with("/needy.py")), "{dependencies:?}: {layer:?}");
    }
}

#[tokio::test]
async fn images_for_this_machine_have_its_python_and_architecture() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = TestBuilder::with(|settings| {
        use_wheels(settings, &uv, wheels.path());
        settings.requirements = vec!["tiny==1.0".to_owned()];
        settings.platform = Platform::Host;
    });
    let mut request = request(&registry, &repository, &[]);
    let image = builder.build(&request).await.unwrap();
    let config = config(&registry, &image);
    assert_eq!(config["config"]["Labels"]["codeloc.python"], python_minor());
    assert_eq!(config["architecture"], if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let package = format!("opt/codeloc/env/lib/python{}/site-packages/tiny/__init__.py", python_minor());
    assert!(layer(&registry, &image, "dependencies").contains_key(&package));
    // A version that the config names.
    request.python = Some("3.13".to_owned());
    let image = builder.build(&request).await.unwrap();
    assert!(layer(&registry, &image, "dependencies").keys().any(|path| path.contains("/python3.13/")));
}

#[tokio::test]
async fn a_package_without_a_wheel_is_a_terminal_error() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    let text = builder.refusal(&request(&registry, &repository, &[("requirements.txt", "sourceonly\n")])).await;
    assert!(text.starts_with("cannot resolve the dependencies: sourceonly==1.0 has no wheel"), "{text}");
    let wrong = format!("needy==1.0 --hash=sha256:{}\n", "0".repeat(64));
    let text = builder.refusal(&request(&registry, &repository, &[("requirements.txt", &wrong)])).await;
    assert!(text.contains("no valid hash for needy==1.0"), "{text}");
    let project = "[project]\nname = 'x'\ndependencies = ['tiny>=2']\n";
    let mut changed = request(&registry, &repository, &[("pyproject.toml", project)]);
    changed.dependencies = Some("pyproject.toml".to_owned());
    builder.build(&changed).await.unwrap();
}

#[tokio::test]
async fn constraints_apply_to_every_dependency_file() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let constraints = wheels.path().join("constraints.txt");
    std::fs::write(&constraints, "tiny<2\n").unwrap();
    let builder = TestBuilder::with(|settings| {
        use_wheels(settings, &uv, wheels.path());
        settings.constraints = Some(constraints);
    });
    let text = builder.refusal(&request(&registry, &repository, &[("requirements.txt", "tiny>=2\n")])).await;
    assert!(text.contains("No solution found"), "{text}");
    let project = "[project]\nname = 'x'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = ['tiny>=2']\n";
    lock(&uv, wheels.path(), &repository, project);
    let text = builder.refusal(&request(&registry, &repository, &[])).await;
    assert!(text.contains("No solution found"), "{text}");
}

/// Writes `pyproject.toml` and its `uv.lock` into the repository.
pub(super) fn lock(uv: &Path, wheels: &Path, repository: &Repository, project: &str) {
    std::fs::write(repository.path("pyproject.toml"), project).unwrap();
    let output = Command::new(uv)
        .current_dir(repository.folder.path())
        .args(["lock", "--no-config", "--no-index", "--find-links"])
        .arg(wheels)
        .arg("--python")
        .arg(python())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_uv_lock_is_used_unchanged() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    let project = "[project]\nname = 'x'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = ['needy']\n";
    lock(&uv, wheels.path(), &repository, project);
    let image = builder.build(&request(&registry, &repository, &[])).await.unwrap();
    let layer = layer(&registry, &image, "dependencies");
    // The lock has 2.0. The pinned version of the base set applies only to projects without a lock.
    assert!(layer.keys().any(|path| path.contains("/tiny-2.0.dist-info/")), "{layer:?}");
    assert!(!layer.keys().any(|path| is_bytecode(path)) || python_minor() == "3.12");

    lock(
        &uv,
        wheels.path(),
        &repository,
        "[project]\nname = 'x'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = []\n",
    );
    // Packages of the platform are added to the lock.
    let image = builder.build(&request(&registry, &repository, &[])).await.unwrap();
    let packages = super::layer(&registry, &image, "dependencies");
    assert!(packages.keys().any(|path| path.contains("/tiny-1.0.dist-info/")), "{packages:?}");

    std::fs::create_dir_all(repository.path("libs/inhouse/x")).unwrap();
    std::fs::write(repository.path("libs/inhouse/pyproject.toml"), "[project]\nname = 'inhouse'\nversion = '0'\n")
        .unwrap();
    let project = "[project]\nname = 'x'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = ['needy', 'inhouse']\n\
                   [tool.uv.sources]\ninhouse = { path = 'libs/inhouse', editable = true }\n";
    lock(&uv, wheels.path(), &repository, project);
    let image = builder.build(&request(&registry, &repository, &[])).await.unwrap();
    let code = super::layer(&registry, &image, "code");
    let site = "opt/codeloc/env/lib/python3.12/site-packages";
    assert!(code[&format!("{site}/codeloc_code.pth")].contains("../../../../code/libs/inhouse\n"), "{code:?}");
    assert!(code.contains_key(&format!("{site}/inhouse-0.dist-info/METADATA")), "{code:?}");
}

/// The packages of an image by name.
fn versions(registry: &TestRegistry, image: &codeloc_core::image::Image) -> std::collections::BTreeMap<String, String> {
    let layer = layer(registry, image, "dependencies");
    let folders = layer.keys().filter_map(|path| path.strip_suffix(".dist-info/")?.rsplit('/').next());
    folders.filter_map(|name| name.split_once('-')).map(|(name, version)| (name.into(), version.into())).collect()
}

#[tokio::test]
async fn a_member_of_a_workspace_gets_the_versions_of_its_lock() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    let member = |name: &str, dependencies: &str, more: &str| {
        let path = repository.path(&format!("packages/{name}/pyproject.toml"));
        let text = format!(
            "[project]\nname = '{name}'\nversion = '1'\nrequires-python = '>=3.10'\ndependencies = [{dependencies}]\n{more}"
        );
        std::fs::write(path, text).unwrap();
        std::fs::write(repository.path(&format!("packages/{name}/src/{name}/__init__.py")), "").unwrap();
    };
    member(
        "app",
        "'needy', 'lib'",
        "[tool.uv.sources]\nlib = { workspace = true }\n[project.scripts]\napp = 'app:main'\n",
    );
    member("lib", "'shared-one'", "");
    std::fs::write(repository.path("packages/app/src/app/definitions.py"), "from . import x\n").unwrap();
    let root = "[project]\nname = 'root'\nversion = '0'\nrequires-python = '>=3.10'\n[tool.uv.workspace]\nmembers = ['packages/*']\n\
                [tool.uv]\nconstraint-dependencies = ['tiny==1.0']\n";
    lock(&uv, wheels.path(), &repository, root);
    let commit = repository.commit(&CODE);
    for (subdirectory, file, code) in [
        (Some("packages/app"), "src/app/definitions.py", "code/src"),
        (None, "packages/app/src/app/definitions.py", "code/packages/app/src"),
    ] {
        let mut request = repository.request(&registry, &commit);
        request.subdirectory = subdirectory.map(str::to_owned);
        request.code = codeloc_crds::CodePointer::PythonFile(file.to_owned());
        let image = builder.build(&request).await.unwrap();
        assert_eq!(image.load.target, codeloc_core::image::LoadTarget::Module("app.definitions".to_owned()));
        let expected = [("needy", "1.0"), ("shared_one", "1.0"), ("tiny", "1.0")];
        assert_eq!(versions(&registry, &image), expected.map(|(name, version)| (name.into(), version.into())).into());
        let layer = layer(&registry, &image, "code");
        let site = "opt/codeloc/env/lib/python3.12/site-packages";
        let folders = &layer[&format!("{site}/codeloc_code.pth")];
        assert!(folders.starts_with(&format!("../../../../{code}\n")), "{folders}");
        let lib = folders.lines().find(|line| line.ends_with("lib/src")).unwrap();
        let lib = format!("opt/codeloc/{}/lib/__init__.py", lib.trim_start_matches("../../../../"));
        assert!(layer.contains_key(&lib), "{lib} {layer:?}");
        assert!(layer.contains_key(&format!("{site}/lib-1.dist-info/METADATA")), "{layer:?}");
        assert!(layer["opt/codeloc/env/bin/app"].contains("from app import main"), "{layer:?}");
    }
}

#[tokio::test]
async fn locks_of_other_tools_fix_the_versions() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = TestBuilder::with(|settings| use_wheels(settings, &uv, wheels.path()));
    let project = ("pyproject.toml", "[project]\nname = 'x'\nversion = '1'\ndependencies = ['tiny']\n");
    let poetry = (
        "[tool.poetry]\nname = 'x'\nversion = '1'\n[tool.poetry.dependencies]\npython = '^3.10'\ntiny = '*'\n",
        "poetry.lock",
    );
    let pin = "[[package]]\nname = \"tiny\"\nversion = \"1.0\"\n";
    let pipfile = "{\"default\": {\"tiny\": {\"version\": \"==1.0\"}}}";
    for files in [
        vec![project, ("poetry.lock", pin)],
        vec![("pyproject.toml", poetry.0), (poetry.1, pin)],
        vec![project, ("pdm.lock", pin)],
        vec![project, ("Pipfile.lock", pipfile)],
        vec![
            project,
            ("requirements.txt", "\u{feff}-r base.txt\n-c pins.txt\n"),
            ("base.txt", "tiny"),
            ("pins.txt", "tiny<2\n"),
        ],
        vec![("setup.py", "from setuptools import setup\nsetup(name='x', install_requires=['tiny<2'])\n")],
        vec![(
            "pyproject.toml",
            "[project]\nname = 'x'\nversion = '1'\ndependencies = ['tiny']\n[tool.uv]\nconstraint-dependencies = ['tiny<2']\n",
        )],
        vec![("requirements.in", "tiny<2\n")],
    ] {
        repository.git(&["rm", "-r", "-f", "--quiet", "--ignore-unmatch", "."]);
        let image = builder.build(&request(&registry, &repository, &files)).await.unwrap();
        assert_eq!(versions(&registry, &image)["tiny"], "1.0", "{files:?}");
    }
}

#[tokio::test]
async fn a_file_of_requirements_for_something_else_does_no_harm() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = TestBuilder::with(|settings| use_wheels(settings, &uv, wheels.path()));
    let project = |line: &str| format!("[project]\nname = 'x'\nversion = '1'\ndependencies = ['{line}']\n");
    let both = [("requirements.txt", "shared-one\n"), ("pyproject.toml", &project("tiny<2"))];
    let image = builder.build(&request(&registry, &repository, &both)).await.unwrap();
    assert_eq!(versions(&registry, &image).keys().collect::<Vec<_>>(), ["shared_one", "tiny"]);
    // An image without a package that the project needs would fail later.
    let unbuilt = [("requirements.txt", "tiny\n"), ("pyproject.toml", &project("sourceonly"))];
    let text = builder.refusal(&request(&registry, &repository, &unbuilt)).await;
    assert!(text.contains("sourceonly==1.0 has no wheel"), "{text}");
    // Without a solution for both, the file of requirements counts.
    let conflict = [("requirements.txt", "tiny==1.0\n"), ("pyproject.toml", &project("tiny>=2"))];
    let image = builder.build(&request(&registry, &repository, &conflict)).await.unwrap();
    assert_eq!(versions(&registry, &image)["tiny"], "1.0");
}

#[tokio::test]
async fn a_pylock_of_uv_is_used_unchanged() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    let files = [("requirements.txt", "needy\n")];
    repository.commit(&files);
    let links = wheels.path().to_str().unwrap();
    let output = Command::new(&uv)
        .current_dir(repository.folder.path())
        .args(["pip", "compile", "requirements.txt", "--no-config", "--no-index", "--find-links", links])
        .args(["--generate-hashes", "--output-file", "pylock.toml", "--python"])
        .arg(python())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let image = builder.build(&request(&registry, &repository, &[])).await.unwrap();
    let layer = layer(&registry, &image, "dependencies");
    // The pinned version of the base set, 1.0, applies only to projects without a lock.
    assert!(layer.keys().any(|path| path.contains("/tiny-2.0.dist-info/")), "{layer:?}");

    let only = "lock-version = '1.0'\n[[packages]]\nname = 'needy'\nversion = '1.0'\nwheels = [{ hashes = { sha256 = '15' } }]\n";
    let text = builder.refusal(&request(&registry, &repository, &[("pylock.toml", only)])).await;
    assert!(text.contains("--hash needs sha256"), "{text}");
    let needy = std::fs::read(wheels.path().join("needy-1.0-py3-none-any.whl")).unwrap();
    let only = only.replace("'15'", &format!("'{}'", crate::digest::sha256_hex(needy)));
    let image = builder.build(&request(&registry, &repository, &[("pylock.toml", &only)])).await.unwrap();
    let packages = super::layer(&registry, &image, "dependencies");
    assert!(packages.keys().any(|path| path.contains("/tiny-1.0.dist-info/")), "{packages:?}");
}

#[tokio::test]
async fn an_unreachable_index_is_transient_and_its_password_is_hidden() {
    let Some(uv) = uv() else { return };
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let builder = TestBuilder::with(|settings| {
        settings.uv = uv;
        settings.python = Some(python());
        settings.index_url = Some("http://user:secret@127.0.0.1:1/simple".to_owned());
    });
    let request = request(&registry, &repository, &[("requirements.txt", "tiny\n")]);
    let text = expect_transient(builder.build(&request).await);
    assert!(text.contains("127.0.0.1:1") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_project_with_a_build_backend_is_resolved_without_running_it() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let builder = builder(&uv, wheels.path());
    let marker = wheels.path().join("marker");
    let code = format!("open({marker:?}, 'w')\n");
    let project = "[project]\nname = 'pipeline'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = ['needy']\n\
                   [build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n";
    lock(&uv, wheels.path(), &repository, project);
    let hostile = [("backend.py", code.as_str()), ("setup.py", &code), ("sitecustomize.py", &code)];
    let locked = request(&registry, &repository, &hostile);
    builder.build(&locked).await.unwrap();
    let mut resolved = locked;
    resolved.dependencies = Some("pyproject.toml".to_owned());
    builder.build(&resolved).await.unwrap();
    assert!(!marker.exists());
}
