//! ECS: clusters, task definitions, services and tasks.

pub mod scheduler;
pub mod service;
pub mod task;
pub mod task_definition;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::unknown;
use crate::cloud::Cloud;
use crate::fault::{Fault, Reply};
use crate::fields::{Fields, Tags, lower_tags, pick};
use crate::paging::{Limits, page};
use crate::services::Service as AwsService;
use crate::tags;
use service::Service;
use task::Task;
use task_definition::Family;

const PAGE: Limits = Limits { default: 100, max: 100 };

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Ecs {
    pub clusters: BTreeMap<String, Cluster>,
    pub families: BTreeMap<String, Family>,
    /// By ARN; a stopped task is described for another hour.
    pub tasks: BTreeMap<String, Task>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub arn: String,
    settings: Map<String, Value>,
    pub tags: Tags,
    pub services: BTreeMap<String, Service>,
}

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreateCluster" => create_cluster(cloud, input),
        "DescribeClusters" => Ok(describe_clusters(cloud, input)),
        "ListClusters" => {
            let all = cloud.ecs.clusters.values().map(|cluster| (cluster.arn.clone(), cluster.arn.as_str().into()));
            arns(input, "clusterArns", all.collect(), PAGE)
        }
        "RegisterTaskDefinition" => task_definition::register(cloud, input),
        "DescribeTaskDefinition" => task_definition::describe(cloud, input),
        "ListTaskDefinitions" => task_definition::list(cloud, input),
        "ListTaskDefinitionFamilies" => task_definition::list_families(cloud, input),
        "DeregisterTaskDefinition" => task_definition::deregister(cloud, input),
        "DeleteTaskDefinitions" => task_definition::delete(cloud, input),
        "CreateService" => service::create(cloud, input),
        "UpdateService" => service::update(cloud, input),
        "DeleteService" => service::delete(cloud, input),
        "DescribeServices" => service::describe(cloud, input),
        "ListServices" => service::list(cloud, input),
        "RunTask" => task::run(cloud, input),
        "StopTask" => task::stop_by_user(cloud, input),
        "ListTasks" => task::list(cloud, input),
        "DescribeTasks" => task::describe(cloud, input),
        "TagResource" => {
            let added = input.tags("tags");
            tags::add(AwsService::Ecs, tagged(cloud, input)?, added)?;
            Ok(json!({}))
        }
        "UntagResource" => {
            let tags = tagged(cloud, input)?;
            input.texts("tagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListTagsForResource" => Ok(json!({"tags": lower_tags(tagged(cloud, input)?)})),
        _ => Err(unknown(AwsService::Ecs, operation)),
    }
}

fn create_cluster(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.text("clusterName").unwrap_or("default").to_owned();
    if !is_name(&name) {
        return Err(Fault::invalid("Cluster name contains invalid characters or is longer than 255."));
    }
    let tags = input.tags("tags");
    tags::check(AwsService::Ecs, &tags)?;
    if !cloud.ecs.clusters.contains_key(&name) {
        let cluster = Cluster {
            arn: cloud.arn("ecs", &format!("cluster/{name}")),
            name: name.clone(),
            settings: pick(
                input,
                &["settings", "configuration", "capacityProviders", "defaultCapacityProviderStrategy"],
            ),
            tags,
            services: BTreeMap::new(),
        };
        cloud.ecs.clusters.insert(name.clone(), cluster);
    }
    Ok(json!({"cluster": show_cluster(cloud, &cloud.ecs.clusters[&name], true)}))
}

fn show_cluster(cloud: &Cloud, cluster: &Cluster, with_tags: bool) -> Value {
    let count = |status: &str| {
        let tasks = cloud.ecs.tasks.values();
        tasks.filter(|task| task.cluster == cluster.name && task.last_status == status).count()
    };
    let mut shown = json!({
        "clusterArn": cluster.arn,
        "clusterName": cluster.name,
        "status": "ACTIVE",
        "registeredContainerInstancesCount": 0,
        "runningTasksCount": count("RUNNING"),
        "pendingTasksCount": count("PENDING") + count("PROVISIONING"),
        "activeServicesCount": cluster.services.values().filter(|service| service.is_active()).count(),
        "statistics": [],
        "settings": [{"name": "containerInsights", "value": "disabled"}],
        "capacityProviders": [],
        "defaultCapacityProviderStrategy": [],
        "tags": if with_tags { lower_tags(&cluster.tags) } else { json!([]) },
    });
    for (field, value) in &cluster.settings {
        shown[field] = value.clone();
    }
    shown
}

fn describe_clusters(cloud: &mut Cloud, input: &Value) -> Value {
    let named = input.texts("clusters");
    let named = if named.is_empty() { vec!["default"] } else { named };
    let (mut clusters, mut failures) = (Vec::new(), Vec::new());
    for id in named {
        if let Some(cluster) = cloud.ecs.clusters.get(tail(id)) {
            clusters.push(show_cluster(cloud, cluster, includes(input, "TAGS")));
        } else {
            let arn = cloud.arn("ecs", &format!("cluster/{}", tail(id)));
            failures.push(json!({"arn": arn, "reason": "MISSING"}));
        }
    }
    json!({"clusters": clusters, "failures": failures})
}

fn tagged<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Tags, Fault> {
    let arn = input.need("resourceArn")?;
    let missing = Fault::invalid(format!("The specified resource does not exist: {arn}"));
    let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
    let parts: Vec<&str> = resource.split('/').collect();
    let ecs = &mut cloud.ecs;
    let tags = match parts[..] {
        ["cluster", name] => ecs.clusters.get_mut(name).map(|cluster| &mut cluster.tags),
        ["service", cluster, name] => {
            let service = ecs.clusters.get_mut(cluster).and_then(|cluster| cluster.services.get_mut(name));
            service.filter(|service| service.is_active()).map(|service| &mut service.tags)
        }
        ["task", ..] => ecs.tasks.get_mut(arn).map(|task| &mut task.tags),
        ["task-definition", _] => task_definition::find_mut(ecs, arn).map(|definition| &mut definition.tags),
        _ => None,
    };
    tags.ok_or(missing)
}

/// The cluster that `cluster` names, by name or ARN; AWS means `default` when nothing is said.
fn cluster<'a>(cloud: &'a Cloud, input: &Value) -> Result<&'a Cluster, Fault> {
    let id = input.text("cluster").unwrap_or("default");
    let missing = || Fault::new("ClusterNotFoundException", "Cluster not found.");
    cloud.ecs.clusters.get(tail(id)).ok_or_else(missing)
}

/// What clusters, services and families may be called.
fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=255).contains(&name.len()) && name.chars().all(legal)
}

/// The name at the end of an ARN, or the name itself.
fn tail(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

fn includes(input: &Value, what: &str) -> bool {
    input.texts("include").contains(&what)
}

/// A page of ARNs or names under `list`.
fn arns(input: &Value, list: &str, all: Vec<(String, Value)>, limits: Limits) -> Reply {
    let page = page(all, input.text("nextToken"), input.number("maxResults"), limits)?;
    Ok(page.document(list, "nextToken"))
}

/// Refuses a role that ECS cannot assume: one it may not assume by its trust policy, or one that is too new.
/// Roles that IAM here does not know are taken on trust.
fn check_role(cloud: &Cloud, arn: Option<&str>) -> Result<(), Fault> {
    let Some(role) = arn.and_then(|arn| cloud.iam.by_arn(arn)) else {
        return Ok(());
    };
    let known_for = cloud.now().since(role.created_at);
    if role.trust.contains("ecs-tasks.amazonaws.com") && known_for >= cloud.rules.role_propagation {
        return Ok(());
    }
    Err(Fault::new(
        "ClientException",
        format!(
            "ECS was unable to assume the role '{}' that was provided for this task. Please verify that the role being \
         passed has the proper trust relationship and permissions and that your IAM user has permissions to \
         pass this role.",
            role.arn
        ),
    ))
}
