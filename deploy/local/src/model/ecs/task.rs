//! Tasks.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rollout::Phase;
use crate::model::time::Time;
use crate::protocol::arn::tail;
use crate::protocol::fields::Tags;

#[derive(Clone, Serialize, Deserialize)]
pub struct Task {
    pub arn: String,
    pub cluster: String,
    pub cluster_arn: String,
    pub definition: String,
    pub family: String,
    pub group: String,
    pub started_by: Option<String>,
    /// Service and deployment.
    pub service: Option<(String, String)>,
    pub last_status: String,
    pub desired_status: String,
    pub health: String,
    pub has_health_check: bool,
    /// How long health checks can fail after the start.
    pub health_time: Duration,
    pub times: Times,
    pub stop_code: Option<String>,
    pub stopped_reason: Option<String>,
    pub exit_code: Option<i32>,
    pub exit_reason: Option<String>,
    /// Name and image.
    pub containers: Vec<(String, String)>,
    pub address: Option<Ipv4Addr>,
    pub port: Option<u16>,
    pub settings: Map<String, Value>,
    pub overrides: Value,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub tags: Tags,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Times {
    pub created: Time,
    pub pulled: Option<Time>,
    pub started: Option<Time>,
    pub stopping: Option<Time>,
    pub stopped: Option<Time>,
}

impl Task {
    pub fn deployment(&self) -> Option<&str> {
        self.service.as_ref().map(|(_, deployment)| deployment.as_str())
    }

    pub fn id(&self) -> &str {
        tail(&self.arn)
    }

    /// A task with a health check serves once it is healthy, another once it has run for `steady_after`.
    pub fn phase(&self, now: Time, steady_after: Duration) -> Phase {
        let settled = |started: Time| now.since(started) >= steady_after;
        match (self.desired_status.as_str(), self.has_health_check) {
            ("STOPPED", _) => Phase::Ending,
            (_, true) if self.health == "HEALTHY" => Phase::Serving,
            (_, false) if self.times.started.is_some_and(settled) => Phase::Serving,
            _ => Phase::Starting,
        }
    }

    /// Whether the task runs but did not become healthy in time.
    pub fn is_overdue(&self, now: Time) -> bool {
        let late = |started: Time| now >= started + self.health_time;
        let waits = self.has_health_check && self.health == "UNKNOWN" && self.desired_status == "RUNNING";
        waits && self.times.started.is_some_and(late)
    }
}
