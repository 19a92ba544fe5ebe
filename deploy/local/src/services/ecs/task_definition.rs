//! Task definitions: families of immutable revisions.

use serde_json::{Map, Value, json};

use super::common::{PAGE, arns, check_role, includes, is_name};
use crate::model::ecs::task_definition::{Definition, Family};
use crate::model::{Cloud, Timer};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, lower_tags, pick};
use crate::protocol::tags;

/// How long a deleted revision is visible if nothing uses it.
const DELETION: std::time::Duration = std::time::Duration::from_mins(1);

pub fn register(cloud: &mut Cloud, input: &Value) -> Reply {
    let family = input.need("family").map_err(as_client)?;
    if !is_name(family) {
        return Err(client("Family contains invalid characters or is longer than 255."));
    }
    let tags = input.tags("tags");
    tags::check(AwsService::Ecs, &tags)?;
    check_size(input)?;
    let fargate = input.texts("requiresCompatibilities").contains(&"FARGATE");
    let mut body = pick(
        input,
        &[
            "taskRoleArn",
            "executionRoleArn",
            "networkMode",
            "volumes",
            "placementConstraints",
            "requiresCompatibilities",
            "cpu",
            "memory",
            "pidMode",
            "ipcMode",
            "proxyConfiguration",
            "inferenceAccelerators",
            "ephemeralStorage",
            "runtimePlatform",
            "enableFaultInjection",
        ],
    );
    for list in ["volumes", "placementConstraints"] {
        body.entry(list).or_insert_with(|| json!([]));
    }
    body.insert("compatibilities".to_owned(), if fargate { json!(["EC2", "FARGATE"]) } else { json!(["EC2"]) });
    if fargate {
        check_fargate(input)?;
    }
    if cloud.rules.fills_in {
        body.insert("ephemeralStorage".to_owned(), json!({"sizeInGiB": 21}));
    }
    body.insert("containerDefinitions".to_owned(), containers(input)?);
    check_role(cloud, input.text("executionRoleArn"))?;
    check_role(cloud, input.text("taskRoleArn"))?;
    let revision = cloud.ecs.families.get(family).map_or(0, |family| family.latest) + 1;
    let definition = Definition {
        arn: cloud.arn("ecs", &format!("task-definition/{family}:{revision}")),
        family: family.to_owned(),
        revision,
        status: "ACTIVE".to_owned(),
        registered_at: cloud.now(),
        deregistered_at: None,
        body: Value::Object(body),
        tags,
    };
    let output = json!({"taskDefinition": show(&definition), "tags": lower_tags(&definition.tags)});
    let family = cloud.ecs.families.entry(family.to_owned()).or_default();
    family.latest = revision;
    family.revisions.insert(revision, definition);
    Ok(output)
}

/// A task definition has at most 64 KiB (Amazon ECS service quotas).
fn check_size(input: &Value) -> Result<(), ApiError> {
    const MOST: usize = 64 * 1024;
    let length = input["containerDefinitions"].to_string().len();
    if length > MOST {
        return Err(client(format!("Actual length: '{length}'. Max allowed length is '{MOST}' bytes.")));
    }
    Ok(())
}

fn check_fargate(input: &Value) -> Result<(), ApiError> {
    if input.text("networkMode") != Some("awsvpc") {
        return Err(client("Fargate only supports network mode ‘awsvpc’."));
    }
    let number = |name| {
        input
            .number(name)
            .ok_or_else(|| client(format!("Fargate requires that '{name}' be defined at the task level.")))
    };
    let (cpu, memory) = (number("cpu")?, number("memory")?);
    if !is_fargate_size(cpu, memory) {
        return Err(client(format!(
            "No Fargate configuration exists for given values: {cpu} CPU, {memory} memory. See the Amazon ECS documentation \
             for the valid values."
        )));
    }
    let awslogs =
        |container: &Value| container.get("logConfiguration").and_then(|log| log.text("logDriver")) == Some("awslogs");
    if input.text("executionRoleArn").is_none() && input.items("containerDefinitions").iter().any(awslogs) {
        let message = "Fargate requires task definition to have execution role ARN to support log driver awslogs.";
        return Err(client(message));
    }
    Ok(())
}

/// Valid combinations of CPU units and MiB:
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html>
fn is_fargate_size(cpu: i64, memory: i64) -> bool {
    let steps = |least: i64, most: i64, step: i64| (least..=most).contains(&memory) && memory % step == 0;
    match cpu {
        256 => [512, 1024, 2048].contains(&memory),
        512 => steps(1024, 4096, 1024),
        1024 => steps(2048, 8192, 1024),
        2048 => steps(4096, 16_384, 1024),
        4096 => steps(8192, 30_720, 1024),
        8192 => steps(16_384, 61_440, 4096),
        16_384 => steps(32_768, 122_880, 8192),
        _ => false,
    }
}

/// Container definitions with the defaults of ECS.
fn containers(input: &Value) -> Reply {
    let given = input.items("containerDefinitions");
    if given.is_empty() {
        return Err(client("Container list cannot be empty."));
    }
    let awsvpc = input.text("networkMode") == Some("awsvpc");
    let mut filled = Vec::with_capacity(given.len());
    for container in given {
        let name = container.need("name").map_err(|_| client("Container.name should not be null or empty."))?;
        container.need("image").map_err(|_| client("Container.image should not be null or empty."))?;
        let mut container = container.clone();
        let fields = container.as_object_mut().ok_or_else(|| client("A container definition is not an object."))?;
        fields.entry("cpu").or_insert_with(|| 0.into());
        fields.entry("essential").or_insert_with(|| true.into());
        for list in ["portMappings", "environment", "mountPoints", "volumesFrom", "systemControls"] {
            fields.entry(list).or_insert_with(|| json!([]));
        }
        if let Some(Value::Array(ports)) = fields.get_mut("portMappings") {
            ports.iter_mut().filter_map(Value::as_object_mut).for_each(|port| fill_port(port, awsvpc));
        }
        if let Some(Value::Object(check)) = fields.get_mut("healthCheck") {
            for (field, default) in [("interval", 30), ("timeout", 5), ("retries", 3)] {
                check.entry(field).or_insert_with(|| default.into());
            }
        }
        if filled.iter().any(|other: &Value| other.text("name") == Some(name)) {
            return Err(client(format!("Container name {name} is used twice.")));
        }
        filled.push(container);
    }
    if !filled.iter().any(|container| container.flag("essential") == Some(true)) {
        return Err(client("Invalid 'containerDefinitions' setting: at least one container must be essential."));
    }
    Ok(Value::Array(filled))
}

fn fill_port(port: &mut Map<String, Value>, awsvpc: bool) {
    port.entry("protocol").or_insert_with(|| "tcp".into());
    let inside = port.get("containerPort").cloned().unwrap_or(Value::Null);
    port.entry("hostPort").or_insert_with(|| if awsvpc { inside } else { 0.into() });
}

fn show(definition: &Definition) -> Value {
    let mut shown = definition.body.clone();
    shown["taskDefinitionArn"] = definition.arn.clone().into();
    shown["family"] = definition.family.clone().into();
    shown["revision"] = definition.revision.into();
    shown["status"] = definition.status.clone().into();
    shown["registeredAt"] = definition.registered_at.epoch_seconds().into();
    if let Some(at) = definition.deregistered_at {
        shown["deregisteredAt"] = at.epoch_seconds().into();
    }
    shown
}

pub fn describe(cloud: &mut Cloud, input: &Value) -> Reply {
    let definition = cloud
        .ecs
        .definition(input.need("taskDefinition").map_err(as_client)?)
        .ok_or_else(|| client("Unable to describe task definition."))?;
    let mut output = json!({"taskDefinition": show(definition)});
    if includes(input, "TAGS") {
        output["tags"] = lower_tags(&definition.tags);
    }
    Ok(output)
}

pub fn list(cloud: &mut Cloud, input: &Value) -> Reply {
    let status = input.text("status").unwrap_or("ACTIVE");
    let family = input.text("familyPrefix");
    // The prefix is the full name of a family: `family` does not match `family-2`.
    let families = cloud.ecs.families.iter().filter(|(name, _)| family.is_none_or(|family| family == name.as_str()));
    let definitions = families.flat_map(|(_, family)| family.revisions.values());
    let definitions = definitions.filter(|definition| definition.status == status);
    let key = |definition: &Definition| format!("{} {:010}", definition.family, definition.revision);
    let mut all: Vec<_> = definitions.map(|definition| (key(definition), definition.arn.as_str().into())).collect();
    if input.text("sort") == Some("DESC") {
        all.reverse();
    }
    arns(input, "taskDefinitionArns", all, PAGE)
}

pub fn list_families(cloud: &mut Cloud, input: &Value) -> Reply {
    let prefix = input.text("familyPrefix").unwrap_or_default();
    let status = input.text("status").unwrap_or("ALL");
    let fits = |family: &Family| {
        let active = family.revisions.values().any(|definition| definition.status == "ACTIVE");
        !family.revisions.is_empty() && (status == "ALL" || (status == "ACTIVE") == active)
    };
    let all = cloud.ecs.families.iter().filter(|(name, family)| name.starts_with(prefix) && fits(family));
    arns(input, "families", all.map(|(name, _)| (name.clone(), name.as_str().into())).collect(), PAGE)
}

pub fn deregister(cloud: &mut Cloud, input: &Value) -> Reply {
    let now = cloud.now();
    let id = input.need("taskDefinition").map_err(as_client)?;
    if !tail(id).contains(':') {
        return Err(client("Revision is missing: a task definition is deregistered by family:revision or ARN."));
    }
    let definition =
        cloud.ecs.definition_mut(id).ok_or_else(|| client("The specified task definition does not exist."))?;
    if definition.status == "ACTIVE" {
        "INACTIVE".clone_into(&mut definition.status);
        definition.deregistered_at = Some(now);
    }
    Ok(json!({"taskDefinition": show(definition)}))
}

pub fn delete(cloud: &mut Cloud, input: &Value) -> Reply {
    let ids = input.texts("taskDefinitions");
    if ids.is_empty() || ids.len() > 10 {
        return Err(ApiError::invalid("taskDefinitions must have 1 to 10 elements."));
    }
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for id in ids {
        let due = cloud.now() + DELETION;
        let found = cloud.ecs.definition_mut(id).filter(|_| tail(id).contains(':'));
        match found {
            Some(definition) if definition.status != "ACTIVE" => {
                "DELETE_IN_PROGRESS".clone_into(&mut definition.status);
                deleted.push(show(definition));
                let arn = definition.arn.clone();
                cloud.schedule(due, Timer::ForgetDefinition { arn });
            }
            Some(definition) => failures.push(json!({
                "arn": definition.arn,
                "reason": "The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
            })),
            None => failures.push(json!({"arn": id, "reason": "The specified task definition does not exist."})),
        }
    }
    Ok(json!({"taskDefinitions": deleted, "failures": failures}))
}

/// Completes a deletion, once no task and no service uses the revision.
pub fn forget(cloud: &mut Cloud, arn: &str) {
    let ecs = &cloud.ecs;
    let mut services = ecs.clusters.values().flat_map(|cluster| cluster.services.values());
    let used = ecs.tasks.values().any(|task| task.definition == arn && task.last_status != "STOPPED")
        || services.any(|service| service.is_active() && service.uses(arn));
    if used {
        let later = cloud.now() + DELETION;
        cloud.schedule(later, Timer::ForgetDefinition { arn: arn.to_owned() });
        return;
    }
    if let Some((family, revision)) = tail(arn).split_once(':')
        && let (Some(family), Ok(revision)) = (cloud.ecs.families.get_mut(family), revision.parse())
    {
        family.revisions.remove(&revision);
    }
}

/// Most errors of task definitions are a `ClientException`.
fn client(message: impl Into<String>) -> ApiError {
    ApiError::new("ClientException", message)
}

fn as_client(error: ApiError) -> ApiError {
    client(error.message)
}

#[cfg(test)]
mod tests {
    use super::is_fargate_size;

    #[test]
    fn fargate_accepts_only_listed_sizes() {
        let offered = [(256, 512), (256, 2048), (512, 4096), (1024, 8192), (4096, 30_720), (16_384, 122_880)];
        assert!(offered.iter().all(|(cpu, memory)| is_fargate_size(*cpu, *memory)));
        let refused = [(256, 8192), (256, 1536), (512, 512), (300, 512), (8192, 17_408), (1024, 2500)];
        assert!(!refused.iter().any(|(cpu, memory)| is_fargate_size(*cpu, *memory)));
    }
}
