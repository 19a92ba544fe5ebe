//! moto, an AWS emulator of other authors, on a free local port, with a record of all calls.
//!
//! Guarantees: the server ends when [`Moto`] is dropped; [`Moto::calls`] has every call in the order of arrival.
//! Assumes: one mutating call at a time, because moto's threads share state without locks.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use base64::Engine;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::processes::free_ports;

pub const REGION: &str = "eu-central-1";

/// Time limit for the first response: Python imports a hundred services.
const READY: Duration = Duration::from_secs(120);

/// The moto server in `CODELOC_MOTO_SERVER`, or the one that `make prepare` installed.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CODELOC_MOTO_SERVER").map(PathBuf::from);
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.local/moto/bin/moto_server");
    Some(named.unwrap_or_else(usual)).filter(|program| program.is_file())
}

pub struct Moto {
    port: u16,
    folder: TempDir,
    _server: Child,
}

impl Moto {
    /// Starts a server and waits until it answers. `variables` are moto's environment variables.
    pub async fn start(program: &Path, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [port] = free_ports();
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        let server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("MOTO_ENABLE_RECORDING", "1")
            .env("MOTO_RECORDER_FILEPATH", folder.path().join("calls"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("start moto_server");
        let moto = Self { port, folder, _server: server };
        let answers = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answered = tokio::time::timeout(READY, answers).await.is_ok();
        assert!(answered, "moto did not answer within {READY:?}:\n{}", moto.log());
        moto
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An SDK configuration for this server.
    pub fn sdk(&self) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "test")))
            .endpoint_url(self.endpoint())
            .build()
    }

    /// The log of the server.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Every call so far, as `ecs:CreateService`, in the order of arrival.
    pub fn calls(&self) -> Vec<String> {
        let recording = std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        recording.lines().filter_map(|line| operation(&serde_json::from_str(line).ok()?)).collect()
    }

    /// The subnets and the security group of the default VPC. moto checks them when a service is created.
    pub async fn network(&self) -> (Vec<String>, String) {
        let subnets = self.ec2("DescribeSubnets").await;
        let groups = self.ec2("DescribeSecurityGroups").await;
        let mut subnets = texts(&subnets, "subnetId");
        subnets.sort();
        (subnets, texts(&groups, "groupId").swap_remove(0))
    }

    /// One call of EC2's query API, without an SDK client.
    async fn ec2(&self, action: &str) -> String {
        let body = format!("Action={action}&Version=2016-11-15");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/ec2/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n{body}",
            self.port,
            body.len(),
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("moto accepts");
        stream.write_all(request.as_bytes()).await.expect("moto reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("moto answers in text");
        assert!(answer.lines().next().is_some_and(|status| status.contains(" 200 ")), "{action}: {answer}");
        answer
    }
}

/// The contents of all XML elements with this name.
fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let after = xml.split(&open).skip(1);
    after.filter_map(|rest| rest.split(&close).next()).map(str::to_owned).collect()
}

/// `service:Operation` of one line of moto's record; `None` if it is not an AWS call.
fn operation(entry: &Value) -> Option<String> {
    let headers = entry["headers"].as_object()?;
    let header = |key: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.and_then(|(_, value)| value.as_str())
    };
    let service = header("authorization")?.split('/').nth(3)?;
    if let Some(target) = header("x-amz-target") {
        return Some(format!("{service}:{}", target.rsplit('.').next()?));
    }
    // The query protocol of IAM, STS and EC2.
    let body = base64::engine::general_purpose::STANDARD.decode(entry["body"].as_str()?).ok()?;
    let form = String::from_utf8(body).ok()?;
    let operation = form.split('&').find_map(|pair| pair.strip_prefix("Action="))?;
    Some(format!("{service}:{operation}"))
}

/// Whether a call only reads, by the prefix of its operation.
pub fn reads(call: &str) -> bool {
    let operation = call.rsplit(':').next().unwrap_or(call);
    ["Describe", "List", "Get"].iter().any(|verb| operation.starts_with(verb))
}
