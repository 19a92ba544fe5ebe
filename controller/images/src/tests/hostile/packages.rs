//! Hostile locks and wheels with the real uv. Without uv, the tests print `SKIPPED` and check nothing.

use std::path::Path;
use std::process::Command;

use super::super::python::{python, python_minor, use_wheels, uv, wheels};
use super::super::{CODE, Repository, TestBuilder, TestRegistry, layer};
use super::ForbiddenServer;
use crate::Limits;
use crate::digest::sha256_hex;
use crate::error::{BuildError, ErrorClass, expect_terminal};

/// Writes wheels that no honest tool writes into a folder.
fn add_hostile_wheels(folder: &Path) {
    let script = r#"
import zipfile
def wheel(name, files, record=''):
    info = f'{name}-1.0.dist-info'
    with zipfile.ZipFile(f'{name}-1.0-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = path if isinstance(path, zipfile.ZipInfo) else zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
        archive.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', record)
link = zipfile.ZipInfo('linked'); link.external_attr = 0o120777 << 16
wheel('bomb', {'bomb.bin': bytes(80 << 20)})
wheel('bombs', {f'bombs/{number}.bin': bytes(1 << 20) for number in range(80)})
wheel('climber', {'../../../climbed': 'x'})
wheel('rooted', {'/tmp/codeloc-rooted-by-a-wheel': 'x'})
wheel('whiteout', {'whiteout/.wh.base': ''})
wheel('linker', {link: '/etc/passwd'})
wheel('starter', {'starter.pth': "import os; open('MARKER', 'w')\n", 'sitecustomize.py': "open('MARKER', 'w')\n"})
wheel('scripts', {'scripts-1.0.data/scripts/python': '#!python\n', 'scripts-1.0.data/data/bin/python': 'x', 'scripts.py': ''})
"#;
    let marker = folder.join("marker");
    let script = script.replace("MARKER", marker.to_str().unwrap());
    let output = Command::new(python()).current_dir(folder).args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn hostile_wheels_are_refused_or_harmless() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    add_hostile_wheels(wheels.path());
    let builder = TestBuilder::with(|settings| {
        use_wheels(settings, &uv, wheels.path());
        settings.limits = Limits { packages: 64 << 20, ..Limits::default() };
    });
    // The name of a wheel, and the text of its refusal or `None` if it is harmless.
    for (name, reason) in [
        ("bomb", Some("a package contains a file of more than 67108864 bytes")),
        ("bombs", Some("the installed packages have more than 67108864 bytes")),
        ("climber", None),
        ("rooted", None),
        ("whiteout", Some("whiteout/.wh.base, which would delete a file of the image")),
        ("linker", None),
        ("starter", None),
        ("scripts", None),
        ("needy", None),
    ] {
        let commit = repository.commit(&[CODE.as_slice(), &[("requirements.txt", name)]].concat());
        let mut request = repository.request(&registry, &commit);
        request.python = Some(python_minor());
        match (builder.build(&request).await, reason) {
            (Err(error), Some(reason)) => {
                assert_eq!(error.class(), ErrorClass::Terminal, "{name}: {error}");
                assert!(error.to_string().contains(reason), "{name}: {error}");
            }
            (Ok(image), None) => {
                let site = format!("opt/codeloc/env/lib/python{}/site-packages/", python_minor());
                for (path, content) in layer(&registry, &image, "dependencies") {
                    let scripts = "opt/codeloc/env/bin/";
                    let inside = path.starts_with(&site) || site.starts_with(&path) || path.starts_with(scripts);
                    let hides_the_base = path == format!("{site}.wh..wh..opq");
                    let plain =
                        hides_the_base || !path.contains("..") && !path.starts_with("opt/codeloc/env/bin/python");
                    let plain = plain && !content.starts_with("-> ");
                    assert!(inside && plain, "{name}: {path} {content}");
                }
            }
            (Err(error), None) if name != "needy" => {
                // Newer releases of uv refuse more wheels than older ones.
                let text = error.to_string();
                assert!(text.starts_with("cannot ") || text.starts_with("a package contains "), "{name}: {text}");
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
    assert!(!wheels.path().join("marker").exists(), "a program ran");
    assert!(!Path::new("/tmp/codeloc-rooted-by-a-wheel").exists());
    let climbed = Command::new("find").arg(builder.work.path()).args(["-name", "climbed"]).output().unwrap();
    assert!(climbed.stdout.is_empty(), "{}", String::from_utf8_lossy(&climbed.stdout));
}

#[tokio::test]
async fn a_lock_with_other_servers_is_read_without_contacting_them() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository, evil) =
        (TestRegistry::start().await, wheels(), Repository::new(), ForbiddenServer::start());
    let wheel = std::fs::read(wheels.path().join("tiny-1.0-py3-none-any.whl")).unwrap();
    let hash = format!("sha256:{}", sha256_hex(wheel));
    let builder = TestBuilder::with(|settings| {
        use_wheels(settings, &uv, wheels.path());
    });
    let url = evil.url();
    let project = "[project]\nname = 'x'\nversion = '0'\nrequires-python = '>=3.10'\ndependencies = ['tiny']\n";
    let lock = |source: &str, hash: &str| {
        format!(
            "version = 1\nrevision = 3\nrequires-python = \">=3.10\"\n\n[[package]]\nname = \"tiny\"\nversion = \"1.0\"\n\
             source = {{ {source} }}\nwheels = [\n    {{ url = \"{url}/tiny-1.0-py3-none-any.whl\", hash = \"{hash}\" }},\n]\n\n\
             [[package]]\nname = \"x\"\nversion = \"0\"\nsource = {{ virtual = \".\" }}\ndependencies = [{{ name = \"tiny\" }}]\n\n\
             [package.metadata]\nrequires-dist = [{{ name = \"tiny\" }}]\n"
        )
    };
    let build = async |lock: &str, more: &str| {
        let project = format!("{project}{more}");
        let files = [("pyproject.toml", project.as_str()), ("uv.lock", lock)];
        let commit = repository.commit(&[CODE.as_slice(), &files].concat());
        builder.build(&repository.request(&registry, &commit)).await
    };

    // The operator's index has the same file.
    let index = format!("registry = \"{url}/simple\"");
    let options =
        format!("[tool.uv]\nindex-url = '{url}/simple'\n[[tool.uv.index]]\nname = 'evil'\nurl = '{url}/simple'\n");
    build(&lock(&index, &hash), &options).await.unwrap();
    // The operator's index has another file with this name.
    let other = format!("sha256:{}", "0".repeat(64));
    let text = expect_terminal(build(&lock(&index, &other), "").await);
    assert!(text.contains("no valid hash for tiny==1.0"), "{text}");
    for source in [
        format!("url = \"{url}/tiny-1.0-py3-none-any.whl\""),
        "git = \"https://me:hunter2@evil.example/tiny?rev=main#1111111111111111111111111111111111111111\"".to_owned(),
        "path = \"../../../tiny-1.0-py3-none-any.whl\"".to_owned(),
        "editable = \"../../..\"".to_owned(),
    ] {
        let text = expect_terminal(build(&lock(&source, &hash), "").await);
        assert!(text.contains("uv.lock") && !text.contains("hunter2"), "{source}: {text}");
    }
    // Workspace members outside the repository.
    let workspace = "[tool.uv.workspace]\nmembers = ['../../../*']\n";
    let outside = build(&lock(&index, &hash), workspace).await;
    assert!(!outside.as_ref().is_err_and(BuildError::is_transient), "{outside:?}");
    assert!(!evil.was_contacted());
}
