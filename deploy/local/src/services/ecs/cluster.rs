//! Clusters.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::common::{includes, is_name};
use crate::model::Cloud;
use crate::model::ecs::Cluster;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, lower_tags, pick};
use crate::protocol::tags;

pub fn create(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.text("clusterName").unwrap_or("default").to_owned();
    if !is_name(&name) {
        return Err(ApiError::invalid("Cluster name contains invalid characters or is longer than 255."));
    }
    let tags = input.tags("tags");
    tags::check(AwsService::Ecs, &tags)?;
    if !cloud.ecs.clusters.contains_key(&name) {
        let cluster = Cluster {
            arn: cloud.arn("ecs", &format!("cluster/{name}")),
            name: name.clone(),
            settings: pick(
                input,
                &["settings", "configuration", "capacityProviders", "defaultCapacityProviderStrategy"],
            ),
            tags,
            services: BTreeMap::new(),
        };
        cloud.ecs.clusters.insert(name.clone(), cluster);
    }
    Ok(json!({"cluster": show(cloud, &cloud.ecs.clusters[&name], true)}))
}

fn show(cloud: &Cloud, cluster: &Cluster, with_tags: bool) -> Value {
    let count = |status: &str| {
        let tasks = cloud.ecs.tasks.values();
        tasks.filter(|task| task.cluster == cluster.name && task.last_status == status).count()
    };
    let mut shown = json!({
        "clusterArn": cluster.arn,
        "clusterName": cluster.name,
        "status": "ACTIVE",
        "registeredContainerInstancesCount": 0,
        "runningTasksCount": count("RUNNING"),
        "pendingTasksCount": count("PENDING") + count("PROVISIONING"),
        "activeServicesCount": cluster.services.values().filter(|service| service.is_active()).count(),
        "statistics": [],
        "settings": [{"name": "containerInsights", "value": "disabled"}],
        "capacityProviders": [],
        "defaultCapacityProviderStrategy": [],
        "tags": if with_tags { lower_tags(&cluster.tags) } else { json!([]) },
    });
    for (field, value) in &cluster.settings {
        shown[field] = value.clone();
    }
    shown
}

pub fn describe(cloud: &mut Cloud, input: &Value) -> Value {
    let named = input.texts("clusters");
    let named = if named.is_empty() { vec!["default"] } else { named };
    let (mut clusters, mut failures) = (Vec::new(), Vec::new());
    for id in named {
        if let Some(cluster) = cloud.ecs.clusters.get(tail(id)) {
            clusters.push(show(cloud, cluster, includes(input, "TAGS")));
        } else {
            let arn = cloud.arn("ecs", &format!("cluster/{}", tail(id)));
            failures.push(json!({"arn": arn, "reason": "MISSING"}));
        }
    }
    json!({"clusters": clusters, "failures": failures})
}
