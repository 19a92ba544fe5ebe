//! Starts the code server of an image layout on this machine, and lists its definitions.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use codeloc_core::dagster::Answer;
use codeloc_core::image::{Load, LoadTarget};
use codeloc_dagster::code_server::{CodeServer, GrpcCodeServer};
use codeloc_images::unpack_layer;
use tokio::process::Command;
use tokio::time::Instant;

use super::{Layout, without_colours};

const SHOW: &str = include_str!("show.py");
/// Some locations import for a minute.
const LIMIT: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(300);

/// What a code server has loaded: names by kind.
#[derive(Debug)]
pub struct Loaded {
    pub definitions: BTreeMap<String, Vec<String>>,
    /// From the start of the server to its first answer.
    pub start: Duration,
}

/// Unpacks the image with this manifest, and starts its code server with the given interpreter. The error is the whole output of the server.
pub async fn load(layout: &Layout, manifest: &str, image: &Load, python: &Path) -> Result<Loaded, String> {
    let text = |error: io::Error| error.to_string();
    let folder = tempfile::tempdir().map_err(text)?;
    let root = folder.path().join("root");
    unpack(layout, manifest, python, &root).await.map_err(text)?;
    let inside = |path: &str| root.join(path.trim_start_matches('/')).to_string_lossy().into_owned();
    let (kind, flag, target) = match &image.target {
        LoadTarget::Module(module) => ("module", "-m", module.clone()),
        LoadTarget::File(file) => ("file", "-f", inside(file)),
    };
    let working_directory = inside(&image.working_directory);
    let home = folder.path().join("home");
    std::fs::create_dir_all(&home).map_err(text)?;
    let program = root.join("opt/codeloc/env/bin/python");
    let start = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(&working_directory).env_clear();
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", inside("opt/codeloc/env/bin")));
        command
            .env("HOME", &home)
            .env("DAGSTER_HOME", &home)
            .env("PYTHONSAFEPATH", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("DAGSTER_DISABLE_TELEMETRY", "yes").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    };

    let began = Instant::now();
    let address = free_address().map_err(text)?;
    let port = address.port().to_string();
    let server =
        ["-m", "dagster", "api", "grpc", flag, &target, "-d", &working_directory, "-h", "127.0.0.1", "-p", &port];
    let mut child = start(&server).spawn().map_err(text)?;
    let output = tokio::spawn(read_all(child.stdout.take(), child.stderr.take()));
    let client = GrpcCodeServer::new(Duration::from_secs(30));
    let refused = loop {
        tokio::select! {
            _ = child.wait() => break Some("the code server has ended".to_owned()),
            answer = client.ask(address) => match answer {
                Answer::Loaded { .. } => break None,
                Answer::LoadError { message, .. } => break Some(message),
                _ if began.elapsed() > LIMIT => break Some(format!("the code server did not answer within {} s", LIMIT.as_secs())),
                Answer::Unreachable { .. } => tokio::time::sleep(POLL).await,
            }
        }
    };
    let time = began.elapsed();
    let _ = child.start_kill();
    let printed = output.await.unwrap_or_default();
    if let Some(reason) = refused {
        return Err(format!("{printed}\n{reason}"));
    }
    let listed = start(&["-c", SHOW, kind, &target, &working_directory]).output().await.map_err(text)?;
    let printed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let last = printed.lines().last().unwrap_or_default();
    match serde_json::from_str(last) {
        Ok(definitions) if listed.status.success() => Ok(Loaded { definitions, start: time }),
        _ => Err(String::from_utf8_lossy(&listed.stderr).into_owned()),
    }
}

/// An environment of the interpreter, and the layers of the image over it.
async fn unpack(layout: &Layout, manifest: &str, python: &Path, root: &Path) -> io::Result<()> {
    let environment = root.join("opt/codeloc/env");
    let created = Command::new(python).args(["-m", "venv", "--without-pip"]).arg(&environment).output().await?;
    if !created.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&created.stderr).into_owned()));
    }
    let manifest = layout.document(manifest)?;
    let layers: Vec<(PathBuf, String)> = manifest["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|layer| layer["annotations"]["codeloc.layer"].is_string())
        .filter_map(|layer| Some((layout.blob(layer["digest"].as_str()?)?, layer["mediaType"].as_str()?.to_owned())))
        .collect();
    let root = root.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        layers.iter().try_for_each(|(file, media_type)| unpack_layer(file, media_type, &root))
    });
    unpacked.await.map_err(io::Error::other)?
}

/// A port that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

async fn read_all(output: Option<tokio::process::ChildStdout>, errors: Option<tokio::process::ChildStderr>) -> String {
    use tokio::io::AsyncReadExt as _;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let one = async {
        if let Some(mut output) = output {
            let _ = output.read_to_end(&mut first).await;
        }
    };
    let two = async {
        if let Some(mut errors) = errors {
            let _ = errors.read_to_end(&mut second).await;
        }
    };
    tokio::join!(one, two);
    first.extend(second);
    without_colours(&String::from_utf8_lossy(&first))
}
