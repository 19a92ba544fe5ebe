//! A process that is killed at any step of a build leaves nothing that stops the next.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::process::Order;
use super::python::{python, uv, wheels};
use super::registry::Fault;
use super::{Anonymous, CODE, Repository, TestRegistry, Workshop, digest, git};
use crate::{BuildSettings, Builder, OciBuilder};

#[tokio::test]
async fn a_process_that_is_killed_at_any_request_leaves_nothing_that_stops_the_next() {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let commit = repository.commit(&CODE);
    let image = Workshop::new().build(&repository.request(&registry, &commit)).await.unwrap();
    for number in 1..=registry.requests().len() {
        let (registry, work) = (TestRegistry::start().await, tempfile::tempdir().unwrap());
        let process: Arc<Mutex<Option<Pid>>> = Arc::default();
        let killed = process.clone();
        registry.trouble(move |asked| {
            (asked.number == number).then(|| {
                kill_process(killed.lock().unwrap().unwrap(), Signal::KILL).unwrap();
                Fault::CutAfter
            })
        });
        let order = Order::new(&repository, &registry, &commit, work.path());
        let mut command = tokio::process::Command::from(order.command());
        command.stdout(std::process::Stdio::null());
        let mut child = {
            // Held until the child is known, so that its first request finds it.
            let mut process = process.lock().unwrap();
            let child = command.spawn().unwrap();
            *process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            child
        };
        assert_eq!(child.wait().await.unwrap().signal(), Some(9), "request {number}");
        registry.no_more_trouble();
        assert_eq!(after(&order).await, digest(&image), "request {number}");
    }
}

/// Builds here with what the process left in its work folder.
async fn after(order: &Order<'_>) -> String {
    let mut settings = BuildSettings::new(order.work.join("build"));
    if let Some((_, python, wheels)) = order.packages {
        settings.uv = uv().unwrap();
        settings.python = Some(python.to_owned());
        settings.find_links = Some(wheels.to_owned());
    }
    let builder = OciBuilder::new(settings, git(order.work, true), Anonymous).unwrap();
    let image = builder.build(&order.request(), &|_| ()).await.unwrap();
    digest(&image).to_owned()
}

/// A program that counts its calls, and kills its caller at the one that `kill` names (`before 3`).
///
/// Each call adds a line to `count`: a call that is itself killed at any moment leaves the count of the others whole.
fn deadly(folder: &Path, name: &str, program: &Path) {
    let (folder_text, program) = (folder.display(), program.display());
    let script = format!(
        r#"#!/bin/sh
count={folder_text}/count
echo >> "$count"; number=$(($(wc -l < "$count")))
read -r when at < {folder_text}/kill
if [ "$when $at" = "before $number" ]; then kill -9 "$PPID"; exit 1; fi
"{program}" "$@"; code=$?
if [ "$when $at" = "after $number" ]; then kill -9 "$PPID"; fi
exit "$code"
"#
    );
    let path = folder.join(name);
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_call_of_git_or_uv_leaves_nothing_that_stops_the_next() {
    let uv = uv();
    let (python, wheels, repository) = (python(), wheels(), Repository::new());
    let requirements = [("requirements.txt", "needy\n")];
    let packages: &[(&str, &str)] = if uv.is_some() { &requirements } else { &[] };
    let commit = repository.commit(&[CODE.as_slice(), packages].concat());
    let programs = tempfile::tempdir().unwrap();
    let git = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("git"))
        .find(|path| path.is_file())
        .unwrap();
    deadly(programs.path(), "git", &git);
    let deadly_uv = programs.path().join("uv");
    if let Some(uv) = &uv {
        deadly(programs.path(), "uv", uv);
    }
    let (count, kill) = (programs.path().join("count"), programs.path().join("kill"));
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", programs.path().display());

    let mut expected = None;
    let (mut calls, mut killed) = (0, 0);
    let mut points = vec!["never 0".to_owned()];
    while let Some(point) = points.pop() {
        let (registry, work) = (TestRegistry::start().await, tempfile::tempdir().unwrap());
        std::fs::write(&count, "").unwrap();
        std::fs::write(&kill, format!("{point}\n")).unwrap();
        let order = Order {
            packages: uv.as_ref().map(|_| (deadly_uv.as_path(), python.as_path(), wheels.path())),
            ..Order::new(&repository, &registry, &commit, work.path())
        };
        let mut command = tokio::process::Command::from(order.command());
        let status = command.env("PATH", &path).stdout(std::process::Stdio::null()).status().await.unwrap();
        if let Some(expected) = &expected {
            killed += usize::from(status.signal() == Some(9));
            assert_eq!(&after(&order).await, expected, "{point}");
        } else {
            assert!(status.success());
            expected = Some(order.digest());
            calls = std::fs::read_to_string(&count).unwrap().lines().count();
            points = (1..=calls).flat_map(|call| [format!("before {call}"), format!("after {call}")]).collect();
        }
    }
    // A program that is ended by its caller kills nobody afterwards.
    assert!(calls > 5 && killed >= calls, "{killed} of {calls} calls");
}
