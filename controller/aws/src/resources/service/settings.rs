//! Reads the settings with which a service runs its tasks.

use aws_sdk_ecs::types::{
    AssignPublicIp, AvailabilityZoneRebalancing, AwsVpcConfiguration, DeploymentCircuitBreaker,
    DeploymentConfiguration as SdkConfiguration, LaunchType, NetworkConfiguration, Service,
};

use codeloc_core::resources::service::{DeploymentConfiguration, Network, ServiceOptions};

/// Fargate's older platform versions. A service that asks for the latest version never gets one of them.
const OLD_PLATFORMS: [&str; 4] = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"];

/// An absent setting has ECS's default.
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
        // ECS replaces `LATEST` with the number of the newest version.
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

/// A strategy that contains only `FARGATE` is the same as the launch type.
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

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::CapacityProviderStrategyItem;

    use super::*;

    #[test]
    fn an_absent_setting_has_the_default_of_ecs() {
        let (network, deployment, options) = read(&Service::builder().build());
        assert_eq!(network, Network::new(&[], &[], false));
        assert_eq!((deployment.minimum_healthy_percent, deployment.maximum_percent), (100, 200));
        assert_eq!((options.strategy.as_str(), options.platform_version.as_str()), ("ROLLING", "LATEST"));
        assert_eq!((options.capacity.as_str(), options.propagate_tags.as_str()), ("FARGATE", "NONE"));
    }

    #[test]
    fn only_an_old_platform_version_differs_from_latest() {
        let version = |version: &str| read(&Service::builder().platform_version(version).build()).2.platform_version;
        assert_eq!(version("1.4.0"), "LATEST");
        assert_eq!(version("1.3.0"), "1.3.0");
    }

    #[test]
    fn a_strategy_of_fargate_only_is_the_launch_type() {
        let item = |provider: &str| {
            CapacityProviderStrategyItem::builder().capacity_provider(provider).weight(1).build().unwrap()
        };
        let capacity =
            |items: Vec<_>| super::capacity(&Service::builder().set_capacity_provider_strategy(Some(items)).build());
        assert_eq!(capacity(vec![item("FARGATE")]), "FARGATE");
        assert_eq!(
            capacity(vec![item("FARGATE_SPOT"), item("FARGATE")]),
            "FARGATE base 0 weight 1, FARGATE_SPOT base 0 weight 1"
        );
        let launched = |kind| super::capacity(&Service::builder().launch_type(kind).build());
        assert_eq!(launched(LaunchType::Ec2), "EC2");
    }
}
