//! What an ECS service says beside its task definition, its count and its registry.

use serde::Serialize;

use crate::resources::Field;

/// Lists sorted, since AWS gives them back in any order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub assign_public_ip: bool,
}

impl Network {
    pub fn new(subnets: &[String], security_groups: &[String], assign_public_ip: bool) -> Self {
        let sorted = |values: &[String]| {
            let mut values = values.to_vec();
            values.sort();
            values
        };
        Self { subnets: sorted(subnets), security_groups: sorted(security_groups), assign_public_ip }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeploymentConfiguration {
    pub circuit_breaker: bool,
    pub rollback: bool,
    pub minimum_healthy_percent: i32,
    pub maximum_percent: i32,
}

/// A new task proves itself before an old one goes, and a broken one is rolled back.
pub const ROLLING: DeploymentConfiguration = DeploymentConfiguration {
    circuit_breaker: true,
    rollback: true,
    minimum_healthy_percent: 100,
    maximum_percent: 200,
};

/// The same for every location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceOptions {
    /// How deployments replace tasks.
    pub strategy: String,
    /// `FARGATE`, or the capacity providers with base and weight.
    pub capacity: String,
    /// `LATEST`, or an old version that somebody pinned.
    pub platform_version: String,
    /// Whose tags a task gets.
    pub propagate_tags: String,
    pub managed_tags: bool,
    pub execute_command: bool,
    /// Seconds.
    pub health_check_grace_period: i32,
    /// Whether ECS stops tasks that serve to spread them over zones.
    pub zone_rebalancing: bool,
}

impl ServiceOptions {
    /// Runs go on in the task that loaded their code: it is not moved while it serves.
    pub fn ours() -> Self {
        Self {
            strategy: "ROLLING".to_owned(),
            capacity: "FARGATE".to_owned(),
            platform_version: "LATEST".to_owned(),
            propagate_tags: "SERVICE".to_owned(),
            managed_tags: true,
            execute_command: false,
            health_check_grace_period: 0,
            zone_rebalancing: false,
        }
    }

    pub(super) fn differing(&self, desired: &Self) -> Vec<Field> {
        [
            Field::differing("strategy", &self.strategy, &desired.strategy),
            Field::differing("capacity", &self.capacity, &desired.capacity),
            Field::differing("platform_version", &self.platform_version, &desired.platform_version),
            Field::differing("propagate_tags", &self.propagate_tags, &desired.propagate_tags),
            Field::differing("managed_tags", &self.managed_tags, &desired.managed_tags),
            Field::differing("execute_command", &self.execute_command, &desired.execute_command),
            Field::differing(
                "health_check_grace_period",
                &self.health_check_grace_period,
                &desired.health_check_grace_period,
            ),
            Field::differing("zone_rebalancing", &self.zone_rebalancing, &desired.zone_rebalancing),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
