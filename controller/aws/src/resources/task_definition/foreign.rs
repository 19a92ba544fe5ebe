//! What a task definition says that codeloc never writes. Any of it changes what runs, so a definition with it is not ours.
//!
//! ECS and others fill in what was not given: an empty list or text, zero and `false` are the same as absent.

use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, LogConfiguration, LogDriver, NetworkMode, OsFamily, PortMapping,
    TaskDefinition, TransportProtocol, VersionConsistency,
};

/// Its names in AWS's words, sorted as they are asked for.
pub fn foreign(definition: &TaskDefinition) -> Vec<&'static str> {
    let [container] = definition.container_definitions() else { return vec!["containerDefinitions"] };
    let found = of_task(definition).into_iter().chain(of_container(container)).chain(of_its_machine(container));
    found.filter(|(_, says)| *says).map(|(name, _)| name).collect()
}

fn of_task(definition: &TaskDefinition) -> Vec<(&'static str, bool)> {
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

/// What it runs, and with what.
fn of_container(container: &ContainerDefinition) -> Vec<(&'static str, bool)> {
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
        ("logConfiguration", !container.log_configuration().is_some_and(is_our_log)),
        ("firelensConfiguration", container.firelens_configuration().is_some()),
        (
            "portMappings",
            !matches!(container.port_mappings(), [])
                && !matches!(container.port_mappings(), [mapping] if is_our_port(mapping)),
        ),
        ("dockerLabels", container.docker_labels().is_some_and(|labels| !labels.is_empty())),
    ]
}

/// What the container is allowed and denied.
fn of_its_machine(container: &ContainerDefinition) -> Vec<(&'static str, bool)> {
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

fn is_our_log(log: &LogConfiguration) -> bool {
    *log.log_driver() == LogDriver::Awslogs
        && log.secret_options().is_empty()
        && log.options().is_some_and(|options| options.len() == 3)
}

/// On the host's side the port is the same with `awsvpc`.
fn is_our_port(mapping: &PortMapping) -> bool {
    mapping.host_port().is_none_or(|host| Some(host) == mapping.container_port())
        && mapping.protocol().is_none_or(|protocol| *protocol == TransportProtocol::Tcp)
        && mapping.container_port_range().is_none()
}
