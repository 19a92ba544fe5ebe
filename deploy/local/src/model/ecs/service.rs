//! ECS services: their settings and their rollout.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rollout::Rollout;
use crate::model::time::Time;
use crate::protocol::fields::{Fields, Tags};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Active,
    Draining,
    Inactive,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub arn: String,
    pub cluster_arn: String,
    pub status: Status,
    pub settings: Map<String, Value>,
    pub created_at: Time,
    pub tags: Tags,
    pub rollout: Rollout,
    /// ARNs of its tasks that have not stopped.
    pub tasks: Vec<String>,
}

impl Service {
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    pub fn uses(&self, task_definition: &str) -> bool {
        self.rollout.deployments.iter().any(|deployment| deployment.revision.task_definition == task_definition)
    }

    /// Applies the deployment configuration to the rollout.
    pub fn apply_configuration(&mut self) {
        let Some(configuration) = self.settings.get("deploymentConfiguration") else {
            return;
        };
        let percent = |name, default| {
            configuration.number(name).and_then(|percent| usize::try_from(percent).ok()).unwrap_or(default)
        };
        self.rollout.minimum_healthy_percent = percent("minimumHealthyPercent", 100);
        self.rollout.maximum_percent = percent("maximumPercent", 200);
        let breaker = configuration.get("deploymentCircuitBreaker");
        let breaker = breaker.filter(|breaker| breaker.flag("enable") == Some(true));
        self.rollout.breaker = breaker.map(|breaker| breaker.flag("rollback") == Some(true));
    }
}
