//! Runs buildah as a child process, for laptops and tests. The programs of a Dockerfile run on this machine.
//!
//! Guarantees: buildah gets no environment variable of the controller. It gets the registry password only for the push, after
//! all programs of the Dockerfile have ended.

use std::{
    ffi::OsString,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::Engine;
use codeloc_git::program::{Output, Program, ProgramError, inherited, tail};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{DockerfileBuilder, Order};
use crate::credentials::Login;
use crate::disk::{blocking, disk_error, temporary_folder, write_whole};
use crate::error::BuildError;
use crate::progress::{OnProgress, Progress};
use crate::registry::is_loopback;

/// Builds of this machine at the same time.
const PARALLEL: usize = 2;

/// codeloc does not check signatures of base images.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

#[derive(Clone, Debug)]
pub struct Buildah {
    program: PathBuf,
    /// Temporary files and buildah's storage. It may be lost at any time.
    work: PathBuf,
    /// The time limit of one build, which may download and compile packages.
    timeout: Duration,
    slots: Arc<Semaphore>,
}

impl Buildah {
    /// `program` is a path, or a name in `PATH`. Fails if the current folder cannot be read.
    pub fn new(program: &Path, work: &Path, timeout: Duration) -> std::io::Result<Self> {
        // buildah runs in temporary folders, so the paths must be absolute.
        let program = if program.components().count() > 1 { std::path::absolute(program)? } else { program.to_owned() };
        Ok(Self { program, work: std::path::absolute(work)?, timeout, slots: Arc::new(Semaphore::new(PARALLEL)) })
    }

    async fn run(&self, folder: &Path, command: &str, arguments: Vec<OsString>) -> Result<Output, BuildError> {
        let storage = self.work.join("buildah");
        let mut environment: Vec<(&str, OsString)> = inherited(&[]);
        environment.push(("HOME", folder.into()));
        environment.push(("TMPDIR", folder.into()));
        Program::new(&self.program, self.timeout)
            .folder(folder)
            .environment(environment)
            .arguments(["--root".into(), storage.join("storage").into_os_string()])
            .arguments(["--runroot".into(), storage.join("run").into_os_string()])
            .arguments(["--storage-driver", "vfs", command, "--signature-policy", "policy.json"])
            .arguments(arguments)
            .run()
            .await
            .map_err(|error| {
                let text = format!("cannot run buildah {command}");
                let is_too_slow = command == "build" && matches!(error, ProgramError::TimedOut { .. });
                let failure = if is_too_slow { BuildError::dockerfile(text) } else { BuildError::transient(text) };
                failure.caused_by(error)
            })
    }

    async fn build_and_push(&self, order: &Order, progress: &OnProgress<'_>) -> Result<(), BuildError> {
        progress(Progress::Dockerfile("buildah: waiting for another build of a Dockerfile to end".to_owned()));
        let stopped = |error| BuildError::transient("the build was stopped").caused_by(error);
        let _slot = self.slots.acquire().await.map_err(stopped)?;
        let folder = temporary_folder(&self.work)?;
        let path = folder.path();
        write_whole(&path.join("policy.json"), POLICY.as_bytes())?;
        let (archive, context) = (order.context.clone(), path.join("context"));
        blocking(move || unpack(&archive, &context)).await?;

        progress(Progress::Dockerfile(format!("buildah: building {}", order.dockerfile)));
        let plain = is_loopback(order.host());
        let verify: OsString = format!("--tls-verify={}", !plain).into();
        let arguments = [
            "--quiet".into(),
            "--isolation=chroot".into(),
            verify.clone(),
            format!("--platform=linux/{}", order.architecture).into(),
            format!("--timestamp={}", order.commit_time).into(),
            "--layers=false".into(),
            "--file".into(),
            path.join("context").join(&order.dockerfile).into_os_string(),
            "--tag".into(),
            order.image.clone().into(),
            "context".into(),
        ];
        let built = self.run(path, "build", arguments.to_vec()).await?;
        if !built.status.success() {
            return Err(BuildError::dockerfile(format!(
                "buildah cannot build {}: {}",
                order.dockerfile,
                tail(&built.stderr)
            )));
        }

        progress(Progress::Uploading);
        let mut push = vec![verify];
        if let Some(login) = &order.credentials {
            // In a file, because every user of this machine can read arguments.
            let file = path.join("auth.json");
            write_secret(&file, &auth_file(order.host(), login))?;
            push.extend(["--authfile".into(), file.into_os_string()]);
        }
        push.extend([order.image.clone().into(), format!("docker://{}", order.image).into()]);
        let pushed = self.run(path, "push", push).await?;
        // The registry has the image now, so buildah does not need it.
        self.run(path, "rmi", vec!["--force".into(), order.image.clone().into()]).await?;
        if !pushed.status.success() {
            return Err(BuildError::transient(format!(
                "buildah cannot push {}: {}",
                order.image,
                tail(&pushed.stderr)
            )));
        }
        Ok(())
    }
}

impl DockerfileBuilder for Buildah {
    fn build<'a>(&'a self, order: &'a Order, progress: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.build_and_push(order, progress))
    }
}

fn unpack(archive: &Path, folder: &Path) -> Result<(), BuildError> {
    let file = std::fs::File::open(archive).map_err(|error| disk_error(archive, error))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    archive.unpack(folder).map_err(|error| disk_error(folder, error))
}

fn auth_file(host: &str, Login { user, password }: &Login) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    serde_json::json!({"auths": {host: {"auth": pair}}}).to_string()
}

fn write_secret(path: &Path, text: &str) -> Result<(), BuildError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    };
    write().map_err(|error| disk_error(path, error))
}
