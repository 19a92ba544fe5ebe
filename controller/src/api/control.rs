//! The interface of the daemon to the API.

use std::future::Future;
use std::pin::Pin;

use codeloc_core::ids::Commit;
use codeloc_core::status::LocationStatus;
use codeloc_crds::LocationName;
use codeloc_git::commit::Author;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RepositoryUrl;
use crate::config_source::write;
use crate::config_source::write::{Change, WriteError};
use crate::cost::Cost;
use crate::status::Recorder;
use crate::status::metrics::Scrape;

/// A call that may wait for AWS or git.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The daemon, as the API uses it.
pub trait Control: Send + Sync + 'static {
    fn recorder(&self) -> &Recorder;
    fn statuses(&self) -> Vec<LocationStatus>;
    /// The status with this name, which may be the path of a config that belongs to no location.
    fn status(&self, name: &str) -> Option<LocationStatus>;
    fn daemon(&self) -> DaemonStatus;
    fn readiness(&self) -> Readiness;
    fn scrape(&self) -> Scrape;
    fn costs(&self) -> Vec<Cost>;
    /// Reads config, branch and AWS of one location, or of all locations, and reconciles now.
    fn trigger(&self, name: Option<&LocationName>);
    /// Deletes a removed location without waiting for its runs.
    fn abandon_runs(&self, name: &LocationName);
    /// Looks for the image of a location again, and builds it if the registry does not have it.
    fn retry(&self, name: &LocationName);
    /// Handles a push to a repository with these URLs. Returns how many locations and config sources use it.
    fn pushed(&self, urls: &[RepositoryUrl]) -> usize;
    /// The plan in the format of `codeloc plan --json`.
    fn plan<'a>(&'a self, name: &'a LocationName) -> Call<'a, Result<serde_json::Value, PlanError>>;
    fn logs<'a>(&'a self, name: &'a LocationName, selection: Logs) -> Call<'a, Result<Vec<Line>, PlanError>>;
    /// The lines from a time on, in milliseconds since the epoch. `page` is the token of the page before.
    fn log_page<'a>(
        &'a self,
        name: &'a LocationName,
        from: i64,
        page: Option<String>,
    ) -> Call<'a, Result<LogPage, PlanError>>;
    fn config<'a>(&'a self, name: &'a LocationName) -> Call<'a, Result<Option<String>, WriteError>>;
    fn write<'a>(
        &'a self,
        name: &'a LocationName,
        change: &'a Change,
        message: &'a str,
        author: &'a Author,
    ) -> Call<'a, Result<write::Written, WriteError>>;
}

/// AWS, or another port of the daemon, did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

/// Selects lines of a location's log.
#[derive(Clone, Copy, Debug)]
pub struct Logs {
    /// Maximum number of lines; the newest ones count.
    pub lines: u16,
    /// Only lines after this time, in milliseconds since the epoch.
    pub after: Option<i64>,
}

/// One line of a location's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// The id that CloudWatch Logs gave the line.
    pub id: String,
    /// Time in milliseconds since the epoch.
    pub at: i64,
    /// The task that wrote it.
    pub stream: String,
    pub text: String,
}

/// A page of a location's log, the oldest line first.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    pub lines: Vec<Line>,
    /// The token of the next page.
    pub next: Option<String>,
}

/// The result of a write to the config repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The commit in the config repository; absent if the configs are in a plain folder.
    #[schema(value_type = Option<String>)]
    pub commit: Option<Commit>,
    /// Whether the config changed.
    pub changed: bool,
    /// The new config; absent after a removal.
    pub config: Option<String>,
}

impl From<write::Written> for Written {
    fn from(written: write::Written) -> Self {
        Self { commit: written.commit, changed: written.changed, config: written.text }
    }
}

/// Status of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    pub version: String,
    pub deployment: String,
    /// `enforce`, `detect` or `suspended`.
    pub mode: String,
    /// `held`, `standby`, `unreadable` or `unknown`.
    pub lease: String,
    /// The commit of the config repository in force.
    #[schema(value_type = Option<String>)]
    pub commit: Option<Commit>,
    /// The current time of the daemon.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub now: Option<Timestamp>,
    /// Every config committed before this time has a status. Absent while a config has no status, and until the configs are read.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// Faults of the daemon, one on each line: what is wrong, since when, and what to do. An outage of AWS, the lease or the webserver appears
    /// within 15 seconds.
    pub fault: Option<String>,
}

/// Whether the daemon can reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// As [`DaemonStatus::fault`]. Not every fault makes the daemon unready.
    pub fault: Option<String>,
}
