//! Application Auto Scaling: targets and their policies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time::Time;
use crate::protocol::fields::Tags;

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct AutoScaling {
    /// By resource id: there is one dimension.
    pub targets: BTreeMap<String, Target>,
    /// When the last change of a resource ends to be pending. Entries outlive their targets.
    #[serde(default)]
    pub pending: BTreeMap<String, Time>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Target {
    pub arn: String,
    pub min: i64,
    pub max: i64,
    pub created_at: Time,
    pub suspended: Value,
    pub tags: Tags,
    pub policies: BTreeMap<String, Policy>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Policy {
    pub arn: String,
    pub created_at: Time,
    pub configuration: Value,
    pub alarms: Value,
}
