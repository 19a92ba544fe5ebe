//! `DescribeServices` and `ListServices`.

use serde_json::{Value, json};

use crate::model::Cloud;
use crate::model::ecs::rollout::{self, Deployment, RolloutState};
use crate::model::ecs::service::{Service, Status};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::fields::{Fields, lower_tags};
use crate::protocol::paging::Limits;
use crate::services::ecs::common::{arns, cluster, includes};

/// Fargate's newest platform version for Linux.
const NEWEST_PLATFORM: &str = "1.4.0";

/// The settings that a deployment returns.
const SHOWN: [&str; 4] = ["launchType", "capacityProviderStrategy", "platformVersion", "networkConfiguration"];

pub fn describe(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?;
    let named = input.texts("services");
    if named.is_empty() {
        return Err(ApiError::invalid("Services cannot be empty."));
    }
    if named.len() > 10 {
        return Err(ApiError::invalid("Services cannot have more than 10 elements."));
    }
    let (mut services, mut failures) = (Vec::new(), Vec::new());
    for id in named {
        if let Some(service) = cluster.services.get(tail(id)) {
            services.push(show(cloud, service, includes(input, "TAGS")));
        } else {
            let arn = cloud.arn("ecs", &format!("service/{}/{}", cluster.name, tail(id)));
            failures.push(json!({"arn": arn, "reason": "MISSING"}));
        }
    }
    Ok(json!({"services": services, "failures": failures}))
}

/// Lists ACTIVE services; DRAINING ones are not included.
pub fn list(cloud: &mut Cloud, input: &Value) -> Reply {
    let fits = |service: &&Service| {
        let same = |field: &str| {
            input.text(field).is_none_or(|wanted| service.settings.get(field).and_then(Value::as_str) == Some(wanted))
        };
        service.is_active() && same("launchType") && same("schedulingStrategy")
    };
    let services = cluster(cloud, input)?.services.values().filter(fits);
    let all = services.map(|service| (service.arn.clone(), service.arn.as_str().into())).collect();
    arns(input, "serviceArns", all, Limits { default: 10, max: 100 })
}

pub fn show(cloud: &Cloud, service: &Service, with_tags: bool) -> Value {
    let listed = service.rollout.deployments.iter().filter(|_| service.status != Status::Inactive);
    let shown = |(index, deployment)| show_deployment(cloud, service, deployment, index == 0);
    let deployments: Vec<Value> = listed.enumerate().map(shown).collect();
    let event = |event: &rollout::Event| {
        json!({
            "id": format!("{}-{}", service.name, event.id),
            "createdAt": event.at.epoch_seconds(),
            "message": event.message,
        })
    };
    let sum = |field: &str| deployments.iter().filter_map(|deployment| deployment.number(field)).sum::<i64>();
    let status = match service.status {
        Status::Active => "ACTIVE",
        Status::Draining => "DRAINING",
        Status::Inactive => "INACTIVE",
    };
    let mut shown = json!({
        "serviceArn": service.arn,
        "serviceName": service.name,
        "clusterArn": service.cluster_arn,
        "status": status,
        "desiredCount": service.rollout.desired,
        "runningCount": sum("runningCount"),
        "pendingCount": sum("pendingCount"),
        "taskDefinition": service.rollout.primary().map(|primary| &primary.revision.task_definition),
        "deployments": deployments,
        "events": service.rollout.events.iter().map(event).collect::<Vec<Value>>(),
        "createdAt": service.created_at.epoch_seconds(),
        "createdBy": format!("arn:aws:iam::{}:user/localcloud", cloud.rules.account),
        "roleArn": format!(
            "arn:aws:iam::{}:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS",
            cloud.rules.account
        ),
        "platformFamily": "Linux",
    });
    for (field, value) in service.settings.iter().filter(|(field, _)| *field != "role") {
        shown[field] = value.clone();
    }
    if with_tags {
        shown["tags"] = lower_tags(&service.tags);
    }
    shown
}

fn show_deployment(cloud: &Cloud, service: &Service, deployment: &Deployment, is_primary: bool) -> Value {
    let tasks = service.tasks.iter().filter_map(|arn| cloud.ecs.tasks.get(arn));
    let own = tasks.filter(|task| task.deployment() == Some(&deployment.id));
    let (mut running, mut pending) = (0, 0);
    for task in own {
        match task.last_status.as_str() {
            "RUNNING" => running += 1,
            "PROVISIONING" | "PENDING" => pending += 1,
            _ => {}
        }
    }
    let state = match deployment.state {
        RolloutState::InProgress => "IN_PROGRESS",
        RolloutState::Completed => "COMPLETED",
        RolloutState::Failed => "FAILED",
    };
    let mut shown = json!({
        "id": deployment.id,
        "status": if is_primary { "PRIMARY" } else { "ACTIVE" },
        "taskDefinition": deployment.revision.task_definition,
        "desiredCount": if is_primary { service.rollout.desired } else { running + pending },
        "runningCount": running,
        "pendingCount": pending,
        "failedTasks": deployment.failed_tasks,
        "createdAt": deployment.created_at.epoch_seconds(),
        "updatedAt": deployment.updated_at.epoch_seconds(),
        "rolloutState": state,
        "rolloutStateReason": deployment.reason,
        "platformFamily": "Linux",
    });
    for field in SHOWN {
        if let Some(value) = deployment.revision.settings.get(field) {
            shown[field] = value.clone();
        }
    }
    // ECS resolves LATEST when the deployment starts.
    if shown["platformVersion"] == "LATEST" {
        shown["platformVersion"] = NEWEST_PLATFORM.into();
    }
    shown
}
