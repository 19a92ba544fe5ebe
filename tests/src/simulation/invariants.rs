//! Invariants of one location in a cloud. Each function returns how the location violates it, if it does.

use localcloud::model::Cloud;
use localcloud::model::ecs::task_definition::Definition;
use localcloud::protocol::fields::Fields as _;

use crate::runs::{deployed, family, lacks, named};

/// A definition of the location from which a task can start, and that lacks a role, a permission, its image or its log group. Unless
/// `with_old_images`, only definitions with an image that the service runs or rolls out count.
pub fn cannot_start(cloud: &Cloud, location: &str, with_old_images: bool) -> Option<String> {
    let image = |definition: &Definition| definition.containers().first()?.text("image").map(str::to_owned);
    let deployed: Vec<_> = deployed(cloud, location).into_iter().map(image).collect();
    let counts = |one: &&Definition| with_old_images || deployed.contains(&image(one));
    let named = named(cloud, location).into_iter().filter(counts);
    named.into_iter().find_map(|one| Some(format!("{}: {}", one.arn, lacks(cloud, one)?)))
}

/// Why no run of a healthy location could start now.
pub fn cannot_run(cloud: &Cloud, location: &str) -> Option<String> {
    let Some(family) = family(cloud, location) else { return Some("no code server is healthy".to_owned()) };
    match cloud.ecs.definition(&family) {
        Some(definition) if definition.status == "ACTIVE" => lacks(cloud, definition),
        _ => Some(format!("no revision of {family} is ACTIVE")),
    }
}

/// A part of the location's service that differs from its config. codeloc repairs all of them whatever revision serves: none of them
/// needs an image.
pub fn unrepaired(cloud: &Cloud, location: &str, (least, most): (i64, i64)) -> Option<String> {
    let name = format!("{location}-service");
    let service = cloud.ecs.clusters.get("dagster").and_then(|cluster| cluster.services.get(&name));
    let Some(service) = service.filter(|service| service.is_active()) else {
        return Some("the ECS service does not exist".to_owned());
    };
    let setting = |field: &str| service.settings.get(field).cloned().unwrap_or_default();
    let registry = cloud.cloudmap.services.values().find(|registry| registry.name == name);
    let target = cloud.autoscaling.targets.get(&format!("service/dagster/{name}"));
    let scaling = target.map(|target| (target.min, target.max, target.policies.len()));
    let group = cloud.logs.groups.get(&format!("/codeloc/locations/{location}"));
    let role = cloud.iam.roles.get(&format!("codeloc-{location}"));
    let desired = i64::try_from(service.rollout.desired).unwrap_or(i64::MAX);
    let checks = [
        ("subnets", setting("networkConfiguration")["awsvpcConfiguration"].texts("subnets") == ["subnet-a"]),
        ("circuit breaker", service.rollout.breaker == Some(true)),
        ("launch type", setting("launchType") == "FARGATE"),
        (
            "Cloud Map service",
            registry.is_some_and(|registry| setting("serviceRegistries")[0]["registryArn"] == *registry.arn),
        ),
        ("scaling", scaling == (least != most).then_some((least, most, 2))),
        ("desired count", (least..=most).contains(&desired)),
        ("log group", group.is_some_and(|group| group.retention_days.is_some())),
        ("task role", role.is_some_and(|role| role.inline.keys().eq(["codeloc"]))),
    ];
    let wrong: Vec<&str> = checks.into_iter().filter(|(_, right)| !right).map(|(what, _)| what).collect();
    (!wrong.is_empty()).then(|| format!("not as configured: {}", wrong.join(", ")))
}
