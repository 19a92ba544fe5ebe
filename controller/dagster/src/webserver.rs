//! The webserver's GraphQL: the locations that Dagster has loaded, and the two mutations that reload them.
//!
//! Guarantees: every call ends within its time limit; an error in a body of HTTP 500 is read and shown, bounded. Only the type of
//! `locationOrLoadError` decides whether a location is loaded, since `loadStatus` is `LOADED` for a broken one too.
//! Assumes: one webserver process, because each process has its own workspace.

use std::collections::BTreeMap;
use std::time::Duration;

use codeloc_core::dagster::WebLocation;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::errors::{NOT_JSON, WebError};
use crate::text::{bounded, bounded_line};

/// A workspace of thousands of locations is far below; a longer answer is not that of a webserver.
const MAX_BODY_BYTES: usize = 64 << 20;
const MAX_ERROR_CHARACTERS: usize = 2_000;

const LOCATIONS: &str = "query CodelocLocations { workspaceOrError { __typename
  ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename
    ... on RepositoryLocation { serverId } ... on PythonError { message } } } }
  ... on PythonError { message } } }";

const VERSION: &str = "query CodelocVersion { version }";

const RELOAD_WORKSPACE: &str = "mutation CodelocReloadWorkspace { reloadWorkspace { __typename
  ... on UnauthorizedError { message } ... on PythonError { message } } }";

const RELOAD_LOCATION: &str = "mutation CodelocReloadLocation($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) { __typename
    ... on WorkspaceLocationEntry { name loadStatus locationOrLoadError { __typename
      ... on RepositoryLocation { serverId } ... on PythonError { message } } }
    ... on ReloadNotSupported { message } ... on RepositoryLocationNotFound { message }
    ... on UnauthorizedError { message } ... on PythonError { message } } }";

const UNFINISHED_RUNS: &str = "query CodelocUnfinishedRuns($limit: Int!) {
  runsOrError(limit: $limit, filter: {statuses: [QUEUED, NOT_STARTED, MANAGED, STARTING, STARTED, CANCELING]}) { __typename
    ... on Runs { results { repositoryOrigin { repositoryLocationName } } }
    ... on InvalidPipelineRunsFilterError { message } ... on PythonError { message } } }";

/// The most runs of one answer. If there are more, a run of any location may be among them.
const MAX_UNFINISHED_RUNS: usize = 1000;

/// Most workspaces reload within a second. After this time the webserver continues the reload by itself, and a later query shows the
/// result.
const RELOAD_LIMIT: Duration = Duration::from_secs(20);

/// Port: the Dagster webserver.
pub trait Webserver: Send + Sync + 'static {
    /// Whether the webserver answers. Called often, so it must be cheap.
    fn ping(&self) -> impl Future<Output = Result<(), WebError>> + Send {
        async { self.locations().await.map(drop) }
    }
    /// All locations by name, in one query.
    fn locations(&self) -> impl Future<Output = Result<BTreeMap<String, WebLocation>, WebError>> + Send;
    /// Reads workspace.yaml again. Call only when membership or a host changed: the webserver loads serially.
    fn reload_workspace(&self) -> impl Future<Output = Result<(), WebError>> + Send;
    /// Connects to one location again, if it shows definitions of an old revision.
    fn reload_location(&self, name: &str) -> impl Future<Output = Result<WebLocation, WebError>> + Send;
    /// Whether a run of this location is queued or running: it may start from a definition that nothing else refers to.
    fn has_unfinished_runs(&self, location: &str) -> impl Future<Output = Result<bool, WebError>> + Send;
}

/// A Dagster webserver at one URL.
#[derive(Clone, Debug)]
pub struct GraphqlWebserver {
    client: reqwest::Client,
    endpoint: String,
    timeout: Duration,
}

impl GraphqlWebserver {
    /// `url` is the webserver's root, such as `http://127.0.0.1:3000`. `timeout` limits a query; a reload may take
    /// [`RELOAD_LIMIT`].
    pub fn new(url: &str, timeout: Duration) -> Self {
        Self { client: reqwest::Client::new(), endpoint: format!("{}/graphql", url.trim_end_matches('/')), timeout }
    }

    /// The value of `field` in the answer's data.
    async fn post(&self, document: &str, variables: Value, field: &str, limit: Duration) -> Result<Value, WebError> {
        match tokio::time::timeout(limit, self.exchange(document, variables, field)).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(WebError::Unreachable(format!("{}: no answer within {} s", self.endpoint, limit.as_secs_f32())))
            }
        }
    }

    async fn exchange(&self, document: &str, variables: Value, field: &str) -> Result<Value, WebError> {
        let request = self.client.post(&self.endpoint).json(&json!({"query": document, "variables": variables}));
        let mut response = request.send().await.map_err(WebError::Transport)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(WebError::Transport)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(WebError::Refused(format!(
                    "{}: the answer is longer than {} MiB",
                    self.endpoint,
                    MAX_BODY_BYTES >> 20
                )));
            }
            body.extend_from_slice(&chunk);
        }
        // Dagster answers 500 with an ordinary body when the workspace file is bad, so the body decides.
        let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else {
            let text = bounded_line(&String::from_utf8_lossy(&body), 200);
            let message = format!("{} answered HTTP {status}{NOT_JSON}{text}", self.endpoint);
            // A proxy in front of a starting webserver answers 502 or 503 in HTML.
            return Err(if status.is_server_error() {
                WebError::Unreachable(message)
            } else {
                WebError::Refused(message)
            });
        };
        match answer.pointer_mut(&format!("/data/{field}")).map(Value::take) {
            Some(value) if !value.is_null() => Ok(value),
            _ => Err(WebError::Refused(graphql_errors(&answer, status))),
        }
    }
}

fn graphql_errors(answer: &Value, status: reqwest::StatusCode) -> String {
    let messages: Vec<&str> =
        answer["errors"].as_array().into_iter().flatten().filter_map(|error| error["message"].as_str()).collect();
    if messages.is_empty() {
        return format!("it answered HTTP {status} without the requested data");
    }
    bounded(&messages.join("\n"), MAX_ERROR_CHARACTERS)
}

/// The types of the answers to all documents.
#[derive(Deserialize)]
#[serde(tag = "__typename")]
enum Answered {
    #[serde(rename_all = "camelCase")]
    Workspace {
        #[serde(default)]
        location_entries: Vec<LocationEntry>,
    },
    WorkspaceLocationEntry(LocationEntry),
    PythonError(Failure),
    UnauthorizedError(Failure),
    RepositoryLocationNotFound(Failure),
    ReloadNotSupported(Failure),
    Runs {
        results: Vec<Run>,
    },
    InvalidPipelineRunsFilterError(Failure),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    /// The origin of the run's location. Absent for a run without one.
    repository_origin: Option<RepositoryOrigin>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryOrigin {
    repository_location_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LocationEntry {
    name: String,
    load_status: String,
    location_or_load_error: Option<LocationOrLoadError>,
}

#[derive(Deserialize)]
#[serde(tag = "__typename")]
enum LocationOrLoadError {
    #[serde(rename_all = "camelCase")]
    RepositoryLocation {
        server_id: Option<String>,
    },
    PythonError(Failure),
}

#[derive(Deserialize)]
struct Failure {
    message: String,
}

impl Failure {
    fn text(&self) -> String {
        bounded(&self.message, MAX_ERROR_CHARACTERS)
    }
}

impl LocationEntry {
    fn location(self) -> WebLocation {
        match self.location_or_load_error {
            Some(LocationOrLoadError::RepositoryLocation { server_id }) => WebLocation::Loaded { server_id },
            Some(LocationOrLoadError::PythonError(failure)) => WebLocation::Error { message: failure.text() },
            None if self.load_status == "LOADING" => WebLocation::Loading,
            None => WebLocation::Error {
                message: format!(
                    "the webserver reports neither a location nor an error; its load status is {}",
                    self.load_status
                ),
            },
        }
    }
}

/// The answer, or the error in it.
fn accepted(value: Value) -> Result<Answered, WebError> {
    match serde_json::from_value(value).map_err(WebError::Malformed)? {
        Answered::PythonError(failure)
        | Answered::UnauthorizedError(failure)
        | Answered::RepositoryLocationNotFound(failure)
        | Answered::InvalidPipelineRunsFilterError(failure)
        | Answered::ReloadNotSupported(failure) => Err(WebError::Refused(failure.text())),
        other => Ok(other),
    }
}

fn unexpected(field: &str) -> WebError {
    WebError::Refused(format!("its answer to {field} has another type than requested"))
}

impl Webserver for GraphqlWebserver {
    async fn ping(&self) -> Result<(), WebError> {
        self.post(VERSION, json!({}), "version", self.timeout).await.map(drop)
    }

    async fn locations(&self) -> Result<BTreeMap<String, WebLocation>, WebError> {
        match accepted(self.post(LOCATIONS, json!({}), "workspaceOrError", self.timeout).await?)? {
            Answered::Workspace { location_entries } => {
                Ok(location_entries.into_iter().map(|entry| (entry.name.clone(), entry.location())).collect())
            }
            _ => Err(unexpected("workspaceOrError")),
        }
    }

    async fn reload_workspace(&self) -> Result<(), WebError> {
        match accepted(self.post(RELOAD_WORKSPACE, json!({}), "reloadWorkspace", RELOAD_LIMIT).await?)? {
            Answered::Workspace { .. } => Ok(()),
            _ => Err(unexpected("reloadWorkspace")),
        }
    }

    async fn reload_location(&self, name: &str) -> Result<WebLocation, WebError> {
        match accepted(
            self.post(RELOAD_LOCATION, json!({"name": name}), "reloadRepositoryLocation", RELOAD_LIMIT).await?,
        )? {
            Answered::WorkspaceLocationEntry(entry) => Ok(entry.location()),
            _ => Err(unexpected("reloadRepositoryLocation")),
        }
    }

    async fn has_unfinished_runs(&self, location: &str) -> Result<bool, WebError> {
        let variables = json!({"limit": MAX_UNFINISHED_RUNS});
        match accepted(self.post(UNFINISHED_RUNS, variables, "runsOrError", self.timeout).await?)? {
            Answered::Runs { results } => {
                let is_of_location = |run: &Run| {
                    run.repository_origin.as_ref().is_none_or(|origin| origin.repository_location_name == location)
                };
                Ok(results.len() >= MAX_UNFINISHED_RUNS || results.iter().any(is_of_location))
            }
            _ => Err(unexpected("runsOrError")),
        }
    }
}

#[cfg(test)]
mod tests;
