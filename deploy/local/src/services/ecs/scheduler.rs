//! The service scheduler: starts and stops tasks as [`crate::model::ecs::rollout`] decides.

use super::task::{self, TaskRequest};
use crate::model::ecs::rollout::{Action, Member};
use crate::model::ecs::service::{Service, Status};
use crate::model::{Cloud, Timer};
use crate::protocol::arn::tail;
use crate::protocol::fields::Tags;

const INACTIVE_SHOWN: std::time::Duration = std::time::Duration::from_hours(1);

/// Reconciles one service: stops unhealthy tasks, starts missing tasks, and schedules the next run.
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
                add_event(cloud, cluster, name, &format!("has stopped 1 running tasks: (task {}).", tail(&arn)));
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
        let Some(request) = request(service, cluster, deployment) else {
            return;
        };
        if let Some(arn) = task::launch(cloud, request) {
            add_event(cloud, cluster, name, &format!("has started 1 tasks: (task {}).", tail(&arn)));
        }
    }
}

fn request(service: &Service, cluster: &str, deployment: &str) -> Option<TaskRequest> {
    let found = service.rollout.deployments.iter().find(|candidate| candidate.id == deployment)?;
    let settings = &service.settings;
    Some(TaskRequest {
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

/// Stops tasks that did not become healthy in time, and counts them as failed.
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
        add_event(cloud, cluster, name, &format!("(task {}) failed container health checks.", tail(&arn)));
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

fn add_event(cloud: &mut Cloud, cluster: &str, name: &str, message: &str) {
    let now = cloud.now();
    if let Some(service) = cloud.ecs.service_mut(cluster, name) {
        service.rollout.add_event(message, now);
    }
}
