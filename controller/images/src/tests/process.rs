//! Builds in child processes: with another environment, in a jail, or killed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use codeloc_core::ids::{Commit, Digest};

use super::{Anonymous, BuildSettings, OciBuilder, Repository, TestRegistry, git, request_for};
use crate::{Builder, Request};

/// A build in a child process.
pub(super) struct ChildBuild<'a> {
    pub repository: &'a Path,
    pub registry: &'a TestRegistry,
    pub commit: &'a Commit,
    /// Its work folder. It writes the reference of the image to the file `reference` there.
    pub work: &'a Path,
    /// uv, Python and a folder of wheels, if the build installs packages.
    pub packages: Option<(&'a Path, &'a Path, &'a Path)>,
}

impl<'a> ChildBuild<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        registry: &'a TestRegistry,
        commit: &'a Commit,
        work: &'a Path,
    ) -> Self {
        Self { repository: repository.folder.path(), registry, commit, work, packages: None }
    }

    pub(super) fn request(&self) -> Request {
        request_for(self.repository.to_str().unwrap(), &self.registry.host, self.commit)
    }

    /// The arguments with which this test program runs the build.
    pub(super) fn arguments() -> [&'static str; 4] {
        ["--exact", "tests::process::build_in_a_child_process", "--ignored", "--nocapture"]
    }

    pub(super) fn environment(&self) -> Vec<(&'static str, &OsStr)> {
        let mut environment: Vec<(&str, &OsStr)> = vec![
            ("CODELOC_TEST_REPOSITORY", self.repository.as_os_str()),
            ("CODELOC_TEST_REGISTRY", self.registry.host.as_ref()),
            ("CODELOC_TEST_COMMIT", OsStr::new(self.commit.as_str())),
            ("CODELOC_TEST_WORK", self.work.as_os_str()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".as_ref()),
        ];
        if let Some((uv, python, wheels)) = self.packages {
            environment.push(("CODELOC_TEST_UV", uv.as_os_str()));
            environment.push(("CODELOC_TEST_PYTHON", python.as_os_str()));
            environment.push(("CODELOC_TEST_WHEELS", wheels.as_os_str()));
        }
        environment
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(Self::arguments()).env_clear().envs(self.environment());
        command
    }

    /// The digest of the image that the process built.
    pub(super) fn digest(&self) -> Digest {
        let reference = std::fs::read_to_string(self.work.join("reference")).unwrap();
        Digest::from(reference.split_once('@').unwrap().1)
    }
}

#[tokio::test]
#[ignore = "other tests run it in a child process"]
async fn build_in_a_child_process() {
    let variable = |name: &str| std::env::var_os(name).unwrap().into_string().unwrap();
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let work = path("CODELOC_TEST_WORK").unwrap();
    let mut settings = BuildSettings::new(work.join("build"));
    if let (Some(uv), Some(wheels)) = (path("CODELOC_TEST_UV"), path("CODELOC_TEST_WHEELS")) {
        settings.uv = uv;
        settings.python = path("CODELOC_TEST_PYTHON");
        settings.find_links = Some(wheels);
    }
    let builder = OciBuilder::new(settings, git(&work, true), Anonymous).unwrap();
    let request = request_for(
        &variable("CODELOC_TEST_REPOSITORY"),
        &variable("CODELOC_TEST_REGISTRY"),
        &Commit::from(variable("CODELOC_TEST_COMMIT")),
    );
    let image = builder.build(&request, &|_| ()).await.unwrap();
    std::fs::write(work.join("reference"), image.reference).unwrap();
}
