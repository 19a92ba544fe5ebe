//! What an ECS service says beside its task definition, its count and its registry.

use serde::Serialize;

use crate::kinds::Field;

/// Fargate's oldest platform versions, which nobody gets who asks for the latest one.
#[cfg(feature = "aws")]
const OLD_PLATFORMS: [&str; 4] = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"];

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
pub struct Manner {
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

impl Manner {
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

    pub(super) fn differing(&self, want: &Self) -> Vec<Field> {
        [
            Field::differing("strategy", &self.strategy, &want.strategy),
            Field::differing("capacity", &self.capacity, &want.capacity),
            Field::differing("platform_version", &self.platform_version, &want.platform_version),
            Field::differing("propagate_tags", &self.propagate_tags, &want.propagate_tags),
            Field::differing("managed_tags", &self.managed_tags, &want.managed_tags),
            Field::differing("execute_command", &self.execute_command, &want.execute_command),
            Field::differing(
                "health_check_grace_period",
                &self.health_check_grace_period,
                &want.health_check_grace_period,
            ),
            Field::differing("zone_rebalancing", &self.zone_rebalancing, &want.zone_rebalancing),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(feature = "aws")]
pub(super) use from_aws::*;

#[cfg(feature = "aws")]
mod from_aws {
    use aws_sdk_ecs::types::{
        AssignPublicIp, AvailabilityZoneRebalancing, AwsVpcConfiguration, DeploymentCircuitBreaker,
        DeploymentConfiguration as SdkConfiguration, LaunchType, NetworkConfiguration, Service,
    };

    use super::{DeploymentConfiguration, Manner, Network, OLD_PLATFORMS};

    /// What is absent is what ECS itself takes where nothing was set.
    pub fn read(service: &Service) -> (Network, DeploymentConfiguration, Manner) {
        let vpc = service.network_configuration().and_then(NetworkConfiguration::awsvpc_configuration);
        let configuration = service.deployment_configuration();
        let breaker = configuration.and_then(SdkConfiguration::deployment_circuit_breaker);
        let network = vpc.map_or_else(|| Network::new(&[], &[], false), network);
        let deployment = DeploymentConfiguration {
            circuit_breaker: breaker.is_some_and(DeploymentCircuitBreaker::enable),
            rollback: breaker.is_some_and(DeploymentCircuitBreaker::rollback),
            minimum_healthy_percent: configuration.and_then(SdkConfiguration::minimum_healthy_percent).unwrap_or(100),
            maximum_percent: configuration.and_then(SdkConfiguration::maximum_percent).unwrap_or(200),
        };
        let strategy = configuration.and_then(SdkConfiguration::strategy);
        let manner = Manner {
            strategy: strategy.map_or("ROLLING", |strategy| strategy.as_str()).to_owned(),
            capacity: capacity(service),
            // ECS fills in the newest version's number where the latest one was asked for.
            platform_version: service
                .platform_version()
                .filter(|version| OLD_PLATFORMS.contains(version))
                .unwrap_or("LATEST")
                .to_owned(),
            propagate_tags: service.propagate_tags().map_or("NONE", |tags| tags.as_str()).to_owned(),
            managed_tags: service.enable_ecs_managed_tags(),
            execute_command: service.enable_execute_command(),
            health_check_grace_period: service.health_check_grace_period_seconds().unwrap_or(0),
            zone_rebalancing: service.availability_zone_rebalancing() == Some(&AvailabilityZoneRebalancing::Enabled),
        };
        (network, deployment, manner)
    }

    fn network(vpc: &AwsVpcConfiguration) -> Network {
        let public = vpc.assign_public_ip() == Some(&AssignPublicIp::Enabled);
        Network::new(vpc.subnets(), vpc.security_groups(), public)
    }

    /// A strategy of nothing but `FARGATE` is the same as the launch type.
    fn capacity(service: &Service) -> String {
        let strategy = service.capacity_provider_strategy();
        if strategy.iter().any(|item| item.capacity_provider() != "FARGATE") {
            let mut items: Vec<String> = strategy
                .iter()
                .map(|item| format!("{} base {} weight {}", item.capacity_provider(), item.base(), item.weight()))
                .collect();
            items.sort();
            return items.join(", ");
        }
        let launch = service.launch_type().filter(|_| strategy.is_empty());
        launch.map_or("FARGATE", LaunchType::as_str).to_owned()
    }
}
