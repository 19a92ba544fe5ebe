//! The webserver's GraphQL: what Dagster has loaded, and the two mutations that make it look again.
//!
//! Guarantees: every call ends within its time limit; an error that Dagster puts into a body of HTTP 500 is read and
//! told, bounded. A location counts as loaded by the type of `locationOrLoadError` alone, since `loadStatus` is
//! `LOADED` for a broken one too.
//! Assumes: one webserver process; each has a workspace of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use codeloc_core::dagster::WebLocation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::text::{bounded, bounded_line, with_sources};
use super::{NOT_JSON, WebError, Webserver};

/// A workspace of thousands of locations stays far below; what is longer is not a webserver's answer.
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

/// Beyond so many the answer is 'perhaps', which is taken for a yes.
const UNFINISHED_AT_MOST: usize = 1000;

/// A reload takes a second for most workspaces. Where it takes longer than this the webserver goes on with it by itself, and what it
/// shows afterwards tells.
const RELOAD_LIMIT: Duration = Duration::from_secs(20);

/// A Dagster webserver behind one URL.
#[derive(Clone, Debug)]
pub struct GraphqlWebserver {
    client: reqwest::Client,
    endpoint: String,
    timeout: Duration,
}

impl GraphqlWebserver {
    /// `url` is the webserver's root, such as `http://127.0.0.1:3000`. `timeout` bounds a question; a reload may take
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
        let unreachable = |error: reqwest::Error| WebError::Unreachable(with_sources(&error));
        let request = self.client.post(&self.endpoint).json(&json!({"query": document, "variables": variables}));
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
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
            let what = format!("{} answered HTTP {status}{NOT_JSON}{text}", self.endpoint);
            // A proxy in front of a webserver that is starting says 502 or 503 in HTML.
            return Err(if status.is_server_error() { WebError::Unreachable(what) } else { WebError::Refused(what) });
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
        return format!("HTTP {status} without the data asked for");
    }
    bounded(&messages.join("\n"), MAX_ERROR_CHARACTERS)
}

/// The types that the three documents can answer with.
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
    /// Of the location it was created for; absent of a run that was made without one.
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
                message: format!("neither a location nor an error; load status {}", self.load_status),
            },
        }
    }
}

/// What is left of an answer once its refusals are taken out.
fn accepted(value: Value) -> Result<Answered, WebError> {
    let answered = serde_json::from_value(value).map_err(|error| {
        WebError::Refused(format!("cannot read the webserver's answer ({error}): is its release supported?"))
    })?;
    match answered {
        Answered::PythonError(failure)
        | Answered::UnauthorizedError(failure)
        | Answered::RepositoryLocationNotFound(failure)
        | Answered::InvalidPipelineRunsFilterError(failure)
        | Answered::ReloadNotSupported(failure) => Err(WebError::Refused(failure.text())),
        other => Ok(other),
    }
}

fn unexpected(asked: &str) -> WebError {
    WebError::Refused(format!("the webserver answered {asked} with another type than asked for"))
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
        let variables = json!({"limit": UNFINISHED_AT_MOST});
        match accepted(self.post(UNFINISHED_RUNS, variables, "runsOrError", self.timeout).await?)? {
            Answered::Runs { results } => {
                let of_location = |run: &Run| {
                    run.repository_origin.as_ref().is_none_or(|origin| origin.repository_location_name == location)
                };
                Ok(results.len() >= UNFINISHED_AT_MOST || results.iter().any(of_location))
            }
            _ => Err(unexpected("runsOrError")),
        }
    }
}

#[cfg(test)]
mod tests;
