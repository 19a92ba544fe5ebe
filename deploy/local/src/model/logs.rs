//! `CloudWatch` Logs: groups, streams and their events.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::protocol::fields::Tags;

/// Older events of a stream are dropped, to bound memory.
const KEPT_EVENTS: usize = 10_000;

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Logs {
    pub groups: BTreeMap<String, Group>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Group {
    pub arn: String,
    pub created_at: Time,
    pub retention_days: Option<i64>,
    pub tags: Tags,
    pub streams: BTreeMap<String, Stream>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Stream {
    pub created_at: Time,
    /// The number of dropped events, so that positions in tokens stay valid.
    pub dropped: usize,
    pub events: VecDeque<Event>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Event {
    pub timestamp: i64,
    pub ingested_at: Time,
    pub message: String,
}

impl Stream {
    pub fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > KEPT_EVENTS {
            self.events.pop_front();
            self.dropped += 1;
        }
    }
}
