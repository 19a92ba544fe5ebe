//! Cloud Map: namespaces, services and the instances that ECS registers in them.
//!
//! Asynchronous changes happen when their operation completes.
//!
//! A new service can get the id of a deleted service of the same name (hashicorp/terraform-provider-aws#46930);
//! `Rules::returning_ids` sets how often. ECS registers tasks only when they start, so running tasks are missing in it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::model::cloudmap::{Attributes, Change, CloudMap, Namespace, Operation, Registry};
use crate::model::{Cloud, Timer};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, Tags, pick, upper_tags};
use crate::protocol::paging::{Limits, page};
use crate::protocol::tags;

const PAGE: Limits = Limits { default: 100, max: 100 };

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreatePrivateDnsNamespace" => create_namespace(cloud, input),
        "ListNamespaces" => list_namespaces(cloud, input),
        "GetNamespace" => {
            let id = tail(input.need("Id")?);
            let namespace = cloud.cloudmap.namespaces.get(id).ok_or_else(|| no_namespace(id))?;
            Ok(json!({"Namespace": show_namespace(cloud, namespace)}))
        }
        "CreateService" => create_service(cloud, input),
        "GetService" => {
            let service = registry_mut(cloud, input.need("Id")?)?;
            Ok(json!({"Service": show_service(service)}))
        }
        "ListServices" => list_services(cloud, input),
        "UpdateService" => update_service(cloud, input),
        "DeleteService" => delete_service(cloud, input),
        "RegisterInstance" => register_instance(cloud, input),
        "DeregisterInstance" => deregister_instance(cloud, input),
        "ListInstances" => list_instances(cloud, input),
        "GetOperation" => get_operation(cloud, input),
        "DiscoverInstances" => discover(cloud, input),
        "TagResource" => {
            let added = input.tags("Tags");
            tags::add(AwsService::CloudMap, tagged(cloud, input)?, added)?;
            Ok(json!({}))
        }
        "UntagResource" => {
            let tags = tagged(cloud, input)?;
            input.texts("TagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListTagsForResource" => Ok(json!({"Tags": upper_tags(tagged(cloud, input)?)})),
        _ => Err(AwsService::CloudMap.unknown(operation)),
    }
}

/// Registers a task at once, as ECS does; an error if the registry does not exist or is full.
pub fn register_task(
    cloud: &mut Cloud,
    registry_arn: &str,
    instance: &str,
    attributes: Attributes,
) -> Result<(), ApiError> {
    let id = tail(registry_arn);
    check_instance_quota(cloud, id, instance)?;
    registry_mut(cloud, id)?.instances.insert(instance.to_owned(), attributes);
    Ok(())
}

/// Refuses a new instance if the quota of the service or of its namespace is reached.
fn check_instance_quota(cloud: &Cloud, id: &str, instance: &str) -> Result<(), ApiError> {
    let CloudMap { services, .. } = &cloud.cloudmap;
    let Some(service) = services.get(id).filter(|service| !service.instances.contains_key(instance)) else {
        return Ok(());
    };
    let neighbours = services.values().filter(|other| other.namespace_id == service.namespace_id);
    let quotas = &cloud.rules.quotas;
    if service.instances.len() >= quotas.instances_of_registry {
        return Err(exceeded("instances per service", quotas.instances_of_registry));
    }
    if neighbours.map(|other| other.instances.len()).sum::<usize>() >= quotas.instances_of_namespace {
        return Err(exceeded("instances per namespace", quotas.instances_of_namespace));
    }
    Ok(())
}

pub fn deregister_task(cloud: &mut Cloud, registry_arn: &str, instance: &str) {
    if let Some(registry) = cloud.cloudmap.services.get_mut(tail(registry_arn)) {
        registry.instances.remove(instance);
    }
}

/// Applies the change of an operation.
pub fn complete(cloud: &mut Cloud, id: &str) {
    let now = cloud.now();
    let Some(operation) = cloud.cloudmap.operations.get_mut(id) else {
        return;
    };
    operation.done = true;
    match operation.change.clone() {
        Change::CreateNamespace { id, name, description, tags } => {
            let arn = cloud.arn("servicediscovery", &format!("namespace/{id}"));
            let hosted_zone = format!("Z{}", cloud.draw(20).to_uppercase());
            let namespace = Namespace { id: id.clone(), arn, name, description, created_at: now, hosted_zone, tags };
            cloud.cloudmap.namespaces.insert(id, namespace);
        }
        Change::UpdateService { id, settings } => {
            if let Some(registry) = cloud.cloudmap.services.get_mut(&id) {
                registry.settings.extend(settings);
            }
        }
        Change::Register { service, instance, attributes } => {
            if let Some(registry) = cloud.cloudmap.services.get_mut(&service) {
                registry.instances.insert(instance, attributes);
            }
        }
        Change::Deregister { service, instance } => {
            if let Some(registry) = cloud.cloudmap.services.get_mut(&service) {
                registry.instances.remove(&instance);
            }
        }
    }
}

fn start_operation(cloud: &mut Cloud, kind: &str, targets: &[(&str, &str)], change: Change) -> Value {
    let id = cloud.draw_uuid();
    let targets = targets.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect();
    let operation = Operation { kind: kind.to_owned(), targets, created_at: cloud.now(), done: false, change };
    cloud.cloudmap.operations.insert(id.clone(), operation);
    cloud.schedule(cloud.now() + cloud.rules.operation_delay, Timer::Operation { id: id.clone() });
    json!({"OperationId": id})
}

fn create_namespace(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.need("Name")?;
    input.need("Vpc")?;
    if name.len() > 253 || !name.split('.').all(is_dns_label) {
        return Err(ApiError::invalid(format!("'{name}' is not a valid name of a private DNS zone")));
    }
    let pending = cloud.cloudmap.operations.values().filter(|operation| !operation.done);
    let promised = pending.filter_map(|operation| match &operation.change {
        Change::CreateNamespace { name, .. } => Some(name.as_str()),
        _ => None,
    });
    let existing = cloud.cloudmap.namespaces.values().map(|namespace| namespace.name.as_str());
    if existing.chain(promised).any(|taken| taken == name) {
        return Err(ApiError::new("NamespaceAlreadyExists", format!("Namespace with name {name} already exists.")));
    }
    let promised = cloud
        .cloudmap
        .operations
        .values()
        .filter(|operation| matches!(operation.change, Change::CreateNamespace { .. }) && !operation.done);
    if cloud.cloudmap.namespaces.len() + promised.count() >= cloud.rules.quotas.namespaces {
        return Err(exceeded("namespaces per Region", cloud.rules.quotas.namespaces));
    }
    let tags = input.tags("Tags");
    tags::check(AwsService::CloudMap, &tags)?;
    let id = format!("ns-{}", cloud.draw(16));
    let change = Change::CreateNamespace {
        id: id.clone(),
        name: name.to_owned(),
        description: description(input)?.map(str::to_owned),
        tags,
    };
    Ok(start_operation(cloud, "CREATE_NAMESPACE", &[("NAMESPACE", &id)], change))
}

fn list_namespaces(cloud: &mut Cloud, input: &Value) -> Reply {
    let fits = |namespace: &&Namespace| {
        input.items("Filters").iter().all(|filter| match filter.text("Name") {
            Some("NAME") => filter.texts("Values").contains(&namespace.name.as_str()),
            Some("TYPE") => filter.texts("Values").contains(&"DNS_PRIVATE"),
            _ => true,
        })
    };
    let all = cloud.cloudmap.namespaces.values().filter(fits).map(|namespace| (namespace.id.clone(), namespace));
    let page = page(all.collect(), input.text("NextToken"), input.number("MaxResults"), PAGE)?;
    Ok(page.map(|namespace| show_namespace(cloud, namespace)).document("Namespaces", "NextToken"))
}

fn show_namespace(cloud: &Cloud, namespace: &Namespace) -> Value {
    let services = cloud.cloudmap.services.values().filter(|service| service.namespace_id == namespace.id);
    json!({
        "Id": namespace.id,
        "Arn": namespace.arn,
        "Name": namespace.name,
        "Description": namespace.description,
        "Type": "DNS_PRIVATE",
        "ServiceCount": services.count(),
        "CreateDate": namespace.created_at.epoch_seconds(),
        "Properties": {
            "DnsProperties": {"HostedZoneId": namespace.hosted_zone, "SOA": {"TTL": 15}},
            "HttpProperties": {"HttpName": namespace.name},
        },
    })
}

fn create_service(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.need("Name")?;
    let dns = input.get("DnsConfig").filter(|dns| dns.is_object());
    let namespace = input.text("NamespaceId").or_else(|| dns?.text("NamespaceId"));
    let namespace = tail(namespace.ok_or_else(|| ApiError::missing("NamespaceId"))?).to_owned();
    if !cloud.cloudmap.namespaces.contains_key(&namespace) {
        return Err(no_namespace(&namespace));
    }
    if name.len() > 127 || (dns.is_some() && !name.split('.').all(is_dns_label)) {
        return Err(ApiError::invalid(format!("'{name}' is not a valid DNS name")));
    }
    creator_request(input)?;
    description(input)?;
    let tags = input.tags("Tags");
    tags::check(AwsService::CloudMap, &tags)?;
    // DNS names are case-insensitive.
    let taken = |other: &str| if dns.is_some() { other.eq_ignore_ascii_case(name) } else { other == name };
    let same = |service: &&Registry| service.namespace_id == namespace && taken(&service.name);
    if let Some(service) = cloud.cloudmap.services.values().find(same) {
        let message = format!("Service already exists: {} has the name {name}.", service.id);
        return Err(ApiError::new("ServiceAlreadyExists", message));
    }
    let mut settings = pick(input, &["Description", "DnsConfig", "HealthCheckConfig", "HealthCheckCustomConfig"]);
    if let Some(Value::Object(dns)) = settings.get_mut("DnsConfig") {
        if dns.get("DnsRecords").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(ApiError::missing("DnsConfig.DnsRecords"));
        }
        dns.insert("NamespaceId".to_owned(), namespace.clone().into());
        dns.entry("RoutingPolicy").or_insert_with(|| "MULTIVALUE".into());
    }
    let id = fresh_id(cloud, &namespace, name);
    let service = Registry {
        arn: cloud.arn("servicediscovery", &format!("service/{id}")),
        id: id.clone(),
        name: name.to_owned(),
        namespace_id: namespace,
        created_at: cloud.now(),
        settings,
        tags,
        instances: BTreeMap::new(),
    };
    let shown = show_service(&service);
    cloud.cloudmap.services.insert(id, service);
    Ok(json!({"Service": shown}))
}

/// The id of a new service: that of the last service of this name, or a new id.
fn fresh_id(cloud: &mut Cloud, namespace: &str, name: &str) -> String {
    // Draw an id in both cases, so that later ids do not depend on the decision.
    let drawn = format!("srv-{}", cloud.draw(16));
    let place = format!("{namespace}/{name}");
    let returns = cloud.happens(cloud.rules.returning_ids, "returning id", &drawn);
    let former = cloud.cloudmap.ids.get(&place).filter(|_| returns).cloned();
    let id = former.unwrap_or(drawn);
    cloud.cloudmap.ids.insert(place, id.clone());
    id
}

fn show_service(service: &Registry) -> Value {
    let mut shown = summary(service);
    shown["NamespaceId"] = service.namespace_id.clone().into();
    shown
}

/// A service as `ListServices` returns it: without the namespace, which only `DnsConfig` has.
fn summary(service: &Registry) -> Value {
    let mut shown = json!({
        "Id": service.id,
        "Arn": service.arn,
        "Name": service.name,
        "Type": if service.settings.contains_key("DnsConfig") { "DNS_HTTP" } else { "HTTP" },
        "InstanceCount": service.instances.len(),
        "CreateDate": service.created_at.epoch_seconds(),
    });
    for (field, value) in &service.settings {
        shown[field] = value.clone();
    }
    shown
}

fn list_services(cloud: &mut Cloud, input: &Value) -> Reply {
    let fits = |service: &&Registry| {
        input.items("Filters").iter().all(|filter| match filter.text("Name") {
            Some("NAMESPACE_ID") => filter.texts("Values").into_iter().any(|value| tail(value) == service.namespace_id),
            _ => true,
        })
    };
    let all = cloud.cloudmap.services.values().filter(fits).map(|service| (service.id.clone(), service));
    let page = page(all.collect(), input.text("NextToken"), input.number("MaxResults"), PAGE)?;
    Ok(page.map(summary).document("Services", "NextToken"))
}

/// AWS keeps omitted fields, except in `DnsConfig`, whose records are replaced as a whole.
fn update_service(cloud: &mut Cloud, input: &Value) -> Reply {
    let service = registry_mut(cloud, input.need("Id")?)?;
    let id = service.id.clone();
    let change = input.get("Service").cloned().unwrap_or_default();
    let mut settings = pick(&change, &["Description", "HealthCheckConfig"]);
    if let Some(records) = change.get("DnsConfig").and_then(|dns| dns.get("DnsRecords")) {
        let mut dns = service.settings.get("DnsConfig").cloned().unwrap_or_else(|| json!({}));
        dns["DnsRecords"] = records.clone();
        settings.insert("DnsConfig".to_owned(), dns);
    }
    let change = Change::UpdateService { id: id.clone(), settings };
    Ok(start_operation(cloud, "UPDATE_SERVICE", &[("SERVICE", &id)], change))
}

fn delete_service(cloud: &mut Cloud, input: &Value) -> Reply {
    let service = registry_mut(cloud, input.need("Id")?)?;
    if !service.instances.is_empty() {
        let message = "Service contains registered instances; delete the instances before deleting the service";
        return Err(ApiError::new("ResourceInUse", message));
    }
    let id = service.id.clone();
    cloud.cloudmap.services.remove(&id);
    Ok(json!({}))
}

fn register_instance(cloud: &mut Cloud, input: &Value) -> Reply {
    let service = registry_mut(cloud, input.need("ServiceId")?)?;
    let (id, srv) = (service.id.clone(), service.has_srv());
    let instance = input.need("InstanceId")?.to_owned();
    let attributes = input.text_map("Attributes");
    if attributes.is_empty() {
        return Err(ApiError::missing("Attributes"));
    }
    if instance.len() > 64 || attributes.iter().any(|(key, value)| key.len() > 255 || value.len() > 1024) {
        return Err(ApiError::invalid(
            "An instance's id has at most 64 characters, an attribute 255 and its value 1,024.",
        ));
    }
    if srv && !attributes.contains_key("AWS_INSTANCE_PORT") {
        return Err(ApiError::missing("Attributes.AWS_INSTANCE_PORT"));
    }
    if let Some((attribute, address)) = elsewhere(&attributes) {
        return Err(ApiError::invalid(format!(
            "{attribute} is {address}: localcloud accepts only addresses of 127.0.0.0/8 and ::1, so that its clients connect \
             only to this machine."
        )));
    }
    check_instance_quota(cloud, &id, &instance)?;
    let change = Change::Register { service: id.clone(), instance: instance.clone(), attributes };
    Ok(start_operation(cloud, "REGISTER_INSTANCE", &[("SERVICE", &id), ("INSTANCE", &instance)], change))
}

/// An attribute with an address outside this machine.
fn elsewhere(attributes: &Attributes) -> Option<(&str, &str)> {
    attributes.iter().map(|(attribute, address)| (attribute.as_str(), address.as_str())).find(|(attribute, address)| {
        match *attribute {
            "AWS_INSTANCE_IPV4" => !address.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
            "AWS_INSTANCE_IPV6" => !address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
            _ => false,
        }
    })
}

fn deregister_instance(cloud: &mut Cloud, input: &Value) -> Reply {
    let service = registry_mut(cloud, input.need("ServiceId")?)?;
    let instance = input.need("InstanceId")?.to_owned();
    if !service.instances.contains_key(&instance) {
        return Err(ApiError::new("InstanceNotFound", format!("Instance {instance} not found.")).with_status(404));
    }
    let id = service.id.clone();
    let change = Change::Deregister { service: id.clone(), instance: instance.clone() };
    Ok(start_operation(cloud, "DEREGISTER_INSTANCE", &[("SERVICE", &id), ("INSTANCE", &instance)], change))
}

fn list_instances(cloud: &mut Cloud, input: &Value) -> Reply {
    let service = registry_mut(cloud, input.need("ServiceId")?)?;
    let shown = |(id, attributes): (&String, &Attributes)| (id.clone(), json!({"Id": id, "Attributes": attributes}));
    let all = service.instances.iter().map(shown).collect();
    let page = page(all, input.text("NextToken"), input.number("MaxResults"), PAGE)?;
    Ok(page.document("Instances", "NextToken"))
}

fn get_operation(cloud: &mut Cloud, input: &Value) -> Reply {
    let id = input.need("OperationId")?;
    let missing = || ApiError::new("OperationNotFound", format!("Operation {id} not found."));
    let operation = cloud.cloudmap.operations.get(id).ok_or_else(missing)?;
    Ok(json!({"Operation": {
        "Id": id,
        "Type": operation.kind,
        "Status": if operation.done { "SUCCESS" } else { "PENDING" },
        "CreateDate": operation.created_at.epoch_seconds(),
        "UpdateDate": operation.created_at.epoch_seconds(),
        "Targets": operation.targets,
    }}))
}

fn discover(cloud: &mut Cloud, input: &Value) -> Reply {
    let (namespace, name) = (input.need("NamespaceName")?, input.need("ServiceName")?);
    let found = cloud.cloudmap.namespaces.values().find(|candidate| candidate.name == namespace);
    let found = found.ok_or_else(|| no_namespace(namespace))?;
    let same = |service: &&Registry| service.namespace_id == found.id && service.name == name;
    let service = cloud.cloudmap.services.values().find(same).ok_or_else(|| no_service(name))?;
    let wanted = input.text_map("QueryParameters");
    let fits = |attributes: &Attributes| wanted.iter().all(|(key, value)| attributes.get(key) == Some(value));
    let instances = service.instances.iter().filter(|(_, attributes)| fits(attributes));
    let most = input.number("MaxResults").and_then(|most| usize::try_from(most).ok()).unwrap_or(100);
    let shown: Vec<Value> = instances
        .take(most)
        .map(|(id, attributes)| {
            json!({
                "InstanceId": id,
                "NamespaceName": namespace,
                "ServiceName": name,
                "HealthStatus": "HEALTHY",
                "Attributes": attributes,
            })
        })
        .collect();
    Ok(json!({"Instances": shown, "InstancesRevision": cloud.now().millis()}))
}

fn tagged<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Tags, ApiError> {
    let arn = input.need("ResourceARN")?;
    let missing = ApiError::new("ResourceNotFoundException", format!("Resource {arn} not found."));
    let CloudMap { namespaces, services, .. } = &mut cloud.cloudmap;
    let service = services.get_mut(tail(arn)).map(|service| &mut service.tags);
    service.or_else(|| namespaces.get_mut(tail(arn)).map(|namespace| &mut namespace.tags)).ok_or(missing)
}

fn registry_mut<'a>(cloud: &'a mut Cloud, id: &str) -> Result<&'a mut Registry, ApiError> {
    cloud.cloudmap.services.get_mut(tail(id)).ok_or_else(|| no_service(id))
}

fn is_dns_label(label: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=63).contains(&label.len()) && label.chars().all(legal) && !label.starts_with('-') && !label.ends_with('-')
}

/// `ResourceId` in the API's model: at most 64 characters.
fn creator_request(input: &Value) -> Result<(), ApiError> {
    match input.text("CreatorRequestId").map(str::len) {
        Some(length) if length > 64 => Err(ApiError::invalid(format!(
            "1 validation error detected: Value at 'creatorRequestId' failed to satisfy constraint: Member must have length less than \
             or equal to 64; it has {length}"
        ))),
        _ => Ok(()),
    }
}

/// The optional description.
fn description(input: &Value) -> Result<Option<&str>, ApiError> {
    let text = input.text("Description");
    if text.is_some_and(|text| text.chars().count() > 1024) {
        return Err(ApiError::invalid("Description must have at most 1,024 characters."));
    }
    Ok(text)
}

fn exceeded(what: &str, most: usize) -> ApiError {
    let message = format!("The resource can't be created: the quota of {most} {what} is reached.");
    ApiError::new("ResourceLimitExceeded", message)
}

fn no_namespace(id: &str) -> ApiError {
    ApiError::new("NamespaceNotFound", format!("Namespace not found: {id}"))
}

fn no_service(id: &str) -> ApiError {
    ApiError::new("ServiceNotFound", format!("Service not found: {id}"))
}
