//! All resources in an account that a deployment could change, one line each. It makes its own calls, independent of the code of
//! the controller.

use std::collections::BTreeMap;

use aws_sdk_applicationautoscaling::types::ServiceNamespace;
use aws_sdk_ecs::types::{ServiceField, TaskDefinitionField};
use aws_sdk_iam::types::Role;
use codeloc_aws::Clients;
use codeloc_core::tags::{LOCATION, MANAGED_BY};
use serde_json::Value;

/// Sorted lines, without INACTIVE services.
pub async fn inventory(clients: &Clients) -> Vec<String> {
    let mut lines = log_groups(clients).await;
    lines.extend(roles(clients).await);
    lines.extend(task_definitions(clients).await);
    let registries = registries(clients).await;
    lines.extend(registries.values().cloned());
    lines.extend(services(clients, &registries).await);
    lines.extend(scaling(clients).await);
    let images = clients.ecr.describe_repositories().send().await.unwrap();
    lines
        .extend(images.repositories().iter().map(|one| format!("image repository {}", one.repository_name().unwrap())));
    lines.sort();
    lines
}

/// `of DEPLOYMENT for LOCATION`, or `untagged`.
fn owner<'a>(tags: impl IntoIterator<Item = (Option<&'a str>, Option<&'a str>)>) -> String {
    let tags: BTreeMap<&str, &str> = tags.into_iter().filter_map(|(key, value)| Some((key?, value?))).collect();
    match (tags.get(MANAGED_BY), tags.get(LOCATION)) {
        (Some(deployment), Some(location)) => format!("of {deployment} for {location}"),
        _ => "untagged".to_owned(),
    }
}

/// The part after the last slash.
fn short(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// Removes the hash from the name of a run task definition.
fn without_hash(definition: &str) -> String {
    match definition.split_once("_run_") {
        Some((location, hash)) => format!("{location}_run{}", hash.trim_start_matches(|c: char| c.is_ascii_hexdigit())),
        None => definition.to_owned(),
    }
}

async fn log_groups(clients: &Clients) -> Vec<String> {
    let mut lines = Vec::new();
    for group in clients.logs.describe_log_groups().send().await.unwrap().log_groups() {
        let (name, arn) = (group.log_group_name().unwrap(), group.arn().unwrap().trim_end_matches(":*"));
        let tags = clients.logs.list_tags_for_resource().resource_arn(arn).send().await.unwrap();
        let owner = owner(tags.tags().into_iter().flatten().map(|(key, value)| (Some(&**key), Some(&**value))));
        let days = group.retention_in_days().map_or_else(|| "without limit".to_owned(), |days| format!("{days} days"));
        lines.push(format!("log group {name}: kept {days}; {owner}"));
    }
    lines
}

async fn roles(clients: &Clients) -> Vec<String> {
    let mut lines = Vec::new();
    for listed in clients.iam.list_roles().send().await.unwrap().roles() {
        let name = listed.role_name();
        let role = clients.iam.get_role().role_name(name).send().await.unwrap().role.unwrap();
        let trust = document(role.assume_role_policy_document().unwrap());
        let mut reach = Vec::new();
        for policy in clients.iam.list_role_policies().role_name(name).send().await.unwrap().policy_names() {
            let policy = clients.iam.get_role_policy().role_name(name).policy_name(policy).send().await.unwrap();
            let statements = document(policy.policy_document());
            for statement in statements["Statement"].as_array().unwrap() {
                // A resource or a list.
                let resources = match &statement["Resource"] {
                    Value::Array(resources) => resources.iter().collect(),
                    resource => vec![resource],
                };
                let bare = |resource: &Value| resource.as_str().unwrap().trim_start_matches("arn:aws:s3:::").to_owned();
                reach.extend(resources.into_iter().map(bare));
            }
        }
        let service = trust["Statement"][0]["Principal"]["Service"].as_str().unwrap().to_owned();
        let reach = if reach.is_empty() { "nothing".to_owned() } else { reach.join(" ") };
        lines.push(format!("role {}{name}: {service} may reach {reach}; {}", role.path(), role_owner(&role)));
    }
    lines
}

fn role_owner(role: &Role) -> String {
    owner(role.tags().iter().map(|tag| (Some(tag.key()), Some(tag.value()))))
}

/// IAM sends policies percent-encoded.
fn document(encoded: &str) -> Value {
    let text = percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn task_definitions(clients: &Clients) -> Vec<String> {
    let mut lines = Vec::new();
    for arn in clients.ecs.list_task_definitions().send().await.unwrap().task_definition_arns() {
        let describe = clients.ecs.describe_task_definition().task_definition(arn).include(TaskDefinitionField::Tags);
        let described = describe.send().await.unwrap();
        let (definition, container) = (described.task_definition().unwrap(), definition_container(&described));
        let owner = owner(described.tags().iter().map(|tag| (tag.key(), tag.value())));
        let role = definition.task_role_arn().map_or("no role", short);
        let options = container.log_configuration().and_then(|log| log.options());
        let log = options.and_then(|options| options.get("awslogs-group")).map_or("nowhere", String::as_str);
        let (cpu, memory) = (definition.cpu().unwrap_or("-"), definition.memory().unwrap_or("-"));
        let image = container.image().unwrap_or_default();
        let image = image.split_once("@sha256:").map_or(image, |(name, _)| name);
        lines.push(format!(
            "task definition {}: {image} as {role}, {cpu} CPU units, {memory} MiB, log to {log}; {owner}",
            without_hash(short(arn))
        ));
    }
    lines
}

fn definition_container(
    described: &aws_sdk_ecs::operation::describe_task_definition::DescribeTaskDefinitionOutput,
) -> &aws_sdk_ecs::types::ContainerDefinition {
    &described.task_definition().unwrap().container_definitions()[0]
}

/// By ARN.
async fn registries(clients: &Clients) -> BTreeMap<String, String> {
    let namespaces = clients.discovery.list_namespaces().send().await.unwrap();
    let mut lines = BTreeMap::new();
    for listed in clients.discovery.list_services().send().await.unwrap().services() {
        let service = clients.discovery.get_service().id(listed.id().unwrap()).send().await.unwrap().service.unwrap();
        let namespace = namespaces.namespaces().iter().find(|one| one.id() == service.namespace_id()).unwrap();
        let arn = listed.arn().unwrap();
        let tags = clients.discovery.list_tags_for_resource().resource_arn(arn).send().await.unwrap();
        let owner = owner(tags.tags().iter().map(|tag| (Some(tag.key()), Some(tag.value()))));
        let records = service.dns_config().unwrap().dns_records().iter();
        let records: Vec<String> =
            records.map(|one| format!("{} for {} s", one.r#type().as_str(), one.ttl())).collect();
        let (name, namespace) = (service.name().unwrap(), namespace.name().unwrap());
        lines.insert(arn.to_owned(), format!("registry {name}.{namespace}: {}; {owner}", records.join(", ")));
    }
    lines
}

async fn services(clients: &Clients, registries: &BTreeMap<String, String>) -> Vec<String> {
    let names = clients.ecs.list_services().cluster("dagster").send().await.unwrap().service_arns.unwrap_or_default();
    let names: Vec<String> = names.iter().map(|arn| short(arn).to_owned()).collect();
    if names.is_empty() {
        return vec![];
    }
    let describe = clients.ecs.describe_services().cluster("dagster").set_services(Some(names));
    let described = describe.include(ServiceField::Tags).send().await.unwrap();
    let active = described.services().iter().filter(|service| service.status() == Some("ACTIVE"));
    active
        .map(|service| {
            let owner = owner(service.tags().iter().map(|tag| (tag.key(), tag.value())));
            let network = service.network_configuration().and_then(|network| network.awsvpc_configuration());
            let (subnets, groups) = network.map_or((0, 0), |vpc| (vpc.subnets().len(), vpc.security_groups().len()));
            let breaker = service.deployment_configuration().and_then(|one| one.deployment_circuit_breaker());
            let breaker = breaker.map_or("no breaker", |one| {
                if one.enable() && one.rollback() { "breaker with rollback" } else { "breaker" }
            });
            let registry = service.service_registries().first().and_then(|one| registries.get(one.registry_arn()?));
            let registry = registry.and_then(|line| line.split(':').next()).unwrap_or("no registry");
            format!(
                "service {}: {} of {}, {subnets} subnets, {groups} security group(s), {breaker}, {registry}; {owner}",
                service.service_name().unwrap(),
                service.desired_count(),
                short(service.task_definition().unwrap()),
            )
        })
        .collect()
}

/// Targets with their policies.
async fn scaling(clients: &Clients) -> Vec<String> {
    let ecs = ServiceNamespace::Ecs;
    let targets = clients.scaling.describe_scalable_targets().service_namespace(ecs.clone()).send().await.unwrap();
    let policies = clients.scaling.describe_scaling_policies().service_namespace(ecs).send().await.unwrap();
    let line = |target: &aws_sdk_applicationautoscaling::types::ScalableTarget| {
        let own = policies.scaling_policies().iter().filter(|policy| policy.resource_id() == target.resource_id());
        let tracked = own.map(|policy| {
            let tracking = policy.target_tracking_scaling_policy_configuration().unwrap();
            let metric = tracking.predefined_metric_specification().unwrap().predefined_metric_type();
            format!(", {} at {} %", metric.as_str(), tracking.target_value())
        });
        let tracked: String = tracked.collect();
        format!("scaling {}: {}..{}{tracked}", target.resource_id(), target.min_capacity(), target.max_capacity())
    };
    targets.scalable_targets().iter().map(line).collect()
}
