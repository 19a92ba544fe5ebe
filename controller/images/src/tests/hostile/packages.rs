//! Locks and wheels that mean harm, with the real uv. Without it they say so and prove nothing.

use std::path::Path;
use std::process::Command;

use super::super::python::{python, uv, wheels};
use super::super::{BuildError, CODE, Repository, TestRegistry, Workshop, layer};
use super::Evil;
use crate::Limits;

/// Wheels that no honest tool writes, in a folder.
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
async fn hostile_wheels_are_refused_or_come_to_nothing_and_a_good_one_is_installed_afterwards() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    add_hostile_wheels(wheels.path());
    let workshop = Workshop::with(|settings| {
        settings.uv = uv;
        settings.python = Some(python());
        settings.find_links = Some(wheels.path().to_path_buf());
        settings.limits = Limits { packages: 64 << 20, ..Limits::default() };
    });
    // The name, and what the refusal says; nothing where the wheel is taken and does no harm.
    for (name, why) in [
        ("bomb", Some("a package holds a file of more than 67108864 bytes")),
        ("bombs", Some("the packages have more than 67108864 bytes")),
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
        request.python = super::super::python::python_minor();
        match (workshop.build(&request).await, why) {
            (Err(BuildError::Terminal(text)), Some(why)) => assert!(text.contains(why), "{name}: {text}"),
            (Ok(image), None) => {
                let site = format!("opt/codeloc/env/lib/python{}/site-packages/", request.python);
                for (path, content) in layer(&registry, &image, "dependencies") {
                    let inside = path.starts_with(&site) || site.starts_with(&path);
                    let plain = !path.contains("..") && !path.contains("/bin/") && !content.starts_with("-> ");
                    assert!(inside && plain, "{name}: {path} {content}");
                }
            }
            (Err(BuildError::Terminal(text) | BuildError::Transient(text)), None) if name != "needy" => {
                // Newer releases of uv refuse more than older ones.
                assert!(text.starts_with("cannot ") || text.starts_with("a package holds "), "{name}: {text}");
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
    assert!(!wheels.path().join("marker").exists(), "something ran");
    assert!(!Path::new("/tmp/codeloc-rooted-by-a-wheel").exists());
    let climbed = Command::new("find").arg(workshop.work.path()).args(["-name", "climbed"]).output().unwrap();
    assert!(climbed.stdout.is_empty(), "{}", String::from_utf8_lossy(&climbed.stdout));
}

#[tokio::test]
async fn a_lock_that_names_other_servers_is_read_without_asking_them() {
    let Some(uv) = uv() else { return };
    let (registry, wheels, repository, evil) =
        (TestRegistry::start().await, wheels(), Repository::new(), Evil::start());
    let hash = {
        let wheel = std::fs::read(wheels.path().join("tiny-1.0-py3-none-any.whl")).unwrap();
        super::super::super::registry::sha256(&wheel)
    };
    let workshop = Workshop::with(|settings| {
        settings.uv = uv;
        settings.python = Some(python());
        settings.find_links = Some(wheels.path().to_path_buf());
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
        workshop.build(&repository.request(&registry, &commit)).await
    };

    // The operator's index has the very same file.
    let index = format!("registry = \"{url}/simple\"");
    let options =
        format!("[tool.uv]\nindex-url = '{url}/simple'\n[[tool.uv.index]]\nname = 'evil'\nurl = '{url}/simple'\n");
    build(&lock(&index, &hash), &options).await.unwrap();
    // It has another file under that name.
    let other = format!("sha256:{}", "0".repeat(64));
    let Err(BuildError::Terminal(text)) = build(&lock(&index, &other), "").await else { panic!("installed") };
    assert!(text.contains("no hash for tiny==1.0"), "{text}");
    for source in [
        format!("url = \"{url}/tiny-1.0-py3-none-any.whl\""),
        "git = \"https://me:hunter2@evil.example/tiny?rev=main#1111111111111111111111111111111111111111\"".to_owned(),
        "path = \"../../../tiny-1.0-py3-none-any.whl\"".to_owned(),
        "editable = \"../../..\"".to_owned(),
    ] {
        let Err(BuildError::Terminal(text)) = build(&lock(&source, &hash), "").await else { panic!("{source}") };
        assert!(text.contains("uv.lock") && !text.contains("hunter2"), "{source}: {text}");
    }
    // Members of a workspace that lie elsewhere.
    let workspace = "[tool.uv.workspace]\nmembers = ['../../../*']\n";
    let outside = build(&lock(&index, &hash), workspace).await;
    assert!(!matches!(&outside, Err(BuildError::Transient(_))), "{outside:?}");
    assert!(!evil.was_asked());
}
