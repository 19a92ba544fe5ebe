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
    /// `None` while the build runs; an error is the message of the build phase.
    pub ended: Option<Result<(), String>>,
}

impl CodeBuild {
    pub fn end(&mut self, id: &str, result: Result<(), String>) {
        if let Some(build) = self.builds.get_mut(id) {
            build.ended = Some(result);
        }
    }
}
