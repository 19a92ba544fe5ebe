//! Launches a task in PROVISIONING and builds the input of the driver.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::lifecycle::end;
use super::prepare::{awslogs, prepare, secrets, stream};
use crate::model::ecs::task::{Task, Times};
use crate::model::ecs::task_definition::Definition;
use crate::model::launch::{Container, Launch, LogTarget, TransientStop};
use crate::model::{Cloud, Effect};
use crate::protocol::arn::tail;
use crate::protocol::fields::{Fields, Tags};

/// The default time between SIGTERM and SIGKILL, in seconds.
const STOP_TIMEOUT: i64 = 30;

/// A task to be started.
pub struct TaskRequest {
    pub cluster: String,
    /// ARN of the task definition.
    pub definition: String,
    pub group: String,
    pub started_by: Option<String>,
    /// Service and deployment.
    pub service: Option<(String, String)>,
    pub settings: Map<String, Value>,
    pub overrides: Value,
    pub tags: Tags,
    pub propagate_definition_tags: bool,
}

/// Starts a task and returns its ARN; `None` if the cluster or the task definition does not exist.
pub fn launch(cloud: &mut Cloud, request: TaskRequest) -> Option<String> {
    let id = cloud.draw(32);
    let definition = cloud.ecs.definition(&request.definition)?.clone();
    let cluster_arn = cloud.ecs.clusters.get(&request.cluster)?.arn.clone();
    let arn = cloud.arn("ecs", &format!("task/{}/{id}", request.cluster));
    let mut tags = request.tags;
    if request.propagate_definition_tags {
        for (key, value) in &definition.tags {
            tags.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let checked = definition.containers().iter().find_map(|container| container.get("healthCheck"));
    let image = |container: &Value| {
        let text = |name| container.text(name).unwrap_or_default().to_owned();
        (text("name"), text("image"))
    };
    let task = Task {
        arn: arn.clone(),
        cluster: request.cluster,
        cluster_arn,
        definition: definition.arn.clone(),
        family: definition.family.clone(),
        group: request.group,
        started_by: request.started_by,
        service: request.service,
        last_status: "PROVISIONING".to_owned(),
        desired_status: "RUNNING".to_owned(),
        health: "UNKNOWN".to_owned(),
        has_health_check: checked.is_some(),
        health_time: checked.map(health_time).unwrap_or_default(),
        times: Times { created: cloud.now(), ..Times::default() },
        stop_code: None,
        stopped_reason: None,
        exit_code: None,
        exit_reason: None,
        containers: definition.containers().iter().map(image).collect(),
        address: None,
        port: None,
        settings: request.settings,
        overrides: request.overrides,
        cpu: definition.body.text("cpu").map(str::to_owned),
        memory: definition.body.text("memory").map(str::to_owned),
        tags,
    };
    let launch = Launch {
        task_arn: arn.clone(),
        family: task.family.clone(),
        containers: containers(&definition, &task, &cloud.rules.secrets),
        stops: transient_stop(cloud, &id),
    };
    if let Some((name, _)) = &task.service
        && let Some(service) = cloud.ecs.service_mut(&task.cluster, name)
    {
        service.tasks.push(arn.clone());
    }
    cloud.ecs.tasks.insert(arn.clone(), task);
    match prepare(cloud, &definition, &id) {
        Ok(()) => cloud.push_effect(Effect::Launch(launch)),
        Err(reason) => end(cloud, &arn, None, &reason),
    }
    Some(arn)
}

/// The transient reason for which this task stops, if any.
fn transient_stop(cloud: &Cloud, id: &str) -> Option<TransientStop> {
    if !cloud.happens(cloud.rules.transient_stops, "transient stop", id) {
        return None;
    }
    let turn = cloud.seeded_number("reason of a transient stop", id) % TransientStop::ALL.len() as u64;
    TransientStop::ALL.into_iter().nth(usize::try_from(turn).ok()?)
}

fn health_time(check: &Value) -> Duration {
    let seconds = |name, default| check.number(name).unwrap_or(default);
    let total = seconds("startPeriod", 0) + seconds("interval", 30) * seconds("retries", 3);
    Duration::from_secs(u64::try_from(total).unwrap_or_default())
}

fn containers(definition: &Definition, task: &Task, known: &BTreeMap<String, String>) -> Vec<Container> {
    let texts = |value: &Value, name: &str| value.texts(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let registry = task.settings.get("serviceRegistries").and_then(|registries| registries.get(0));
    definition
        .containers()
        .iter()
        .map(|container| {
            let name = container.text("name").unwrap_or_default();
            let overrides = task.overrides.items("containerOverrides");
            let change = overrides.iter().find(|change| change.text("name") == Some(name));
            let pairs = |value: &Value| {
                value
                    .items("environment")
                    .iter()
                    .filter_map(|pair| {
                        Some((pair.text("name")?.to_owned(), pair.text("value").unwrap_or_default().to_owned()))
                    })
                    .collect::<BTreeMap<_, _>>()
            };
            let mut environment = pairs(container);
            environment.extend(secrets(container, known).unwrap_or_default());
            environment.extend(change.map(pairs).unwrap_or_default());
            let command = change.map(|change| texts(change, "command")).filter(|command| !command.is_empty());
            let registered =
                registry.filter(|registry| registry.text("containerName").is_none_or(|other| other == name));
            let mapped = container.items("portMappings").first().and_then(|port| port.number("containerPort"));
            let port = registered.and_then(|registry| registry.number("containerPort")).or(mapped);
            Container {
                name: name.to_owned(),
                image: container.text("image").unwrap_or_default().to_owned(),
                entry_point: texts(container, "entryPoint"),
                command: command.unwrap_or_else(|| texts(container, "command")),
                environment,
                working_directory: container.text("workingDirectory").map(str::to_owned),
                port: port.and_then(|port| u16::try_from(port).ok()),
                log: awslogs(container).map(|options| LogTarget {
                    group: options.text("awslogs-group").unwrap_or_default().to_owned(),
                    stream: stream(options, name, tail(&task.arn)),
                }),
                stop_timeout: Duration::from_secs(
                    u64::try_from(container.number("stopTimeout").unwrap_or(STOP_TIMEOUT)).unwrap_or_default(),
                ),
            }
        })
        .collect()
}
