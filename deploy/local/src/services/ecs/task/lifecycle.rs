//! From a report of the driver to the next state of a task.

use std::time::Duration;

use super::registration::{deregister, register};
use crate::model::ecs::task::Task;
use crate::model::launch::Report;
use crate::model::time::Time;
use crate::model::{Cloud, Effect, Timer};
use crate::services::logs;

const STOPPED_SHOWN: Duration = Duration::from_hours(1);

/// Applies a report of the driver. Reports about unknown or stopped tasks change nothing.
pub fn report(cloud: &mut Cloud, report: Report) {
    let now = cloud.now();
    match report {
        Report::Log { group, stream, line } => logs::append(cloud, &group, &stream, line),
        Report::Exited { task_arn, exit_code, reason } => end(cloud, &task_arn, exit_code, &reason),
        Report::Pulled { task_arn } => {
            if let Some(task) = live(cloud, &task_arn)
                && task.last_status == "PROVISIONING"
            {
                "PENDING".clone_into(&mut task.last_status);
                task.times.pulled = Some(now);
            }
        }
        Report::Running { task_arn, address, port } => {
            if let Some(task) = live(cloud, &task_arn) {
                (task.address, task.port, task.times.started) = (Some(address), port, Some(now));
                if task.desired_status == "RUNNING" {
                    "RUNNING".clone_into(&mut task.last_status);
                    let (health_time, checked) = (task.health_time, task.has_health_check);
                    let settles = if checked { health_time } else { cloud.rules.steady_after };
                    register(cloud, &task_arn);
                    wake_service(cloud, &task_arn, now);
                    wake_service(cloud, &task_arn, now + settles);
                }
            }
        }
        Report::Healthy { task_arn } => {
            if let Some(task) = live(cloud, &task_arn)
                && task.has_health_check
                && task.health == "UNKNOWN"
            {
                "HEALTHY".clone_into(&mut task.health);
                wake_service(cloud, &task_arn, now);
            }
        }
    }
}

fn live<'a>(cloud: &'a mut Cloud, arn: &str) -> Option<&'a mut Task> {
    cloud.ecs.tasks.get_mut(arn).filter(|task| task.last_status != "STOPPED")
}

fn wake_service(cloud: &mut Cloud, arn: &str, at: Time) {
    let task = cloud.ecs.tasks.get(arn);
    let named = task.and_then(|task| Some((task.cluster.clone(), task.service.as_ref()?.0.clone())));
    if let Some((cluster, name)) = named {
        cloud.schedule(at, Timer::Service { cluster, name });
    }
}

/// Stops a task: deregisters it from Cloud Map at once; the driver reports when it is STOPPED.
pub fn stop(cloud: &mut Cloud, arn: &str, code: &str, reason: &str) {
    let now = cloud.now();
    let Some(task) = live(cloud, arn).filter(|task| task.desired_status == "RUNNING") else {
        return;
    };
    "STOPPED".clone_into(&mut task.desired_status);
    let next = if task.last_status == "RUNNING" { "DEACTIVATING" } else { "STOPPING" };
    next.clone_into(&mut task.last_status);
    task.times.stopping = Some(now);
    task.stop_code = Some(code.to_owned());
    task.stopped_reason = Some(reason.to_owned());
    deregister(cloud, arn);
    cloud.push_effect(Effect::Stop { task_arn: arn.to_owned() });
}

/// Ends a task that exited by itself or was stopped.
pub fn end(cloud: &mut Cloud, arn: &str, exit_code: Option<i32>, reason: &str) {
    let now = cloud.now();
    let Some(task) = live(cloud, arn) else { return };
    let unasked = task.desired_status == "RUNNING";
    if unasked {
        let (code, why) = match exit_code {
            Some(_) => ("EssentialContainerExited", "Essential container in task exited"),
            None => ("TaskFailedToStart", reason),
        };
        task.stop_code = Some(code.to_owned());
        task.stopped_reason = Some(why.to_owned());
    }
    (task.exit_code, task.exit_reason) = (exit_code, Some(reason.to_owned()).filter(|reason| !reason.is_empty()));
    finish(cloud, arn);
    let Some(task) = cloud.ecs.tasks.get(arn) else {
        return;
    };
    if let Some((name, deployment)) = task.service.clone() {
        let cluster = task.cluster.clone();
        if unasked {
            failed(cloud, &cluster, &name, &deployment);
        } else {
            cloud.schedule(now, Timer::Service { cluster, name });
        }
    }
}

/// Counts a failed task of a deployment, and schedules the service.
pub fn failed(cloud: &mut Cloud, cluster: &str, name: &str, deployment: &str) {
    let (now, fresh) = (cloud.now(), cloud.draw_deployment_id());
    if let Some(service) = cloud.ecs.service_mut(cluster, name) {
        service.rollout.task_failed(deployment, fresh, now);
    }
    cloud.schedule(now, Timer::Service { cluster: cluster.to_owned(), name: name.to_owned() });
}

fn finish(cloud: &mut Cloud, arn: &str) {
    deregister(cloud, arn);
    let now = cloud.now();
    let Some(task) = cloud.ecs.tasks.get_mut(arn) else {
        return;
    };
    "STOPPED".clone_into(&mut task.last_status);
    "STOPPED".clone_into(&mut task.desired_status);
    task.times.stopping.get_or_insert(now);
    task.times.stopped = Some(now);
    if let Some((name, _)) = task.service.clone() {
        let cluster = task.cluster.clone();
        if let Some(service) = cloud.ecs.service_mut(&cluster, &name) {
            service.tasks.retain(|other| other != arn);
        }
    }
    cloud.schedule(now + STOPPED_SHOWN, Timer::ForgetTask { arn: arn.to_owned() });
}

pub fn forget(cloud: &mut Cloud, arn: &str) {
    if cloud.ecs.tasks.get(arn).is_some_and(|task| task.last_status == "STOPPED") {
        cloud.ecs.tasks.remove(arn);
    }
}

/// Ends all tasks after a restart of localcloud. They do not count as failed.
pub fn lose_all(cloud: &mut Cloud, reason: &str) {
    let tasks = cloud.ecs.tasks.values();
    let lost: Vec<String> = tasks.filter(|task| task.last_status != "STOPPED").map(|task| task.arn.clone()).collect();
    let now = cloud.now();
    for arn in lost {
        if let Some(task) = cloud.ecs.tasks.get_mut(&arn) {
            task.stop_code.get_or_insert_with(|| "TerminationNotice".to_owned());
            task.stopped_reason.get_or_insert_with(|| reason.to_owned());
        }
        finish(cloud, &arn);
        wake_service(cloud, &arn, now);
    }
}
