//! Task definitions: families of immutable revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::time::Time;
use crate::protocol::fields::{Fields, Tags};

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Family {
    /// The last revision number. Numbers are not reused after a deletion.
    pub latest: u32,
    pub revisions: BTreeMap<u32, Definition>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Definition {
    pub arn: String,
    pub family: String,
    pub revision: u32,
    pub status: String,
    pub registered_at: Time,
    pub deregistered_at: Option<Time>,
    /// The input, with the defaults of ECS.
    pub body: Value,
    pub tags: Tags,
}

impl Definition {
    pub fn containers(&self) -> &[Value] {
        self.body.items("containerDefinitions")
    }

    pub fn is_awsvpc(&self) -> bool {
        self.body.text("networkMode") == Some("awsvpc")
    }
}
