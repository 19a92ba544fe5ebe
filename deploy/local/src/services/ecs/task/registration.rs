//! Registers running tasks in Cloud Map, and deregisters them.

use serde_json::Value;

use crate::model::Cloud;
use crate::model::cloudmap::{Attributes, Registry};
use crate::model::ecs::task::Task;
use crate::protocol::fields::Fields;
use crate::services::cloudmap;

fn registry_arns(task: &Task) -> Vec<String> {
    let registries = task.settings.get("serviceRegistries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    registries.iter().filter_map(|registry| registry.text("registryArn")).map(str::to_owned).collect()
}

/// Registers a running task in Cloud Map under its id, with the attributes that ECS sets.
pub fn register(cloud: &mut Cloud, arn: &str) {
    let Some(task) = cloud.ecs.tasks.get(arn) else {
        return;
    };
    let (Some(address), Some((service, _))) = (task.address, task.service.clone()) else {
        return;
    };
    let (id, cluster, port) = (task.id().to_owned(), task.cluster.clone(), task.port);
    let given = task.settings.get("serviceRegistries").and_then(|registries| registries.get(0));
    let given = given.and_then(|registry| registry.number("containerPort").or(registry.number("port")));
    let mut attributes = Attributes::new();
    let mut set = |name: &str, value: String| drop(attributes.insert(name.to_owned(), value));
    set("AWS_INSTANCE_IPV4", address.to_string());
    set("AVAILABILITY_ZONE", format!("{}a", cloud.rules.region));
    set("REGION", cloud.rules.region.clone());
    set("ECS_CLUSTER_NAME", cluster.clone());
    set("ECS_SERVICE_NAME", service.clone());
    set("ECS_TASK_DEFINITION_FAMILY", task.family.clone());
    for registry in registry_arns(task) {
        let srv = cloud.cloudmap.by_arn(&registry).is_some_and(Registry::has_srv);
        let port = port.map(i64::from).or(given.filter(|_| srv));
        let mut attributes = attributes.clone();
        if let Some(port) = port {
            attributes.insert("AWS_INSTANCE_PORT".to_owned(), port.to_string());
        }
        let now = cloud.now();
        if let Err(error) = cloudmap::register_task(cloud, &registry, &id, attributes)
            && let Some(service) = cloud.ecs.service_mut(&cluster, &service)
        {
            service.rollout.add_event(&format!("could not register (task {id}) in {registry}: {error}"), now);
        }
    }
}

pub fn deregister(cloud: &mut Cloud, arn: &str) {
    let Some(task) = cloud.ecs.tasks.get(arn) else {
        return;
    };
    let (id, registries) = (task.id().to_owned(), registry_arns(task));
    for registry in &registries {
        cloudmap::deregister_task(cloud, registry, &id);
    }
}
