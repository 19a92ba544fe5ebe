//! ECS services: what was asked for. Who follows it is [`super::scheduler`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::task_definition::{self, Definition};
use super::{arns, check_role, cluster, includes, is_name, tail};
use crate::cloud::{Cloud, Timer};
use crate::fault::{Fault, Reply};
use crate::fields::{Fields, Tags, lower_tags, pick};
use crate::paging::Limits;
use crate::rollout::{Deployment, Revision, Rollout, RolloutState};
use crate::services::{Service as AwsService, cloudmap};
use crate::tags;
use crate::time::Time;

/// What is kept as it was given, and answered back.
const SETTINGS: [&str; 17] = [
    "launchType",
    "capacityProviderStrategy",
    "platformVersion",
    "networkConfiguration",
    "loadBalancers",
    "serviceRegistries",
    "healthCheckGracePeriodSeconds",
    "schedulingStrategy",
    "deploymentController",
    "deploymentConfiguration",
    "enableECSManagedTags",
    "propagateTags",
    "enableExecuteCommand",
    "placementConstraints",
    "placementStrategy",
    "availabilityZoneRebalancing",
    "role",
];
/// What starts a new deployment when it changes; the others reach only tasks started later.
const DEPLOYED: [&str; 4] = ["platformVersion", "networkConfiguration", "loadBalancers", "serviceRegistries"];
/// Fargate's newest platform version for Linux.
const NEWEST_PLATFORM: &str = "1.4.0";
/// What a deployment shows of its own.
const SHOWN: [&str; 4] = ["launchType", "capacityProviderStrategy", "platformVersion", "networkConfiguration"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Active,
    Draining,
    Inactive,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub arn: String,
    cluster_arn: String,
    pub status: Status,
    pub settings: Map<String, Value>,
    created_at: Time,
    pub tags: Tags,
    pub rollout: Rollout,
    /// ARNs of its tasks that have not stopped.
    pub tasks: Vec<String>,
}

impl Service {
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    pub fn uses(&self, task_definition: &str) -> bool {
        self.rollout.deployments.iter().any(|deployment| deployment.revision.task_definition == task_definition)
    }

    /// Takes over what the deployment configuration says to the scheduler.
    fn apply_configuration(&mut self) {
        let Some(configuration) = self.settings.get("deploymentConfiguration") else {
            return;
        };
        let percent = |name, default| {
            configuration.number(name).and_then(|percent| usize::try_from(percent).ok()).unwrap_or(default)
        };
        self.rollout.minimum_healthy_percent = percent("minimumHealthyPercent", 100);
        self.rollout.maximum_percent = percent("maximumPercent", 200);
        let breaker = configuration.get("deploymentCircuitBreaker");
        let breaker = breaker.filter(|breaker| breaker.flag("enable") == Some(true));
        self.rollout.breaker = breaker.map(|breaker| breaker.flag("rollback") == Some(true));
    }
}

pub fn create(cloud: &mut Cloud, input: &Value) -> Reply {
    let (cluster_name, cluster_arn) = {
        let cluster = cluster(cloud, input)?;
        (cluster.name.clone(), cluster.arn.clone())
    };
    let name = input.need("serviceName")?;
    if !is_name(name) {
        return Err(Fault::invalid("Service name contains invalid characters or is longer than 255."));
    }
    let desired = input.number("desiredCount").ok_or_else(|| Fault::missing("desiredCount"))?;
    let desired = count(desired)?;
    let settings = settings(input);
    let tags = input.tags("tags");
    tags::check(AwsService::Ecs, &tags)?;
    let definition = definition(cloud, input.need("taskDefinition")?)?;
    let revision = Revision { task_definition: definition.arn.clone(), settings: settings.clone() };
    check(cloud, definition, &settings)?;

    match cloud.ecs.clusters.get(&cluster_name).and_then(|cluster| cluster.services.get(name)) {
        Some(known) if known.status == Status::Draining => {
            return Err(Fault::invalid("Unable to Start a service that is still Draining."));
        }
        Some(known) if known.is_active() => {
            let primary = known.rollout.primary();
            let same = primary.is_some_and(|primary| primary.revision.task_definition == revision.task_definition)
                && known.rollout.desired == desired
                && known.settings == settings;
            if same {
                return Ok(json!({"service": show(cloud, known, true)}));
            }
            return Err(Fault::invalid("Creation of service was not idempotent."));
        }
        _ => {}
    }
    let most = cloud.rules.quotas.services_of_cluster;
    let living = |service: &&Service| service.status != Status::Inactive;
    if cloud.ecs.clusters[&cluster_name].services.values().filter(living).count() >= most {
        // No error of its own is documented for it.
        return Err(Fault::invalid(format!("The maximum number of services for the cluster, {most}, is reached.")));
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
    let id = draw_deployment(cloud);
    service.rollout.start(id, revision, cloud.now());
    let shown = show(cloud, &service, true);
    wake(cloud, &cluster_name, name);
    if let Some(cluster) = cloud.ecs.clusters.get_mut(&cluster_name) {
        cluster.services.insert(name.to_owned(), service);
    }
    Ok(json!({"service": shown}))
}

/// Settings as given, with what AWS fills in.
fn settings(input: &Value) -> Map<String, Value> {
    let mut settings = pick(input, &SETTINGS);
    let strategy =
        settings.get("capacityProviderStrategy").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !strategy {
        settings.entry("launchType").or_insert_with(|| "FARGATE".into());
    }
    settings.entry("platformVersion").or_insert_with(|| "LATEST".into());
    settings.entry("schedulingStrategy").or_insert_with(|| "REPLICA".into());
    settings.entry("deploymentController").or_insert_with(|| json!({"type": "ECS"}));
    settings.entry("propagateTags").or_insert_with(|| "NONE".into());
    settings.entry("availabilityZoneRebalancing").or_insert_with(|| "ENABLED".into());
    for flag in ["enableECSManagedTags", "enableExecuteCommand"] {
        settings.entry(flag).or_insert_with(|| false.into());
    }
    for list in ["loadBalancers", "serviceRegistries", "placementConstraints", "placementStrategy"] {
        settings.entry(list).or_insert_with(|| json!([]));
    }
    let configuration = settings.remove("deploymentConfiguration").unwrap_or_else(|| json!({}));
    settings.insert("deploymentConfiguration".to_owned(), fill_configuration(configuration));
    if let Some(vpc) =
        settings.get_mut("networkConfiguration").and_then(|network| network.get_mut("awsvpcConfiguration"))
    {
        if vpc.get("assignPublicIp").is_none() {
            vpc["assignPublicIp"] = "DISABLED".into();
        }
        if vpc.get("securityGroups").is_none() {
            vpc["securityGroups"] = json!([]);
        }
    }
    settings
}

fn fill_configuration(mut configuration: Value) -> Value {
    let defaults = json!({
        "deploymentCircuitBreaker": {"enable": false, "rollback": false},
        "maximumPercent": 200,
        "minimumHealthyPercent": 100,
        "strategy": "ROLLING",
        "bakeTimeInMinutes": 0,
    });
    for (field, default) in defaults.as_object().into_iter().flatten() {
        if configuration.get(field).is_none_or(Value::is_null) {
            configuration[field] = default.clone();
        }
    }
    configuration
}

/// What AWS looks at before it accepts a service.
fn check(cloud: &Cloud, definition: &Definition, settings: &Map<String, Value>) -> Result<(), Fault> {
    let network = settings.get("networkConfiguration").and_then(|network| network.get("awsvpcConfiguration"));
    if definition.is_awsvpc() && network.is_none_or(|vpc| vpc.items("subnets").is_empty()) {
        let message = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
        return Err(Fault::invalid(message));
    }
    let minimum = settings["deploymentConfiguration"].number("minimumHealthyPercent").unwrap_or(100);
    let maximum = settings["deploymentConfiguration"].number("maximumPercent").unwrap_or(200);
    if minimum < 0 || maximum < 1 || maximum < minimum {
        return Err(Fault::invalid(
            "Both maximumPercent and minimumHealthyPercent must be sensible, the maximum not below the minimum.",
        ));
    }
    let registries = settings.get("serviceRegistries").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if registries.len() > 1 {
        return Err(Fault::invalid("Service registries can have at most 1 items."));
    }
    for registry in registries {
        let arn = registry.need("registryArn")?;
        let known = cloudmap::by_arn(cloud, arn);
        let known = known.ok_or_else(|| Fault::invalid(format!("Service registry not found: {arn}")))?;
        if known.has_srv() && registry.number("port").or(registry.number("containerPort")).is_none() {
            return Err(Fault::invalid(
                "When specifying 'port' or an SRV record, specify containerName and containerPort.",
            ));
        }
    }
    for role in ["executionRoleArn", "taskRoleArn"] {
        let refused = |fault: Fault| Fault { code: None, ..fault };
        check_role(cloud, definition.body.text(role)).map_err(refused)?;
    }
    Ok(())
}

fn definition<'a>(cloud: &'a Cloud, id: &str) -> Result<&'a Definition, Fault> {
    let missing = || Fault::new("ClientException", "TaskDefinition not found.");
    let definition = task_definition::find(&cloud.ecs, id).ok_or_else(missing)?;
    if definition.status == "ACTIVE" {
        Ok(definition)
    } else {
        Err(Fault::new("ClientException", "TaskDefinition is inactive"))
    }
}

fn count(desired: i64) -> Result<usize, Fault> {
    usize::try_from(desired).map_err(|_| Fault::invalid("Desired count cannot be negative."))
}

/// `ecs-svc/` and nineteen digits.
pub fn draw_deployment(cloud: &mut Cloud) -> String {
    let number = u64::from_str_radix(&cloud.draw(15), 16).unwrap_or_default();
    format!("ecs-svc/{number:019}")
}

fn wake(cloud: &mut Cloud, cluster: &str, name: &str) {
    let timer = Timer::Service { cluster: cluster.to_owned(), name: name.to_owned() };
    cloud.wake(cloud.now(), timer);
}

pub fn update(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster_name = cluster(cloud, input)?.name.clone();
    let name = tail(input.need("service")?).to_owned();
    let known = cloud.ecs.clusters[&cluster_name].services.get(&name).ok_or_else(not_found)?;
    if !known.is_active() {
        return Err(Fault::new("ServiceNotActiveException", "Service was not ACTIVE."));
    }
    let primary = known.rollout.primary().ok_or_else(not_found)?;
    let desired = input.number("desiredCount").map(count).transpose()?;
    let mut settings = known.settings.clone();
    let given = settings_given(input, &settings);
    let redeploys =
        DEPLOYED.iter().any(|field| given.get(*field).is_some_and(|value| settings.get(*field) != Some(value)));
    if let Some(strategy) = given.get("capacityProviderStrategy") {
        // An empty one goes back to the launch type.
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
        None => task_definition::find(&cloud.ecs, &primary.revision.task_definition)
            .ok_or_else(|| Fault::new("ClientException", "TaskDefinition not found."))?,
    };
    check(cloud, definition, &settings)?;
    let changes = definition.arn != primary.revision.task_definition;
    let revision = Revision { task_definition: definition.arn.clone(), settings: settings.clone() };
    let id = draw_deployment(cloud);
    let now = cloud.now();
    wake(cloud, &cluster_name, &name);
    let service = find_mut(cloud, &cluster_name, &name).ok_or_else(not_found)?;
    service.settings = settings;
    service.apply_configuration();
    if let Some(desired) = desired {
        service.rollout.desired = desired;
    }
    if changes || redeploys || input.flag("forceNewDeployment") == Some(true) {
        service.rollout.start(id, revision, now);
    }
    Ok(json!({"service": show(cloud, &cloud.ecs.clusters[&cluster_name].services[&name], false)}))
}

/// The settings an update names, each filled in as on creation; a deployment configuration changes only what it names.
fn settings_given(input: &Value, known: &Map<String, Value>) -> Map<String, Value> {
    let named = pick(input, &SETTINGS);
    let mut filled = settings(input);
    if let (Some(Value::Object(change)), Some(before)) =
        (named.get("deploymentConfiguration"), known.get("deploymentConfiguration"))
    {
        let mut merged = before.clone();
        change.iter().for_each(|(field, value)| merged[field] = value.clone());
        filled.insert("deploymentConfiguration".to_owned(), merged);
    }
    filled.retain(|field, _| named.contains_key(field));
    filled
}

pub fn delete(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster_name = cluster(cloud, input)?.name.clone();
    let name = tail(input.need("service")?).to_owned();
    let service = find_mut(cloud, &cluster_name, &name).ok_or_else(not_found)?;
    match service.status {
        Status::Inactive => return Err(not_found()),
        Status::Draining => {}
        Status::Active => {
            if service.rollout.desired > 0 && input.flag("force") != Some(true) {
                return Err(Fault::invalid("The service cannot be stopped while it is scaled above 0."));
            }
            service.status = Status::Draining;
            service.rollout.draining = true;
            service.rollout.desired = 0;
            wake(cloud, &cluster_name, &name);
        }
    }
    Ok(json!({"service": show(cloud, &cloud.ecs.clusters[&cluster_name].services[&name], false)}))
}

/// An INACTIVE service is not described for ever.
pub fn forget(cloud: &mut Cloud, cluster: &str, name: &str) {
    if let Some(cluster) = cloud.ecs.clusters.get_mut(cluster)
        && cluster.services.get(name).is_some_and(|service| service.status == Status::Inactive)
    {
        cluster.services.remove(name);
    }
}

pub fn describe(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?;
    let named = input.texts("services");
    if named.is_empty() {
        return Err(Fault::invalid("Services cannot be empty."));
    }
    if named.len() > 10 {
        return Err(Fault::invalid("Services cannot have more than 10 elements."));
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

/// Only ACTIVE services: a DRAINING one is no longer listed.
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

fn show(cloud: &Cloud, service: &Service, with_tags: bool) -> Value {
    let listed = service.rollout.deployments.iter().filter(|_| service.status != Status::Inactive);
    let shown = |(index, deployment)| show_deployment(cloud, service, deployment, index == 0);
    let deployments: Vec<Value> = listed.enumerate().map(shown).collect();
    let event = |event: &crate::rollout::Event| {
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
    // What the latest version was when the deployment began.
    if shown["platformVersion"] == "LATEST" {
        shown["platformVersion"] = NEWEST_PLATFORM.into();
    }
    shown
}

/// Keeps a service's desired count within what a scalable target allows; false when there is no such service.
pub fn clamp(cloud: &mut Cloud, resource: &str, least: i64, most: i64) -> bool {
    let parts: Vec<&str> = resource.split('/').collect();
    let ["service", cluster, name] = parts[..] else {
        return false;
    };
    let bound = |number: i64| usize::try_from(number).unwrap_or_default();
    let Some(service) = find_mut(cloud, cluster, name).filter(|service| service.is_active()) else {
        return false;
    };
    let desired = service.rollout.desired.clamp(bound(least), bound(most.max(least)));
    if desired != service.rollout.desired {
        service.rollout.desired = desired;
        wake(cloud, cluster, name);
    }
    true
}

pub fn find_mut<'a>(cloud: &'a mut Cloud, cluster: &str, name: &str) -> Option<&'a mut Service> {
    cloud.ecs.clusters.get_mut(cluster)?.services.get_mut(name)
}

fn not_found() -> Fault {
    Fault::new("ServiceNotFoundException", "Service not found.")
}
