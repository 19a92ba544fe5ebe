//! One commit is one manifest, whoever builds it and where.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Order;
use super::python::{python, uv, wheels};
use super::{CODE, Repository, TestRegistry, Workshop, layer};

/// What differs between two machines.
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
async fn one_commit_is_one_manifest_on_every_machine_with_cold_and_warm_caches() {
    let uv = uv();
    let (python, wheels, repository) = (python(), wheels(), Repository::new());
    let commit = repository.commit(&files(uv.is_some()));
    let mut digests: Vec<(String, String)> = Vec::new();
    for (number, machine) in MACHINES.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let copy = checkout(&repository, &folder.path().join("checkout"));
        let home = folder.path().join(machine.home);
        std::fs::create_dir_all(&home).unwrap();
        // A user's own configuration, which is nobody's business.
        std::fs::write(home.join(".gitconfig"), "[core]\n\tautocrlf = true\n\tquotePath = false\n").unwrap();
        for caches in ["cold", "warm"] {
            // Without an image to find, so that everything is packed again.
            let registry = TestRegistry::start().await;
            let order = Order {
                repository: &copy,
                packages: uv.as_deref().map(|uv| (uv, python.as_path(), wheels.path())),
                ..Order::new(&repository, &registry, &commit, folder.path())
            };
            let built = order.command();
            let mut command = tokio::process::Command::new("/bin/sh");
            command
                .args(["-c", "umask $0; exec \"$@\"", machine.umask])
                .arg(built.get_program())
                .args(built.get_args())
                .current_dir(&home)
                .env_clear()
                .envs(order.environment())
                .envs(machine.variables)
                .env("HOME", &home);
            let output = command.output().await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            digests.push((format!("machine {number}, {caches} caches"), order.digest()));
        }
    }
    let first = &digests[0].1;
    assert!(digests.iter().all(|(_, digest)| digest == first), "{digests:#?}");
}

#[tokio::test]
async fn wheels_that_ship_the_same_path_come_out_the_same_every_time() {
    let Some(uv) = uv() else { return };
    let (wheels, repository) = (wheels(), Repository::new());
    let commit = repository.commit(&files(true));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let registry = TestRegistry::start().await;
        let workshop = Workshop::with(|settings| {
            settings.uv.clone_from(&uv);
            settings.python = Some(python());
            settings.find_links = Some(wheels.path().to_path_buf());
        });
        let image = workshop.build(&repository.request(&registry, &commit)).await.unwrap();
        let packages = layer(&registry, &image, "dependencies");
        let (path, text) = packages.iter().find(|(path, _)| path.ends_with("/shared/__init__.py")).unwrap();
        seen.insert((path.clone(), text.clone(), super::digest(&image).to_owned()));
    }
    assert_eq!(seen.len(), 1, "{seen:#?}");
}
