//! IAM: roles with their policies.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::protocol::fields::Tags;

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Iam {
    pub roles: BTreeMap<String, Role>,
    /// The ARNs of deleted roles that do not exist again.
    #[serde(default)]
    pub deleted: BTreeSet<String>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Role {
    pub id: String,
    pub arn: String,
    pub path: String,
    pub created_at: Time,
    pub trust: String,
    pub description: Option<String>,
    pub max_session_seconds: i64,
    pub boundary: Option<String>,
    pub tags: Tags,
    pub inline: BTreeMap<String, String>,
    /// By ARN.
    pub attached: BTreeMap<String, String>,
}

impl Iam {
    pub fn by_arn(&self, arn: &str) -> Option<&Role> {
        self.roles.values().find(|role| role.arn == arn)
    }
}
