//! The client of the API.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches};
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
            .help("URL of the daemon [default: the address in the setting listen]"),
        Arg::new("token-file")
            .long("token-file")
            .env("CODELOC_TOKEN_FILE")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("File with the token, if the daemon requires one"),
    ]
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
                    .map_err(|error| format!("--token-file {} cannot be read: {error}", path.display()))?;
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
                "no daemon answers at {} ({error}); start it with `codeloc run`, or name another one with --server",
                self.server
            )
        };
        let answer = request.send().await.map_err(unreachable)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let problem: Value = answer.json().await.unwrap_or_default();
        if let Some(config) = problem["config"].as_str() {
            return Err(config.trim_end().trim_start_matches("error: ").to_owned().into());
        }
        Err(match problem["detail"].as_str() {
            Some(detail) => detail.to_owned().into(),
            None => format!("the daemon answered {status}").into(),
        })
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
        Ok(self.send(request).await?.json().await?)
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
        Ok(if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? })
    }

    pub async fn send_yaml(&self, path: &str, text: String) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path).header("content-type", "application/yaml").body(text);
        Ok(self.send(request).await?.json().await?)
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
        Err("the daemon closed the stream".into())
    }
}
