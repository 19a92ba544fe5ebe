//! The client of the API.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches};
use codeloc_dagster::text::with_sources;
use reqwest::StatusCode;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use crate::settings;

/// Timeout for requests to a daemon that may not run.
const PROBE: Duration = Duration::from_secs(5);

/// Flags of all commands that use the API.
pub fn arguments() -> [Arg; 2] {
    [
        Arg::new("server")
            .long("server")
            .env("CODELOC_SERVER")
            .value_name("URL")
            .help("Use the daemon at this URL [default: the address in the setting listen]"),
        Arg::new("token-file")
            .long("token-file")
            .env("CODELOC_TOKEN_FILE")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Read the API token from this file, if the daemon requires one"),
    ]
}

/// Flags of the commands that write a config, directly or through a daemon.
pub fn arguments_for_writes() -> [Arg; 2] {
    let [server, token_file] = arguments();
    let help = "Let the daemon at this URL write the config [default: write to source.path or source.git_url, if set]";
    [server.help(help), token_file]
}

/// A rendered error of a config without its first `error:`, which the command adds.
pub fn without_prefix(rendered: &str) -> String {
    let text = rendered.trim();
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

pub struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl Client {
    pub fn new(matches: &ArgMatches) -> Result<Self, Failure> {
        let server = match matches.get_one::<String>("server") {
            Some(server) => server.trim_end_matches('/').to_owned(),
            None => format!("http://{}", settings::load(matches)?.listen),
        };
        let token = match matches.get_one::<PathBuf>("token-file") {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("cannot read --token-file {}: {error}", path.display()))?;
                Some(text.trim().to_owned())
            }
            None => None,
        };
        // No total timeout: a user may follow a log for any time.
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        Ok(Self { http, server, token })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let unreachable = |error: reqwest::Error| {
            format!(
                "no daemon answers at {} ({}); start it with `codeloc run`, or name another one with --server",
                self.server,
                with_sources(&error.without_url())
            )
        };
        let answer = request.send().await.map_err(unreachable)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let problem: Value = answer.json().await.unwrap_or_default();
        if let Some(config) = problem["config"].as_str() {
            return Err(without_prefix(config).into());
        }
        Err(match problem["detail"].as_str() {
            Some(detail) => detail.to_owned().into(),
            None => format!("{} answered {status}; check that a codeloc daemon has this URL", self.server).into(),
        })
    }

    /// The error for an answer that no daemon gives.
    fn unexpected(&self, error: &dyn std::error::Error) -> Failure {
        let cause = with_sources(error);
        format!("{} did not answer as a codeloc daemon does ({cause}); check --server", self.server).into()
    }

    /// Why the daemon is not ready.
    pub async fn unready(&self) -> Option<String> {
        let answer = self.request(Method::GET, "/readyz").timeout(PROBE).send().await.ok()?;
        if answer.status().is_success() {
            return None;
        }
        Some(answer.text().await.ok()?.trim().to_owned())
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether a daemon of this deployment answers. It is an error if the daemon requires a token.
    pub async fn is_of(&self, deployment: &str) -> Result<bool, Failure> {
        let request = self.request(Method::GET, "/v1/status").timeout(PROBE);
        let Ok(answer) = request.send().await else { return Ok(false) };
        if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(format!("the daemon at {} requires a token", self.server).into());
        }
        let daemon: Value = answer.json().await.unwrap_or_default();
        Ok(daemon["deployment"] == deployment)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(60));
        self.send(request).await?.json().await.map_err(|error| self.unexpected(&error))
    }

    /// Faults of the daemon.
    pub async fn fault(&self) -> Option<String> {
        let daemon: Value = self.get("/v1/status").await.ok()?;
        Some(daemon["fault"].as_str()?.replace('\n', "\nwarning: "))
    }

    pub async fn send_json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let request = self.request(method, path).timeout(Duration::from_secs(120));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = self.send(request).await?;
        let bytes = answer.bytes().await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| self.unexpected(&error))
    }

    pub async fn send_yaml(&self, path: &str, text: String) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path).header("content-type", "application/yaml").body(text);
        self.send(request).await?.json().await.map_err(|error| self.unexpected(&error))
    }

    /// Passes the data of each server-sent event to `take` until the daemon closes the stream.
    pub async fn follow(&self, path: &str, mut take: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut answer = self.send(self.request(Method::GET, path)).await?;
        let mut buffer = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if let Some(data) = String::from_utf8_lossy(&line).trim_end().strip_prefix("data: ") {
                    take(data)?;
                }
            }
        }
        Err("the daemon closed the stream; run this command again".into())
    }
}
