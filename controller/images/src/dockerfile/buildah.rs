//! buildah as a child, for laptops and tests: what a Dockerfile runs, it runs on this machine.
//!
//! Guarantees: nothing of the controller's environment reaches it, and the registry's password only its push, after all that the
//! Dockerfile says is over.

use std::{
    ffi::OsString,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::Engine;
use codeloc_git::program::{Output, Program, inherited, tail};
use futures::future::BoxFuture;

use super::{BuildError, DockerfileBuilder, Order, Progress};
use crate::disk::{blocking, fresh_folder, on_disk, write_whole};

/// Of a whole build: packages are downloaded, and compiled in the worst case.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Images are fetched by whatever name; signatures are the registry's matter.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

#[derive(Clone, Debug)]
pub struct Buildah {
    program: PathBuf,
    /// Spool, and the layers that buildah keeps. May be lost at any time.
    work: PathBuf,
}

impl Buildah {
    /// `program` is a path, or a name on the search path. Errors are those of the working folder.
    pub fn new(program: &Path, work: &Path) -> std::io::Result<Self> {
        // It runs in folders of its own.
        let program = if program.components().count() > 1 { std::path::absolute(program)? } else { program.to_owned() };
        Ok(Self { program, work: std::path::absolute(work)? })
    }

    async fn run(&self, folder: &Path, command: &str, arguments: Vec<OsString>) -> Result<Output, BuildError> {
        let storage = self.work.join("buildah");
        let mut environment: Vec<(&str, OsString)> = inherited(&[]);
        environment.push(("HOME", folder.into()));
        environment.push(("TMPDIR", folder.into()));
        let output = Program::new(&self.program, TIMEOUT)
            .folder(folder)
            .environment(environment)
            .arguments(["--root".into(), storage.join("storage").into_os_string()])
            .arguments(["--runroot".into(), storage.join("run").into_os_string()])
            .arguments(["--storage-driver", "vfs", command, "--signature-policy", "policy.json"])
            .arguments(arguments)
            .run()
            .await?;
        Ok(output)
    }

    async fn build_and_push(&self, order: &Order, progress: &Progress<'_>) -> Result<(), BuildError> {
        let folder = fresh_folder(&self.work.join("spool"))?;
        let path = folder.path();
        write_whole(&path.join("policy.json"), POLICY.as_bytes())?;
        let (archive, context) = (order.context.clone(), path.join("context"));
        blocking(move || unpack(&archive, &context)).await?;

        progress(format!("buildah: building {}", order.dockerfile));
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
            return Err(BuildError::Terminal(format!("{} does not build: {}", order.dockerfile, tail(&built.stderr))));
        }

        progress("uploading".to_owned());
        let mut push = vec![verify];
        if let Some((user, password)) = &order.credentials {
            // In a file: an argument would be seen by everybody on this machine.
            let file = path.join("auth.json");
            write_secret(&file, &authentication(order.host(), user, password))?;
            push.extend(["--authfile".into(), file.into_os_string()]);
        }
        push.extend([order.image.clone().into(), format!("docker://{}", order.image).into()]);
        let pushed = self.run(path, "push", push).await?;
        // Only what is in the registry counts; buildah need not keep it as well.
        self.run(path, "rmi", vec!["--force".into(), order.image.clone().into()]).await?;
        if !pushed.status.success() {
            return Err(BuildError::Transient(format!("cannot push {}: {}", order.image, tail(&pushed.stderr))));
        }
        Ok(())
    }
}

impl DockerfileBuilder for Buildah {
    fn build<'a>(&'a self, order: &'a Order, progress: &'a Progress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.build_and_push(order, progress))
    }
}

fn unpack(archive: &Path, folder: &Path) -> Result<(), BuildError> {
    let file = std::fs::File::open(archive).map_err(|error| on_disk(archive, &error))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    archive.unpack(folder).map_err(|error| on_disk(folder, &error))
}

fn authentication(host: &str, user: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    serde_json::json!({"auths": {host: {"auth": pair}}}).to_string()
}

fn write_secret(path: &Path, text: &str) -> Result<(), BuildError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    };
    write().map_err(|error| on_disk(path, &error))
}

/// Loopback registries are spoken to in plain HTTP.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}
