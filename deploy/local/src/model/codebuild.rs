//! `CodeBuild`: projects and their builds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::time::Time;

#[derive(Default, Serialize, Deserialize)]
pub struct CodeBuild {
    pub projects: BTreeSet<String>,
    pub builds: BTreeMap<String, Build>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Build {
    pub project: String,
    pub buildspec: String,
    pub variables: BTreeMap<String, String>,
    pub token: Option<String>,
    pub started_at: Time,
    pub timeout_minutes: u64,
    /// Whether the build waits for others of the account.
    #[serde(default)]
    pub queued: bool,
    /// `None` while the build runs.
    pub end: Option<End>,
}

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Succeeded,
    /// With the message of the build phase.
    Failed(String),
    TimedOut,
    Stopped,
}

impl CodeBuild {
    /// Ends a build that runs.
    pub fn end(&mut self, id: &str, end: End) {
        if let Some(build) = self.builds.get_mut(id)
            && build.end.is_none()
        {
            build.end = Some(end);
        }
    }
}

impl Build {
    /// How the build ended by this time, if it did.
    pub fn end_by(&self, now: Time) -> Option<End> {
        let runs_for = now.millis().saturating_sub(self.started_at.millis());
        let times_out = !self.queued && runs_for >= self.timeout_minutes * 60_000;
        self.end.clone().or_else(|| times_out.then_some(End::TimedOut))
    }
}
