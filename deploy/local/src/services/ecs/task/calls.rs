//! `RunTask`, `StopTask`, `ListTasks`, `DescribeTasks`.

use serde_json::{Value, json};

use super::launch::{TaskRequest, launch};
use super::lifecycle::stop;
use crate::model::Cloud;
use crate::model::ecs::task::Task;
use crate::model::time::Time;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, lower_tags, pick};
use crate::protocol::tags;
use crate::services::ecs::common::{PAGE, arns, check_role, cluster, includes};

pub fn run(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?.name.clone();
    let definition = cloud
        .ecs
        .definition(input.need("taskDefinition")?)
        .ok_or_else(|| ApiError::new("ClientException", "TaskDefinition not found."))?;
    if definition.status != "ACTIVE" {
        return Err(ApiError::new("ClientException", "TaskDefinition is inactive"));
    }
    let count = input.number("count").unwrap_or(1);
    if !(1..=10).contains(&count) {
        return Err(ApiError::invalid("count must be between 1 and 10."));
    }
    let tags = input.tags("tags");
    tags::check(AwsService::Ecs, &tags)?;
    let vpc = input.get("networkConfiguration").and_then(|network| network.get("awsvpcConfiguration"));
    if definition.is_awsvpc() && vpc.is_none_or(|vpc| vpc.items("subnets").is_empty()) {
        let message = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
        return Err(ApiError::invalid(message));
    }
    for role in ["executionRoleArn", "taskRoleArn"] {
        check_role(cloud, definition.body.text(role))?;
    }
    let overrides = input.get("overrides").cloned().unwrap_or_default();
    let known = |change: &Value| {
        let name = change.text("name");
        definition.containers().iter().any(|container| container.text("name") == name)
    };
    if let Some(change) = overrides.items("containerOverrides").iter().find(|change| !known(change)) {
        let name = change.text("name").unwrap_or_default();
        return Err(ApiError::invalid(format!(
            "Override for container named {name} is not a container in the TaskDefinition."
        )));
    }
    let (arn, family) = (definition.arn.clone(), definition.family.clone());
    let mut settings =
        pick(input, &["launchType", "capacityProviderStrategy", "networkConfiguration", "platformVersion"]);
    if !settings.contains_key("capacityProviderStrategy") {
        settings.entry("launchType").or_insert_with(|| "FARGATE".into());
    }
    let mut shown = Vec::new();
    for _ in 0..count {
        let request = TaskRequest {
            cluster: cluster.clone(),
            definition: arn.clone(),
            group: input.text("group").map_or_else(|| format!("family:{family}"), str::to_owned),
            started_by: input.text("startedBy").map(str::to_owned),
            service: None,
            settings: settings.clone(),
            overrides: overrides.clone(),
            tags: tags.clone(),
            propagate_definition_tags: input.text("propagateTags") == Some("TASK_DEFINITION"),
        };
        if let Some(task) = launch(cloud, request).and_then(|arn| cloud.ecs.tasks.get(&arn)) {
            shown.push(show(task, true));
        }
    }
    Ok(json!({"tasks": shown, "failures": []}))
}

pub fn stop_by_user(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?.name.clone();
    let id = tail(input.need("task")?);
    let arn = cloud.arn("ecs", &format!("task/{cluster}/{id}"));
    if !cloud.ecs.tasks.contains_key(&arn) {
        return Err(ApiError::invalid("The referenced task was not found."));
    }
    stop(cloud, &arn, "UserInitiated", input.text("reason").unwrap_or("Task stopped by user"));
    Ok(json!({"task": show(&cloud.ecs.tasks[&arn], false)}))
}

pub fn list(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?;
    let wanted = input.text("desiredStatus").unwrap_or("RUNNING");
    let service = input.text("serviceName").map(tail);
    if let Some(service) = service.filter(|service| !cluster.services.contains_key(*service)) {
        return Err(ApiError::new("ServiceNotFoundException", format!("Service not found: {service}")));
    }
    let same = |wanted: Option<&str>, value: Option<&str>| wanted.is_none_or(|wanted| value == Some(wanted));
    let fits = |task: &&Task| {
        task.cluster == cluster.name
            && task.desired_status == wanted
            && same(service, task.service.as_ref().map(|(name, _)| name.as_str()))
            && same(input.text("family"), Some(&task.family))
            && same(input.text("startedBy"), task.started_by.as_deref())
            && same(input.text("launchType"), task.settings.get("launchType").and_then(Value::as_str))
    };
    let tasks = cloud.ecs.tasks.values().filter(fits);
    arns(input, "taskArns", tasks.map(|task| (task.arn.clone(), task.arn.as_str().into())).collect(), PAGE)
}

pub fn describe(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?.name.clone();
    let named = input.texts("tasks");
    if named.is_empty() || named.len() > 100 {
        return Err(ApiError::invalid("Tasks must have 1 to 100 elements."));
    }
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for id in named {
        let arn = cloud.arn("ecs", &format!("task/{cluster}/{}", tail(id)));
        match cloud.ecs.tasks.get(&arn) {
            Some(task) => tasks.push(show(task, includes(input, "TAGS"))),
            None => failures.push(json!({"arn": arn, "reason": "MISSING"})),
        }
    }
    Ok(json!({"tasks": tasks, "failures": failures}))
}

fn show(task: &Task, with_tags: bool) -> Value {
    let stopped = task.last_status == "STOPPED";
    let vpc = task.settings.get("networkConfiguration").and_then(|network| network.get("awsvpcConfiguration"));
    let subnet = vpc.and_then(|vpc| vpc.texts("subnets").first().copied()).unwrap_or("subnet-local");
    let attachment = format!("{}-{}-{}", &task.id()[..8], &task.id()[8..12], &task.id()[12..]);
    let mut details = vec![json!({"name": "subnetId", "value": subnet})];
    let mut interfaces = Vec::new();
    if let Some(address) = task.address {
        let interface = format!("eni-{}", &task.id()[..17]);
        details.push(json!({"name": "networkInterfaceId", "value": interface}));
        details.push(json!({"name": "privateIPv4Address", "value": address.to_string()}));
        interfaces.push(json!({"attachmentId": attachment, "privateIpv4Address": address.to_string()}));
    }
    let mut shown = json!({
        "taskArn": task.arn,
        "clusterArn": task.cluster_arn,
        "taskDefinitionArn": task.definition,
        "group": task.group,
        "lastStatus": task.last_status,
        "desiredStatus": task.desired_status,
        "healthStatus": task.health,
        "connectivity": "CONNECTED",
        "platformFamily": "Linux",
        "platformVersion": "1.4.0",
        "containers": show_containers(task, &interfaces),
        "overrides": if task.overrides.is_null() { json!({"containerOverrides": []}) } else { task.overrides.clone() },
        "attachments": [{
            "id": attachment,
            "type": "ElasticNetworkInterface",
            "status": if stopped { "DELETED" } else { "ATTACHED" },
            "details": details,
        }],
        "createdAt": task.times.created.epoch_seconds(),
        "tags": if with_tags { lower_tags(&task.tags) } else { json!([]) },
    });
    let seconds = |time: Option<Time>| time.map(|time| time.epoch_seconds().into());
    set(&mut shown, "pullStoppedAt", seconds(task.times.pulled));
    set(&mut shown, "startedAt", seconds(task.times.started));
    set(&mut shown, "stoppingAt", seconds(task.times.stopping));
    set(&mut shown, "stoppedAt", seconds(task.times.stopped));
    set(&mut shown, "launchType", task.settings.get("launchType").cloned());
    for (name, value) in [
        ("startedBy", &task.started_by),
        ("stopCode", &task.stop_code),
        ("stoppedReason", &task.stopped_reason),
        ("cpu", &task.cpu),
        ("memory", &task.memory),
    ] {
        set(&mut shown, name, value.clone().map(Value::from));
    }
    shown
}

fn show_containers(task: &Task, interfaces: &[Value]) -> Vec<Value> {
    let show = |(name, image): &(String, String)| {
        let mut shown = json!({
            "containerArn": format!("{}/{name}", task.arn.replacen(":task/", ":container/", 1)),
            "taskArn": task.arn,
            "name": name,
            "image": image,
            "lastStatus": task.last_status,
            "healthStatus": task.health,
            "networkBindings": [],
            "networkInterfaces": interfaces,
            "runtimeId": format!("{}-{name}", task.id()),
        });
        if task.last_status == "STOPPED" {
            set(&mut shown, "exitCode", task.exit_code.map(Value::from));
            set(&mut shown, "reason", task.exit_reason.clone().map(Value::from));
        }
        shown
    };
    task.containers.iter().map(show).collect()
}

fn set(shown: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        shown[name] = value;
    }
}
