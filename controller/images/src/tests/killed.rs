//! A build that is killed at any step leaves nothing that blocks the next build.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use codeloc_core::ids::Digest;
use rustix::process::{Pid, Signal, kill_process};

use super::process::ChildBuild;
use super::python::{python, uv, wheels};
use super::registry::Fault;
use super::{Anonymous, CODE, Repository, TestBuilder, TestRegistry, digest, git};
use crate::{BuildSettings, Builder, OciBuilder};

#[tokio::test]
async fn a_build_killed_at_any_request_does_not_block_the_next() {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let commit = repository.commit(&CODE);
    let image = TestBuilder::new().build(&repository.request(&registry, &commit)).await.unwrap();
    for number in 1..=registry.requests().len() {
        let (registry, work) = (TestRegistry::start().await, tempfile::tempdir().unwrap());
        let process: Arc<Mutex<Option<Pid>>> = Arc::default();
        let killed = process.clone();
        registry.set_faults(move |request| {
            (request.number == number).then(|| {
                kill_process(killed.lock().unwrap().unwrap(), Signal::KILL).unwrap();
                Fault::CutAfter
            })
        });
        let build = ChildBuild::new(&repository, &registry, &commit, work.path());
        let mut command = tokio::process::Command::from(build.command());
        command.stdout(std::process::Stdio::null());
        let mut child = {
            // Holds the lock until the child's id is known, so that its first request can use it.
            let mut process = process.lock().unwrap();
            let child = command.spawn().unwrap();
            *process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            child
        };
        assert_eq!(child.wait().await.unwrap().signal(), Some(9), "request {number}");
        registry.clear_faults();
        assert_eq!(build_again(&build).await, digest(&image), "request {number}");
    }
}

/// Builds in this process with the work folder of the killed one.
async fn build_again(build: &ChildBuild<'_>) -> Digest {
    let mut settings = BuildSettings::new(build.work.join("build"));
    if let Some((_, python, wheels)) = build.packages {
        settings.uv = uv().unwrap();
        settings.python = Some(python.to_owned());
        settings.find_links = Some(wheels.to_owned());
    }
    let builder = OciBuilder::new(settings, git(build.work, true), Anonymous).unwrap();
    let image = builder.build(&build.request(), &|_| ()).await.unwrap();
    digest(&image)
}

/// Writes a wrapper of a program that counts its calls and kills its caller at the call in the file `kill` (`before 3`).
///
/// Each call adds a line to `count`, so a call that is killed itself does not destroy the count.
fn killing_wrapper(folder: &Path, name: &str, program: &Path) {
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
async fn a_build_killed_at_any_child_process_does_not_block_the_next() {
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
    killing_wrapper(programs.path(), "git", &git);
    let killing_uv = programs.path().join("uv");
    if let Some(uv) = &uv {
        killing_wrapper(programs.path(), "uv", uv);
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
        let build = ChildBuild {
            packages: uv.as_ref().map(|_| (killing_uv.as_path(), python.as_path(), wheels.path())),
            ..ChildBuild::new(&repository, &registry, &commit, work.path())
        };
        let mut command = tokio::process::Command::from(build.command());
        let status = command.env("PATH", &path).stdout(std::process::Stdio::null()).status().await.unwrap();
        if let Some(expected) = &expected {
            killed += usize::from(status.signal() == Some(9));
            assert_eq!(&build_again(&build).await, expected, "{point}");
        } else {
            assert!(status.success());
            expected = Some(build.digest());
            calls = std::fs::read_to_string(&count).unwrap().lines().count();
            points = (1..=calls).flat_map(|call| [format!("before {call}"), format!("after {call}")]).collect();
        }
    }
    // A wrapper that its caller ends cannot kill the caller afterwards.
    assert!(calls > 5 && killed >= calls, "{killed} of {calls} calls");
}
