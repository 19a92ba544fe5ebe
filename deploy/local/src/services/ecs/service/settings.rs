//! The settings of a service: the input of a call with the defaults of AWS.

use serde_json::{Map, Value, json};

use crate::protocol::fields::pick;

/// Fields that are stored and returned unchanged.
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

/// Fields whose change starts a new deployment. Other changes reach only new tasks.
pub const DEPLOYED: [&str; 4] = ["platformVersion", "networkConfiguration", "loadBalancers", "serviceRegistries"];

/// The settings in the input, with the defaults of AWS.
pub fn settings(input: &Value) -> Map<String, Value> {
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

/// The settings in an update, with defaults. A deployment configuration changes only the fields that it names.
pub fn settings_given(input: &Value, known: &Map<String, Value>) -> Map<String, Value> {
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
