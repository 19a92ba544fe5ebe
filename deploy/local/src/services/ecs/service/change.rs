//! `CreateService`, `UpdateService` and `DeleteService`.

use serde_json::{Map, Value, json};

use super::describe::show;
use super::settings::{DEPLOYED, settings, settings_given};
use crate::model::ecs::rollout::{Revision, Rollout};
use crate::model::ecs::service::{Service, Status};
use crate::model::ecs::task_definition::Definition;
use crate::model::{Cloud, Timer};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::Fields;
use crate::protocol::tags;
use crate::services::ecs::common::{check_role, cluster, is_name};

pub fn create(cloud: &mut Cloud, input: &Value) -> Reply {
    let (cluster_name, cluster_arn) = {
        let cluster = cluster(cloud, input)?;
        (cluster.name.clone(), cluster.arn.clone())
    };
    let name = input.need("serviceName")?;
    if !is_name(name) {
        return Err(ApiError::invalid("Service name contains invalid characters or is longer than 255."));
    }
    let desired = input.number("desiredCount").ok_or_else(|| ApiError::missing("desiredCount"))?;
    let desired = count(desired)?;
    let settings = settings(input);
    let tags = input.tags("tags");
    tags::check(AwsService::Ecs, &tags)?;
    let definition = definition(cloud, input.need("taskDefinition")?)?;
    let revision = Revision { task_definition: definition.arn.clone(), settings: settings.clone() };
    check(cloud, definition, &settings)?;

    match cloud.ecs.clusters.get(&cluster_name).and_then(|cluster| cluster.services.get(name)) {
        Some(known) if known.status == Status::Draining => {
            return Err(ApiError::invalid("Unable to Start a service that is still Draining."));
        }
        Some(known) if known.is_active() => {
            let primary = known.rollout.primary();
            let same = primary.is_some_and(|primary| primary.revision.task_definition == revision.task_definition)
                && known.rollout.desired == desired
                && known.settings == settings;
            if same {
                return Ok(json!({"service": show(cloud, known, true)}));
            }
            return Err(ApiError::invalid("Creation of service was not idempotent."));
        }
        _ => {}
    }
    let most = cloud.rules.quotas.services_of_cluster;
    let living = |service: &&Service| service.status != Status::Inactive;
    if cloud.ecs.clusters[&cluster_name].services.values().filter(living).count() >= most {
        // AWS documents no separate error code.
        return Err(ApiError::invalid(format!("The maximum number of services for the cluster, {most}, is reached.")));
    }
    let mut service = Service {
        name: name.to_owned(),
        arn: cloud.arn("ecs", &format!("service/{cluster_name}/{name}")),
        cluster_arn,
        status: Status::Active,
        settings,
        created_at: cloud.now(),
        tags,
        rollout: Rollout::new(name, desired),
        tasks: Vec::new(),
    };
    service.apply_configuration();
    let id = cloud.draw_deployment_id();
    service.rollout.start(id, revision, cloud.now());
    let shown = show(cloud, &service, true);
    schedule(cloud, &cluster_name, name);
    if let Some(cluster) = cloud.ecs.clusters.get_mut(&cluster_name) {
        cluster.services.insert(name.to_owned(), service);
    }
    Ok(json!({"service": shown}))
}

/// Validates a service as AWS does.
fn check(cloud: &Cloud, definition: &Definition, settings: &Map<String, Value>) -> Result<(), ApiError> {
    let network = settings.get("networkConfiguration").and_then(|network| network.get("awsvpcConfiguration"));
    if definition.is_awsvpc() && network.is_none_or(|vpc| vpc.items("subnets").is_empty()) {
        let message = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
        return Err(ApiError::invalid(message));
    }
    let minimum = settings["deploymentConfiguration"].number("minimumHealthyPercent").unwrap_or(100);
    let maximum = settings["deploymentConfiguration"].number("maximumPercent").unwrap_or(200);
    if minimum < 0 || maximum < 1 || maximum < minimum {
        return Err(ApiError::invalid(
            "Both maximumPercent and minimumHealthyPercent must be sensible, the maximum not below the minimum.",
        ));
    }
    let registries = settings.get("serviceRegistries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if registries.len() > 1 {
        return Err(ApiError::invalid("Service registries can have at most 1 items."));
    }
    for registry in registries {
        let arn = registry.need("registryArn")?;
        let known = cloud.cloudmap.by_arn(arn);
        let known = known.ok_or_else(|| ApiError::invalid(format!("Service registry not found: {arn}")))?;
        if known.has_srv() && registry.number("port").or(registry.number("containerPort")).is_none() {
            return Err(ApiError::invalid(
                "When specifying 'port' or an SRV record, specify containerName and containerPort.",
            ));
        }
    }
    for role in ["executionRoleArn", "taskRoleArn"] {
        let refused = |error: ApiError| ApiError { code: None, ..error };
        check_role(cloud, definition.body.text(role)).map_err(refused)?;
    }
    Ok(())
}

fn definition<'a>(cloud: &'a Cloud, id: &str) -> Result<&'a Definition, ApiError> {
    let missing = || ApiError::new("ClientException", "TaskDefinition not found.");
    let definition = cloud.ecs.definition(id).ok_or_else(missing)?;
    if definition.status == "ACTIVE" {
        Ok(definition)
    } else {
        Err(ApiError::new("ClientException", "TaskDefinition is inactive"))
    }
}

fn count(desired: i64) -> Result<usize, ApiError> {
    usize::try_from(desired).map_err(|_| ApiError::invalid("Desired count cannot be negative."))
}

fn schedule(cloud: &mut Cloud, cluster: &str, name: &str) {
    let timer = Timer::Service { cluster: cluster.to_owned(), name: name.to_owned() };
    cloud.schedule(cloud.now(), timer);
}

pub fn update(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster_name = cluster(cloud, input)?.name.clone();
    let name = tail(input.need("service")?).to_owned();
    let known = cloud.ecs.clusters[&cluster_name].services.get(&name).ok_or_else(not_found)?;
    if !known.is_active() {
        return Err(ApiError::new("ServiceNotActiveException", "Service was not ACTIVE."));
    }
    let primary = known.rollout.primary().ok_or_else(not_found)?;
    let desired = input.number("desiredCount").map(count).transpose()?;
    let mut settings = known.settings.clone();
    let given = settings_given(input, &settings);
    let forced = input.flag("forceNewDeployment") == Some(true);
    check_strategy(&settings, &given, forced)?;
    let redeploys =
        DEPLOYED.iter().any(|field| given.get(*field).is_some_and(|value| settings.get(*field) != Some(value)));
    if let Some(strategy) = given.get("capacityProviderStrategy") {
        // An empty strategy restores the launch type.
        if strategy.as_array().is_some_and(Vec::is_empty) {
            settings.insert("launchType".to_owned(), "FARGATE".into());
        } else {
            settings.remove("launchType");
        }
    }
    settings.extend(given);
    settings.retain(|field, value| {
        field != "capacityProviderStrategy" || value.as_array().is_some_and(|list| !list.is_empty())
    });
    let asked = input.text("taskDefinition");
    let definition = match asked {
        Some(id) => definition(cloud, id)?,
        None => cloud
            .ecs
            .definition(&primary.revision.task_definition)
            .ok_or_else(|| ApiError::new("ClientException", "TaskDefinition not found."))?,
    };
    check(cloud, definition, &settings)?;
    let changes = definition.arn != primary.revision.task_definition;
    let revision = Revision { task_definition: definition.arn.clone(), settings: settings.clone() };
    let id = cloud.draw_deployment_id();
    let now = cloud.now();
    schedule(cloud, &cluster_name, &name);
    let service = cloud.ecs.service_mut(&cluster_name, &name).ok_or_else(not_found)?;
    service.settings = settings;
    service.apply_configuration();
    if let Some(desired) = desired {
        service.rollout.desired = desired;
    }
    if changes || redeploys || forced {
        service.rollout.start(id, revision, now);
    }
    Ok(json!({"service": show(cloud, &cloud.ecs.clusters[&cluster_name].services[&name], false)}))
}

/// Refuses another capacity provider strategy without a new deployment, also the empty one that restores the launch type. The text is
/// that of AWS.
fn check_strategy(known: &Map<String, Value>, given: &Map<String, Value>, forced: bool) -> Result<(), ApiError> {
    let none = Value::Array(Vec::new());
    let field = "capacityProviderStrategy";
    let changes = given.get(field).is_some_and(|strategy| strategy != known.get(field).unwrap_or(&none));
    if !changes || forced {
        return Ok(());
    }
    Err(ApiError::invalid(
        "When switching from launch type to capacity provider strategy on an existing service, or making a change to a capacity \
         provider strategy on a service that is already using one, you must force a new deployment.",
    ))
}

pub fn delete(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster_name = cluster(cloud, input)?.name.clone();
    let name = tail(input.need("service")?).to_owned();
    let service = cloud.ecs.service_mut(&cluster_name, &name).ok_or_else(not_found)?;
    match service.status {
        Status::Inactive => return Err(not_found()),
        Status::Draining => {}
        Status::Active => {
            if service.rollout.desired > 0 && input.flag("force") != Some(true) {
                return Err(ApiError::invalid("The service cannot be stopped while it is scaled above 0."));
            }
            service.status = Status::Draining;
            service.rollout.draining = true;
            service.rollout.desired = 0;
            schedule(cloud, &cluster_name, &name);
        }
    }
    Ok(json!({"service": show(cloud, &cloud.ecs.clusters[&cluster_name].services[&name], false)}))
}

/// Removes an INACTIVE service.
pub fn forget(cloud: &mut Cloud, cluster: &str, name: &str) {
    if let Some(cluster) = cloud.ecs.clusters.get_mut(cluster)
        && cluster.services.get(name).is_some_and(|service| service.status == Status::Inactive)
    {
        cluster.services.remove(name);
    }
}

/// Keeps a service's desired count within the bounds of a scalable target; false when there is no such service.
///
/// Only `RegisterScalableTarget` does this: 'it changes the resource's current capacity to a value that is inside of this range'.
/// <https://docs.aws.amazon.com/autoscaling/application/APIReference/API_RegisterScalableTarget.html>
///
/// A count below the minimum that a person sets stays: 'If a service's desired count is set below its minimum capacity value,
/// and an alarm triggers a scale-out activity', the count rises to the minimum. Without a task there is no metric, and so no alarm.
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-auto-scaling.html>
pub fn clamp(cloud: &mut Cloud, resource: &str, least: i64, most: i64) -> bool {
    let parts: Vec<&str> = resource.split('/').collect();
    let ["service", cluster, name] = parts[..] else {
        return false;
    };
    let bound = |number: i64| usize::try_from(number).unwrap_or_default();
    let Some(service) = cloud.ecs.service_mut(cluster, name).filter(|service| service.is_active()) else {
        return false;
    };
    let desired = service.rollout.desired.clamp(bound(least), bound(most.max(least)));
    if desired != service.rollout.desired {
        service.rollout.desired = desired;
        schedule(cloud, cluster, name);
    }
    true
}

fn not_found() -> ApiError {
    ApiError::new("ServiceNotFoundException", "Service not found.")
}
