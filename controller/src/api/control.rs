//! What the API asks of the daemon.

use std::future::Future;
use std::pin::Pin;

use codeloc_core::status::LocationStatus;
use codeloc_git::commit::Author;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config_source::write;
use crate::config_source::write::{Change, WriteError};
use crate::cost::Cost;
use crate::status::Recorder;
use crate::status::metrics::Scrape;

/// An answer that takes a while.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Port: the daemon, as the API sees it.
pub trait Control: Send + Sync + 'static {
    fn recorder(&self) -> &Recorder;
    fn statuses(&self) -> Vec<LocationStatus>;
    fn status(&self, name: &str) -> Option<LocationStatus>;
    fn daemon(&self) -> DaemonStatus;
    fn readiness(&self) -> Readiness;
    fn scrape(&self) -> Scrape;
    fn costs(&self) -> Vec<Cost>;
    /// Looks at one location now, or at all of them: at its config, its branch and what is live.
    fn trigger(&self, name: Option<&str>);
    /// Somebody pushed to one of these URLs. Looks at what follows it, and says how many things that are.
    fn pushed(&self, urls: &[String]) -> usize;
    /// What would be done, as `codeloc plan --json` prints it.
    fn plan<'a>(&'a self, name: &'a str) -> Call<'a, Result<serde_json::Value, PlanError>>;
    fn logs<'a>(&'a self, name: &'a str, wanted: Logs) -> Call<'a, Result<Vec<Line>, PlanError>>;
    fn config<'a>(&'a self, name: &'a str) -> Call<'a, Result<Option<String>, WriteError>>;
    fn write<'a>(
        &'a self,
        name: &'a str,
        change: &'a Change,
        message: &'a str,
        author: &'a Author,
    ) -> Call<'a, Result<write::Written, WriteError>>;
}

/// AWS, or another port of the daemon, did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

/// Which lines of a location's log are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Logs {
    /// The newest so many.
    pub lines: i32,
    /// Only those after this moment, in milliseconds since the epoch.
    pub after: Option<i64>,
}

/// One line of a location's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// The task that wrote it.
    pub stream: String,
    pub text: String,
}

/// What a change of the config repository led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The commit of the config repository; absent where the configs are a plain folder.
    pub commit: Option<String>,
    /// Whether anything is different from before.
    pub changed: bool,
    /// The config as it is now; absent after a removal.
    pub config: Option<String>,
}

impl From<write::Written> for Written {
    fn from(written: write::Written) -> Self {
        Self { commit: written.commit, changed: written.changed, config: written.text }
    }
}

/// The daemon as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    pub version: String,
    pub deployment: String,
    /// `enforce`, `detect` or `suspended`.
    pub mode: String,
    /// `held`, `standby`, `unreadable` or `unknown`.
    pub lease: String,
    /// The commit of the config repository that is in force.
    pub commit: Option<String>,
    /// The time by the daemon's clock.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub now: Option<Timestamp>,
    /// Every config committed before this moment has a status. Absent while a config has none, and before the configs were read.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// What is wrong with the daemon as a whole, since when, and what to do: one line for each. AWS, the lease or the webserver are named
    /// within 15 seconds after they stopped answering.
    pub fault: Option<String>,
}

/// Whether the daemon can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// As [`DaemonStatus::trouble`]. Some of it leaves the daemon ready.
    pub fault: Option<String>,
}
