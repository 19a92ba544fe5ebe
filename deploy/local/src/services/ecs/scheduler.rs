//! The service scheduler: carries out what [`crate::model::ecs::rollout`] decides.

use super::task::{self, Order};
use crate::model::ecs::rollout::{Action, Member};
use crate::model::ecs::service::{Service, Status};
use crate::model::{Cloud, Timer};
use crate::protocol::arn::tail;
use crate::protocol::fields::Tags;

const INACTIVE_SHOWN: std::time::Duration = std::time::Duration::from_hours(1);

/// Looks at one service: what is unhealthy goes, what is missing starts, and what is due later is noted.
pub fn reconcile(cloud: &mut Cloud, cluster: &str, name: &str) {
    replace_unhealthy(cloud, cluster, name);
    let now = cloud.now();
    let members = members(cloud, cluster, name);
    let Some(service) = cloud.ecs.service_mut(cluster, name) else {
        return;
    };
    if service.status == Status::Inactive {
        return;
    }
    let actions = service.rollout.step(&members, now);
    let pause = service.rollout.due(&members, now);
    if service.rollout.draining && members.is_empty() {
        service.status = Status::Inactive;
        let timer = Timer::ForgetService { cluster: cluster.to_owned(), name: name.to_owned() };
        cloud.schedule(now + INACTIVE_SHOWN, timer);
        return;
    }
    if let Some(due) = pause {
        cloud.schedule(due, Timer::Service { cluster: cluster.to_owned(), name: name.to_owned() });
    }
    for action in actions {
        match action {
            Action::Stop { arn, reason } => {
                tell(cloud, cluster, name, &format!("has stopped 1 running tasks: (task {}).", tail(&arn)));
                task::stop(cloud, &arn, "ServiceSchedulerInitiated", &reason);
            }
            Action::Launch { deployment, count } => {
                launch(cloud, cluster, name, &deployment, count);
            }
        }
    }
}

fn launch(cloud: &mut Cloud, cluster: &str, name: &str, deployment: &str, count: usize) {
    for _ in 0..count {
        let Some(service) = cloud.ecs.service_mut(cluster, name) else {
            return;
        };
        let Some(order) = order(service, cluster, deployment) else {
            return;
        };
        if let Some(arn) = task::launch(cloud, order) {
            tell(cloud, cluster, name, &format!("has started 1 tasks: (task {}).", tail(&arn)));
        }
    }
}

fn order(service: &Service, cluster: &str, deployment: &str) -> Option<Order> {
    let found = service.rollout.deployments.iter().find(|candidate| candidate.id == deployment)?;
    let settings = &service.settings;
    Some(Order {
        cluster: cluster.to_owned(),
        definition: found.revision.task_definition.clone(),
        group: format!("service:{}", service.name),
        started_by: Some(deployment.to_owned()),
        service: Some((service.name.clone(), deployment.to_owned())),
        settings: found.revision.settings.clone(),
        overrides: serde_json::Value::Null,
        tags: match settings.get("propagateTags").and_then(serde_json::Value::as_str) {
            Some("SERVICE") => service.tags.clone(),
            _ => Tags::new(),
        },
        propagate_definition_tags: settings.get("propagateTags").is_some_and(|from| from == "TASK_DEFINITION"),
    })
}

/// A task that did not become healthy in its time is stopped, and counts as failed.
fn replace_unhealthy(cloud: &mut Cloud, cluster: &str, name: &str) {
    let now = cloud.now();
    let Some(service) = cloud.ecs.service_mut(cluster, name) else {
        return;
    };
    for arn in service.tasks.clone() {
        let overdue = cloud.ecs.tasks.get_mut(&arn).filter(|task| task.is_overdue(now));
        let Some(task) = overdue else { continue };
        "UNHEALTHY".clone_into(&mut task.health);
        let deployment = task.deployment().map(str::to_owned);
        tell(cloud, cluster, name, &format!("(task {}) failed container health checks.", tail(&arn)));
        task::stop(cloud, &arn, "ServiceSchedulerInitiated", "Task failed container health checks");
        if let Some(deployment) = deployment {
            task::failed(cloud, cluster, name, &deployment);
        }
    }
}

fn members(cloud: &mut Cloud, cluster: &str, name: &str) -> Vec<Member> {
    let (now, steady_after) = (cloud.now(), cloud.rules.steady_after);
    let Some(service) = cloud.ecs.service_mut(cluster, name) else {
        return Vec::new();
    };
    let mut members = Vec::new();
    for arn in service.tasks.clone() {
        if let Some(task) = cloud.ecs.tasks.get(&arn)
            && let Some(deployment) = task.deployment()
        {
            let phase = task.phase(now, steady_after);
            members.push(Member { arn, deployment: deployment.to_owned(), phase });
        }
    }
    members
}

fn tell(cloud: &mut Cloud, cluster: &str, name: &str, what: &str) {
    let now = cloud.now();
    if let Some(service) = cloud.ecs.service_mut(cluster, name) {
        service.rollout.tell(what, now);
    }
}
