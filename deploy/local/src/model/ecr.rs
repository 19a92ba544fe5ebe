//! ECR: repositories. Their images are behind [`Images`](super::images::Images).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time::Time;
use crate::protocol::fields::Tags;

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Ecr {
    pub repositories: BTreeMap<String, Repository>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Repository {
    pub arn: String,
    pub created_at: Time,
    pub mutability: String,
    pub scan_on_push: bool,
    pub encryption: Value,
    pub tags: Tags,
}
