//! The service scheduler: carries out what [`crate::rollout`] decides.

use super::service::{self, Service, Status};
use super::task::{self, Order};
use crate::cloud::{Cloud, Timer};
use crate::rollout::{Action, Member};

const INACTIVE_SHOWN: std::time::Duration = std::time::Duration::from_hours(1);

/// Looks at one service: what is unhealthy goes, what is missing starts, and what is due later is noted.
pub fn reconcile(cloud: &mut Cloud, cluster: &str, name: &str) {
    replace_unhealthy(cloud, cluster, name);
    let now = cloud.now();
    let members = members(cloud, cluster, name);
    let Some(service) = service::find_mut(cloud, cluster, name) else {
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
        cloud.wake(now + INACTIVE_SHOWN, timer);
        return;
    }
    if let Some(due) = pause {
        cloud.wake(due, Timer::Service { cluster: cluster.to_owned(), name: name.to_owned() });
    }
    for action in actions {
        match action {
            Action::Stop { arn, reason } => {
                tell(cloud, cluster, name, &format!("has stopped 1 running tasks: (task {}).", super::tail(&arn)));
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
        let Some(service) = service::find_mut(cloud, cluster, name) else {
            return;
        };
        let Some(order) = order(service, cluster, deployment) else {
            return;
        };
        if let Some(arn) = task::launch(cloud, order) {
            tell(cloud, cluster, name, &format!("has started 1 tasks: (task {}).", super::tail(&arn)));
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
            _ => super::Tags::new(),
        },
        propagate_definition_tags: settings.get("propagateTags").is_some_and(|from| from == "TASK_DEFINITION"),
    })
}

/// A task that did not become healthy in its time is stopped, and counts as failed.
fn replace_unhealthy(cloud: &mut Cloud, cluster: &str, name: &str) {
    let now = cloud.now();
    let Some(service) = service::find_mut(cloud, cluster, name) else {
        return;
    };
    for arn in service.tasks.clone() {
        let overdue = cloud.ecs.tasks.get_mut(&arn).filter(|task| task.is_overdue(now));
        let Some(task) = overdue else { continue };
        "UNHEALTHY".clone_into(&mut task.health);
        let deployment = task.deployment().map(str::to_owned);
        tell(cloud, cluster, name, &format!("(task {}) failed container health checks.", super::tail(&arn)));
        task::stop(cloud, &arn, "ServiceSchedulerInitiated", "Task failed container health checks");
        if let Some(deployment) = deployment {
            failed(cloud, cluster, name, &deployment);
        }
    }
}

/// Counts a failed task of a deployment, and looks at the service again.
pub fn failed(cloud: &mut Cloud, cluster: &str, name: &str, deployment: &str) {
    let (now, fresh) = (cloud.now(), service::draw_deployment(cloud));
    if let Some(service) = service::find_mut(cloud, cluster, name) {
        service.rollout.task_failed(deployment, fresh, now);
    }
    cloud.wake(now, Timer::Service { cluster: cluster.to_owned(), name: name.to_owned() });
}

fn members(cloud: &mut Cloud, cluster: &str, name: &str) -> Vec<Member> {
    let (now, steady_after) = (cloud.now(), cloud.rules.steady_after);
    let Some(service) = service::find_mut(cloud, cluster, name) else {
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
    if let Some(service) = service::find_mut(cloud, cluster, name) {
        service.rollout.tell(what, now);
    }
}
