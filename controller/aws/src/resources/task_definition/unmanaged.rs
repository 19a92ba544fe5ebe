//! Settings of a task definition that codeloc never sets. Each of them changes what runs, so codeloc does not use such a definition.
//!
//! ECS fills in defaults: an empty list or text, zero and `false` are the same as absent.

use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, LogConfiguration, LogDriver, NetworkMode, OsFamily, PortMapping,
    TaskDefinition, TransportProtocol, VersionConsistency,
};

/// The names of the settings, as AWS writes them.
pub fn unmanaged_settings(definition: &TaskDefinition) -> Vec<&'static str> {
    let [container] = definition.container_definitions() else { return vec!["containerDefinitions"] };
    let found =
        task_settings(definition).into_iter().chain(container_settings(container)).chain(machine_settings(container));
    found.filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

fn task_settings(definition: &TaskDefinition) -> Vec<(&'static str, bool)> {
    let family = definition.runtime_platform().and_then(|platform| platform.operating_system_family());
    vec![
        ("networkMode", definition.network_mode() != Some(&NetworkMode::Awsvpc)),
        ("requiresCompatibilities", definition.requires_compatibilities() != [Compatibility::Fargate]),
        ("operatingSystemFamily", family.is_some_and(|family| *family != OsFamily::Linux)),
        ("volumes", !definition.volumes().is_empty()),
        ("pidMode", definition.pid_mode().is_some_and(|mode| !mode.as_str().is_empty())),
        ("ipcMode", definition.ipc_mode().is_some_and(|mode| !mode.as_str().is_empty())),
        ("proxyConfiguration", definition.proxy_configuration().is_some()),
        ("placementConstraints", !definition.placement_constraints().is_empty()),
        ("inferenceAccelerators", !definition.inference_accelerators().is_empty()),
        ("ephemeralStorage", definition.ephemeral_storage().is_some()),
        ("enableFaultInjection", definition.enable_fault_injection() == Some(true)),
    ]
}

/// The program and its surroundings.
fn container_settings(container: &ContainerDefinition) -> Vec<(&'static str, bool)> {
    vec![
        ("essential", container.essential() == Some(false)),
        ("entryPoint", !container.entry_point().is_empty()),
        ("environmentFiles", !container.environment_files().is_empty()),
        ("repositoryCredentials", container.repository_credentials().is_some()),
        ("versionConsistency", container.version_consistency() == Some(&VersionConsistency::Disabled)),
        ("workingDirectory", container.working_directory().is_some()),
        ("user", container.user().is_some()),
        ("mountPoints", !container.mount_points().is_empty()),
        ("volumesFrom", !container.volumes_from().is_empty()),
        ("dependsOn", !container.depends_on().is_empty()),
        ("restartPolicy", container.restart_policy().is_some_and(aws_sdk_ecs::types::ContainerRestartPolicy::enabled)),
        ("startTimeout", container.start_timeout().is_some()),
        ("logConfiguration", !container.log_configuration().is_some_and(is_own_log)),
        ("firelensConfiguration", container.firelens_configuration().is_some()),
        (
            "portMappings",
            !matches!(container.port_mappings(), [])
                && !matches!(container.port_mappings(), [mapping] if is_own_port(mapping)),
        ),
        ("dockerLabels", container.docker_labels().is_some_and(|labels| !labels.is_empty())),
    ]
}

/// Resources, devices and privileges.
fn machine_settings(container: &ContainerDefinition) -> Vec<(&'static str, bool)> {
    vec![
        ("cpu", container.cpu() != 0),
        ("memory", container.memory().is_some()),
        ("memoryReservation", container.memory_reservation().is_some()),
        ("privileged", container.privileged() == Some(true)),
        ("readonlyRootFilesystem", container.readonly_root_filesystem() == Some(true)),
        ("disableNetworking", container.disable_networking() == Some(true)),
        ("interactive", container.interactive() == Some(true)),
        ("pseudoTerminal", container.pseudo_terminal() == Some(true)),
        ("linuxParameters", container.linux_parameters().is_some()),
        ("ulimits", !container.ulimits().is_empty()),
        ("systemControls", !container.system_controls().is_empty()),
        ("resourceRequirements", !container.resource_requirements().is_empty()),
        ("dockerSecurityOptions", !container.docker_security_options().is_empty()),
        ("credentialSpecs", !container.credential_specs().is_empty()),
        ("hostname", container.hostname().is_some()),
        ("links", !container.links().is_empty()),
        ("extraHosts", !container.extra_hosts().is_empty()),
        ("dnsServers", !container.dns_servers().is_empty()),
        ("dnsSearchDomains", !container.dns_search_domains().is_empty()),
    ]
}

fn is_own_log(log: &LogConfiguration) -> bool {
    *log.log_driver() == LogDriver::Awslogs
        && log.secret_options().is_empty()
        && log.options().is_some_and(|options| options.len() == 3)
}

/// With `awsvpc`, the port of the host is the same.
fn is_own_port(mapping: &PortMapping) -> bool {
    mapping.host_port().is_none_or(|host| Some(host) == mapping.container_port())
        && mapping.protocol().is_none_or(|protocol| *protocol == TransportProtocol::Tcp)
        && mapping.container_port_range().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(container: aws_sdk_ecs::types::builders::ContainerDefinitionBuilder) -> TaskDefinition {
        let log = LogConfiguration::builder()
            .log_driver(LogDriver::Awslogs)
            .options("awslogs-group", "/codeloc/locations/orders")
            .options("awslogs-region", "eu-central-1")
            .options("awslogs-stream-prefix", "r1");
        TaskDefinition::builder()
            .network_mode(NetworkMode::Awsvpc)
            .requires_compatibilities(Compatibility::Fargate)
            .container_definitions(container.log_configuration(log.build().unwrap()).build())
            .build()
    }

    #[test]
    fn a_definition_of_codeloc_has_no_unmanaged_setting() {
        let port = PortMapping::builder().container_port(4000).host_port(4000).protocol(TransportProtocol::Tcp);
        let container = ContainerDefinition::builder().essential(true).privileged(false).port_mappings(port.build());
        assert_eq!(unmanaged_settings(&definition(container)), Vec::<&str>::new());
    }

    #[test]
    fn each_unmanaged_setting_is_named() {
        let port = PortMapping::builder().container_port(4000).protocol(TransportProtocol::Udp);
        let container =
            ContainerDefinition::builder().entry_point("sh").privileged(true).port_mappings(port.build()).user("root");
        assert_eq!(unmanaged_settings(&definition(container)), ["entryPoint", "user", "portMappings", "privileged"]);
    }

    #[test]
    fn a_second_container_is_unmanaged() {
        let container = ContainerDefinition::builder().build();
        let two = TaskDefinition::builder().container_definitions(container.clone()).container_definitions(container);
        assert_eq!(unmanaged_settings(&two.build()), ["containerDefinitions"]);
    }
}
