//! The API, as commands use it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches};
use reqwest::StatusCode;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use crate::settings;

/// How long to wait for a daemon that may not run.
const PROBE: Duration = Duration::from_secs(5);

/// The flags of every command that asks a daemon.
pub fn arguments() -> [Arg; 2] {
    [
        Arg::new("server")
            .long("server")
            .env("CODELOC_SERVER")
            .value_name("URL")
            .help("The daemon [default: where the settings say it listens]"),
        Arg::new("token-file")
            .long("token-file")
            .env("CODELOC_TOKEN_FILE")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A file with the token to show, where the daemon wants one"),
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
        // No limit in all: a log is followed for as long as somebody looks.
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
            format!("no daemon answers at {} ({error}); is `codeloc run` up? --server names another", self.server)
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
            None => format!("the daemon answered with {status}").into(),
        })
    }

    /// Why the daemon cannot do its work now.
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

    /// Whether a daemon of this deployment answers. Errors: the server refuses the request for want of a token.
    pub async fn is_of(&self, deployment: &str) -> Result<bool, Failure> {
        let request = self.request(Method::GET, "/v1/status").timeout(PROBE);
        let Ok(answer) = request.send().await else { return Ok(false) };
        if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(format!("the daemon at {} refuses requests without a token", self.server).into());
        }
        let daemon: Value = answer.json().await.unwrap_or_default();
        Ok(daemon["deployment"] == deployment)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(60));
        Ok(self.send(request).await?.json().await?)
    }

    /// Why the daemon as a whole is not well, if it says so.
    pub async fn not_ready(&self) -> Option<String> {
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

    /// Hands the data of each server-sent event to `take`, until the daemon ends.
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
        Err("the daemon ended the stream".into())
    }
}
