//! Settings of an ECS service, apart from its task definition, count and registry.

use serde::Serialize;

use crate::resources::change::Field;

/// Sorted, because AWS returns lists in any order.
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

/// ECS stops an old task only after a new one is healthy, and rolls back a revision whose tasks fail.
pub const ROLLING: DeploymentConfiguration = DeploymentConfiguration {
    circuit_breaker: true,
    rollback: true,
    minimum_healthy_percent: 100,
    maximum_percent: 200,
};

/// Settings that are the same for every location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceOptions {
    /// How deployments replace tasks.
    pub strategy: String,
    /// `FARGATE`, or the capacity providers with base and weight.
    pub capacity: String,
    /// `LATEST`, or a pinned old version.
    pub platform_version: String,
    /// The resource whose tags ECS copies to tasks.
    pub propagate_tags: String,
    pub managed_tags: bool,
    pub execute_command: bool,
    /// Seconds.
    pub health_check_grace_period: i32,
    /// Whether ECS stops serving tasks to balance the zones.
    pub zone_rebalancing: bool,
}

impl ServiceOptions {
    /// Without zone rebalancing: runs may use the task that loaded their code, so ECS must not move it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_does_not_depend_on_the_order_of_its_lists() {
        let network = |subnets: [&str; 2]| Network::new(&subnets.map(str::to_owned), &[], false);
        assert_eq!(network(["a", "b"]), network(["b", "a"]));
    }

    #[test]
    fn each_differing_option_is_one_field() {
        let ours = ServiceOptions::ours();
        assert_eq!(ours.differing(&ours), []);
        let changed = ServiceOptions { execute_command: true, ..ServiceOptions::ours() };
        assert_eq!(changed.differing(&ours), [Field::changed("execute_command", true, false)]);
    }
}
