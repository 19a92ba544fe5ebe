//! Equal commits give equal manifests on different machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use codeloc_core::ids::Digest;

use super::process::ChildBuild;
use super::python::{python, use_wheels, uv, wheels};
use super::{CODE, Repository, TestBuilder, TestRegistry, layer};

/// The differences between two machines.
struct Machine {
    home: &'static str,
    umask: &'static str,
    variables: [(&'static str, &'static str); 4],
}

const MACHINES: [Machine; 3] = [
    Machine {
        home: "home",
        umask: "0022",
        variables: [("TZ", "UTC"), ("LC_ALL", "C"), ("LANG", "C"), ("PYTHONHASHSEED", "1")],
    },
    Machine {
        home: "elsewhere/with a space",
        umask: "0077",
        variables: [
            ("TZ", "Pacific/Kiritimati"),
            ("LC_ALL", "tr_TR.UTF-8"),
            ("LANG", "de_DE.ISO-8859-1"),
            ("PYTHONHASHSEED", "2"),
        ],
    },
    Machine {
        home: "home",
        umask: "0000",
        variables: [
            ("TZ", "America/St_Johns"),
            ("LC_ALL", "ja_JP.UTF-8"),
            ("SOURCE_DATE_EPOCH", "1"),
            ("UV_CONCURRENT_INSTALLS", "50"),
        ],
    },
];

/// A copy of a repository, with other packs, times and modes.
fn checkout(repository: &Repository, to: &Path) -> PathBuf {
    let output = Command::new("git")
        .args(["clone", "--quiet", "--no-local"])
        .arg(repository.folder.path())
        .arg(to)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    to.to_owned()
}

fn files(packages: bool) -> Vec<(&'static str, &'static str)> {
    let names = [("pipeline/I.txt", "I"), ("pipeline/i.txt", "i"), ("pipeline/ı.txt", "ı"), ("pipeline/Ä b.txt", "")];
    let requirements = [("requirements.txt", "needy\nshared-one\nshared-two\n")];
    [CODE.as_slice(), &names, if packages { &requirements } else { &[] }].concat()
}

#[tokio::test]
async fn one_commit_gives_one_manifest_on_every_machine() {
    let uv = uv();
    let (python, wheels, repository) = (python(), wheels(), Repository::new());
    let commit = repository.commit(&files(uv.is_some()));
    let mut digests: Vec<(String, Digest)> = Vec::new();
    for (number, machine) in MACHINES.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let copy = checkout(&repository, &folder.path().join("checkout"));
        let home = folder.path().join(machine.home);
        std::fs::create_dir_all(&home).unwrap();
        // The git configuration of a user must have no effect.
        std::fs::write(home.join(".gitconfig"), "[core]\n\tautocrlf = true\n\tquotePath = false\n").unwrap();
        for caches in ["cold", "warm"] {
            // A new registry has no image, so everything is packed again.
            let registry = TestRegistry::start().await;
            let build = ChildBuild {
                repository: &copy,
                packages: uv.as_deref().map(|uv| (uv, python.as_path(), wheels.path())),
                ..ChildBuild::new(&repository, &registry, &commit, folder.path())
            };
            let child = build.command();
            let mut command = tokio::process::Command::new("/bin/sh");
            command
                .args(["-c", "umask $0; exec \"$@\"", machine.umask])
                .arg(child.get_program())
                .args(child.get_args())
                .current_dir(&home)
                .env_clear()
                .envs(build.environment())
                .envs(machine.variables)
                .env("HOME", &home);
            let output = command.output().await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            digests.push((format!("machine {number}, {caches} caches"), build.digest()));
        }
    }
    let first = &digests[0].1;
    assert!(digests.iter().all(|(_, digest)| digest == first), "{digests:#?}");
}

#[tokio::test]
async fn wheels_with_equal_paths_give_the_same_layer_every_time() {
    let Some(uv) = uv() else { return };
    let (wheels, repository) = (wheels(), Repository::new());
    let commit = repository.commit(&files(true));
    let mut results = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let registry = TestRegistry::start().await;
        let builder = TestBuilder::with(|settings| use_wheels(settings, &uv, wheels.path()));
        let image = builder.build(&repository.request(&registry, &commit)).await.unwrap();
        let packages = layer(&registry, &image, "dependencies");
        let (path, text) = packages.iter().find(|(path, _)| path.ends_with("/shared/__init__.py")).unwrap();
        results.insert((path.clone(), text.clone(), super::digest(&image)));
    }
    assert_eq!(results.len(), 1, "{results:#?}");
}
