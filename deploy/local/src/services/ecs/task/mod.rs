//! Tasks: from an order through what the driver reports to STOPPED, and another hour in which they are described.

mod calls;
mod launch;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{scheduler, service, tail};
use crate::cloud::{Cloud, Effect, Timer};
use crate::driver::Report;
use crate::fields::{Fields, Tags};
use crate::rollout::Phase;
use crate::services::{cloudmap, logs};
use crate::time::Time;

pub use calls::{describe, list, run, stop_by_user};
pub use launch::{Order, launch};

const STOPPED_SHOWN: Duration = Duration::from_hours(1);

#[derive(Clone, Serialize, Deserialize)]
pub struct Task {
    pub arn: String,
    pub cluster: String,
    cluster_arn: String,
    pub definition: String,
    pub family: String,
    group: String,
    started_by: Option<String>,
    /// Service and deployment.
    service: Option<(String, String)>,
    pub last_status: String,
    pub desired_status: String,
    pub health: String,
    has_health_check: bool,
    /// How long after its start a health check may fail.
    health_time: Duration,
    times: Times,
    stop_code: Option<String>,
    stopped_reason: Option<String>,
    exit_code: Option<i32>,
    exit_reason: Option<String>,
    /// Name and image.
    containers: Vec<(String, String)>,
    pub address: Option<Ipv4Addr>,
    pub port: Option<u16>,
    settings: Map<String, Value>,
    overrides: Value,
    cpu: Option<String>,
    memory: Option<String>,
    pub tags: Tags,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Times {
    created: Time,
    pulled: Option<Time>,
    started: Option<Time>,
    stopping: Option<Time>,
    stopped: Option<Time>,
}

impl Task {
    pub fn deployment(&self) -> Option<&str> {
        self.service.as_ref().map(|(_, deployment)| deployment.as_str())
    }

    fn id(&self) -> &str {
        tail(&self.arn)
    }

    /// With a health check a task serves once healthy, without one once it has run for `steady_after`.
    pub fn phase(&self, now: Time, steady_after: Duration) -> Phase {
        let settled = |started: Time| now.since(started) >= steady_after;
        match (self.desired_status.as_str(), self.has_health_check) {
            ("STOPPED", _) => Phase::Ending,
            (_, true) if self.health == "HEALTHY" => Phase::Serving,
            (_, false) if self.times.started.is_some_and(settled) => Phase::Serving,
            _ => Phase::Starting,
        }
    }

    /// Runs, but did not become healthy in its time.
    pub fn is_overdue(&self, now: Time) -> bool {
        let late = |started: Time| now >= started + self.health_time;
        let waits = self.has_health_check && self.health == "UNKNOWN" && self.desired_status == "RUNNING";
        waits && self.times.started.is_some_and(late)
    }
}

/// What the driver says of a task. Reports of a task that is no longer known, or has stopped, change nothing.
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
                    enter_registry(cloud, &task_arn);
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
        cloud.wake(at, Timer::Service { cluster, name });
    }
}

fn registry_arns(task: &Task) -> Vec<String> {
    let registries = task.settings.get("serviceRegistries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    registries.iter().filter_map(|registry| registry.text("registryArn")).map(str::to_owned).collect()
}

/// Puts a running task into Cloud Map under its id, with the attributes that ECS sets.
fn enter_registry(cloud: &mut Cloud, arn: &str) {
    let Some(task) = cloud.ecs.tasks.get(arn) else {
        return;
    };
    let (Some(address), Some((service, _))) = (task.address, task.service.clone()) else {
        return;
    };
    let (id, cluster, port) = (task.id().to_owned(), task.cluster.clone(), task.port);
    let given = task.settings.get("serviceRegistries").and_then(|registries| registries.get(0));
    let given = given.and_then(|registry| registry.number("containerPort").or(registry.number("port")));
    let mut attributes = cloudmap::Attributes::new();
    let mut set = |name: &str, value: String| drop(attributes.insert(name.to_owned(), value));
    set("AWS_INSTANCE_IPV4", address.to_string());
    set("AVAILABILITY_ZONE", format!("{}a", cloud.rules.region));
    set("REGION", cloud.rules.region.clone());
    set("ECS_CLUSTER_NAME", cluster.clone());
    set("ECS_SERVICE_NAME", service.clone());
    set("ECS_TASK_DEFINITION_FAMILY", task.family.clone());
    for registry in registry_arns(task) {
        let srv = cloudmap::by_arn(cloud, &registry).is_some_and(cloudmap::Registry::has_srv);
        let port = port.map(i64::from).or(given.filter(|_| srv));
        let mut attributes = attributes.clone();
        if let Some(port) = port {
            attributes.insert("AWS_INSTANCE_PORT".to_owned(), port.to_string());
        }
        let now = cloud.now();
        if let Err(fault) = cloudmap::enter(cloud, &registry, &id, attributes)
            && let Some(service) = service::find_mut(cloud, &cluster, &service)
        {
            service.rollout.tell(&format!("could not register (task {id}) in {registry}: {fault}"), now);
        }
    }
}

fn leave_registry(cloud: &mut Cloud, arn: &str) {
    let Some(task) = cloud.ecs.tasks.get(arn) else {
        return;
    };
    let (id, registries) = (task.id().to_owned(), registry_arns(task));
    for registry in &registries {
        cloudmap::leave(cloud, registry, &id);
    }
}

/// Asks a task to stop: it leaves Cloud Map at once and is STOPPED when the driver says so.
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
    leave_registry(cloud, arn);
    cloud.effect(Effect::Stop { task_arn: arn.to_owned() });
}

/// A task has ended, by itself or because it was asked to.
fn end(cloud: &mut Cloud, arn: &str, exit_code: Option<i32>, reason: &str) {
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
            scheduler::failed(cloud, &cluster, &name, &deployment);
        } else {
            cloud.wake(now, Timer::Service { cluster, name });
        }
    }
}

fn finish(cloud: &mut Cloud, arn: &str) {
    leave_registry(cloud, arn);
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
        if let Some(service) = service::find_mut(cloud, &cluster, &name) {
            service.tasks.retain(|other| other != arn);
        }
    }
    cloud.wake(now + STOPPED_SHOWN, Timer::ForgetTask { arn: arn.to_owned() });
}

pub fn forget(cloud: &mut Cloud, arn: &str) {
    if cloud.ecs.tasks.get(arn).is_some_and(|task| task.last_status == "STOPPED") {
        cloud.ecs.tasks.remove(arn);
    }
}

/// The addresses of all tasks that are described, in the order in which they were given.
pub fn addresses(cloud: &Cloud) -> Vec<Ipv4Addr> {
    let given = cloud.ecs.tasks.values().filter_map(|task| Some((task.times.started?, task.address?)));
    let mut given: Vec<_> = given.collect();
    given.sort_unstable();
    given.into_iter().map(|(_, address)| address).collect()
}

/// The process that ran the tasks is gone, and they with it: nobody's failure.
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
