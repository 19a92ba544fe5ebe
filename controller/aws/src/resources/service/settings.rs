//! What a service says of how it runs its tasks.

use aws_sdk_ecs::types::{
    AssignPublicIp, AvailabilityZoneRebalancing, AwsVpcConfiguration, DeploymentCircuitBreaker,
    DeploymentConfiguration as SdkConfiguration, LaunchType, NetworkConfiguration, Service,
};

use codeloc_core::resources::service::{DeploymentConfiguration, Network, ServiceOptions};

/// Fargate's older platform versions. A service that asks for the latest version never gets one of them.
const OLD_PLATFORMS: [&str; 4] = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"];

/// What is absent is what ECS itself takes where nothing was set.
pub fn read(service: &Service) -> (Network, DeploymentConfiguration, ServiceOptions) {
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
    let options = ServiceOptions {
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
    (network, deployment, options)
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
