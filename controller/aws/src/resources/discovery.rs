//! Observe: `ListServices` of the namespace, 100 a page, returns the records. The tags take a separate call.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use aws_sdk_servicediscovery::types::{
    DnsConfig, DnsConfigChange, DnsRecord, FilterCondition, HealthCheckCustomConfig, OperationStatus, RecordType,
    RoutingPolicy, ServiceChange, ServiceFilter, ServiceFilterName, Tag,
};
use codeloc_core::ids::Arn;
use codeloc_core::names;
use codeloc_core::resources::discovery::{Change, Desired, Observed};
use codeloc_core::shared::Shared;
use codeloc_core::tags::Tags;
use codeloc_crds::LocationName;

use crate::error::{CallError, Class};
use crate::scope::Scope;
use crate::session::Session;

const ABSENT: &[&str] = &["ServiceNotFound", "InstanceNotFound", "ResourceNotFoundException"];

pub async fn observe(
    session: Session<'_>,
    scope: Scope<'_>,
) -> Result<BTreeMap<LocationName, Shared<Observed>>, CallError> {
    const OPERATION: &str = "servicediscovery:ListServices";
    if let Scope::One(name) = scope
        && let Some(observed) = observe_known(session, name).await?
    {
        return Ok(BTreeMap::from([(name.clone(), observed.into())]));
    }
    let filter = ServiceFilter::builder()
        .name(ServiceFilterName::NamespaceId)
        .condition(FilterCondition::Eq)
        .values(&session.deployment.namespace_id)
        .build()
        .map_err(|_| CallError::malformed(OPERATION, "filter"))?;
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let request =
            session.clients.discovery.list_services().filters(filter.clone()).max_results(100).set_next_token(token);
        let answer = session.call(OPERATION, request.send()).await?;
        for service in answer.services() {
            let name = service.name().unwrap_or_default();
            let Some(location) = names::location_of_service(name) else { continue };
            if !scope.contains(&location) {
                continue;
            }
            let (id, arn) = (service.id().unwrap_or_default().to_owned(), Arn::from(service.arn().unwrap_or_default()));
            session.cache.lock().registries.insert(name.to_owned(), id.clone());
            let tags = session.cache.tags(scope, &arn, tags(session, &arn)).await?;
            let described =
                (service.dns_config(), service.health_check_custom_config().is_some(), service.instance_count());
            let observed = read(id, arn, name, described, tags);
            let observed = session.cache.share(&location, |last| last.discovery.as_ref(), observed);
            found.insert(location, observed);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(found);
        }
    }
}

/// Reads a service whose id is cached with one call. A search by name takes one call for each hundred services.
async fn observe_known(session: Session<'_>, location: &LocationName) -> Result<Option<Observed>, CallError> {
    let name = names::service(location);
    let Some(id) = session.cache.lock().registries.get(&name).cloned() else { return Ok(None) };
    let request = session.clients.discovery.get_service().id(&id);
    let service = match session.call("servicediscovery:GetService", request.send()).await {
        Ok(answer) => answer.service.filter(|service| service.name() == Some(name.as_str())),
        Err(error) if error.is(ABSENT) => None,
        Err(error) => return Err(error),
    };
    let Some(service) = service else {
        session.cache.lock().registries.remove(&name);
        return Ok(None);
    };
    let arn = Arn::from(service.arn().unwrap_or_default());
    let tags = session.cache.tags(Scope::One(location), &arn, tags(session, &arn)).await?;
    let described = (service.dns_config(), service.health_check_custom_config().is_some(), service.instance_count());
    Ok(Some(read(id, arn, &name, described, tags)))
}

fn read(
    id: String,
    arn: Arn,
    name: &str,
    described: (Option<&DnsConfig>, bool, Option<i32>),
    tags: Shared<Tags>,
) -> Observed {
    let (dns, health_check, instances) = described;
    let records = dns.map_or(&[][..], DnsConfig::dns_records);
    Observed {
        id,
        arn,
        name: name.to_owned(),
        records: records.iter().map(|record| (record.r#type().as_str().to_owned(), record.ttl())).collect(),
        multivalue: dns.and_then(DnsConfig::routing_policy).is_none_or(|routing| *routing == RoutingPolicy::Multivalue),
        health_check,
        instances,
        tags,
    }
}

async fn tags(session: Session<'_>, arn: &Arn) -> Result<Tags, CallError> {
    let request = session.clients.discovery.list_tags_for_resource().resource_arn(arn);
    match session.call("servicediscovery:ListTagsForResource", request.send()).await {
        Ok(answer) => Ok(answer.tags().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()),
        Err(error) if error.is(ABSENT) => Ok(Tags::new()),
        Err(error) => Err(error),
    }
}

fn tag_list(tags: &Tags) -> Result<Vec<Tag>, CallError> {
    tags.iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect::<Result<_, _>>()
        .map_err(|_| CallError::malformed("servicediscovery:TagResource", "tag key"))
}

fn record(ttl: i64) -> Result<DnsRecord, CallError> {
    let record = DnsRecord::builder().r#type(RecordType::A).ttl(ttl).build();
    record.map_err(|_| CallError::malformed("servicediscovery:CreateService", "DNS record"))
}

/// Address and port of every registered task. The port is that of the deployment if Cloud Map has none.
pub async fn instances(session: Session<'_>, id: &str) -> Result<Vec<SocketAddr>, CallError> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let request = session.clients.discovery.list_instances().service_id(id).max_results(100).set_next_token(token);
        let answer = match session.call("servicediscovery:ListInstances", request.send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(ABSENT) => return Ok(found),
            Err(error) => return Err(error),
        };
        for instance in answer.instances() {
            let Some(attributes) = instance.attributes() else { continue };
            let address = attributes.get("AWS_INSTANCE_IPV4").and_then(|text| text.parse::<IpAddr>().ok());
            let port = attributes
                .get("AWS_INSTANCE_PORT")
                .and_then(|text| text.parse().ok())
                .unwrap_or(session.deployment.port);
            found.extend(address.map(|address| SocketAddr::new(address, port)));
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            found.sort();
            return Ok(found);
        }
    }
}

/// A creation also sets `observed`, so that later steps of the same plan can refer to it.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Option<Shared<Observed>>,
) -> Result<(), CallError> {
    let discovery = &session.clients.discovery;
    match change {
        Change::Create(desired) => {
            *observed = create(session, desired).await?.map(Shared::from);
            Ok(())
        }
        Change::SetRecord { id, ttl, .. } => {
            let dns = DnsConfigChange::builder().dns_records(record(*ttl)?).build();
            let dns = dns.map_err(|_| CallError::malformed("servicediscovery:UpdateService", "DNS config"))?;
            let service = ServiceChange::builder().dns_config(dns).build();
            session
                .call("servicediscovery:UpdateService", discovery.update_service().id(id).service(service).send())
                .await
                .map(drop)
        }
        Change::Tag { arn, tags, .. } => {
            let _changing = session.cache.changing_tags(arn);
            if !tags.remove.is_empty() {
                let keys = tags.remove.iter().cloned().collect();
                let request = discovery.untag_resource().resource_arn(arn).set_tag_keys(Some(keys));
                session.call("servicediscovery:UntagResource", request.send()).await?;
            }
            if !tags.set.is_empty() {
                let request = discovery.tag_resource().resource_arn(arn).set_tags(Some(tag_list(&tags.set)?));
                session.call("servicediscovery:TagResource", request.send()).await?;
            }
            Ok(())
        }
        Change::Immutable { .. } => Ok(()),
        Change::Delete { id, .. } => delete(session, id).await,
    }
}

async fn create(session: Session<'_>, desired: &Desired) -> Result<Option<Observed>, CallError> {
    const OPERATION: &str = "servicediscovery:CreateService";
    let dns = DnsConfig::builder().routing_policy(RoutingPolicy::Multivalue).dns_records(record(desired.ttl)?).build();
    let dns = dns.map_err(|_| CallError::malformed(OPERATION, "DNS config"))?;
    let request = session
        .clients
        .discovery
        .create_service()
        .name(&desired.name)
        .namespace_id(&desired.namespace_id)
        // The same request after a lost answer creates no second service.
        .creator_request_id(names::creator_request(&session.deployment.id, &desired.name))
        .dns_config(dns)
        // ECS reports the health of each task with it.
        .health_check_custom_config(HealthCheckCustomConfig::builder().build())
        .set_tags(Some(tag_list(&desired.tags)?));
    let answer = match session.call(OPERATION, request.send()).await {
        Ok(answer) => answer,
        // Found by the next observation.
        Err(error) if error.is(&["ServiceAlreadyExists"]) => return Ok(None),
        Err(error) => return Err(error),
    };
    let service = answer.service().ok_or_else(|| CallError::malformed(OPERATION, "service"))?;
    session.cache.keep_tags(service.arn().unwrap_or_default(), &desired.tags);
    session.cache.lock().registries.insert(desired.name.clone(), service.id().unwrap_or_default().to_owned());
    Ok(Some(Observed {
        id: service.id().unwrap_or_default().to_owned(),
        arn: Arn::from(service.arn().unwrap_or_default()),
        name: desired.name.clone(),
        records: vec![("A".to_owned(), desired.ttl)],
        multivalue: true,
        health_check: true,
        instances: None,
        tags: desired.tags.clone().into(),
    }))
}

/// Cloud Map refuses to delete a service with instances (`ResourceInUse`), and deregisters an instance asynchronously. While an
/// instance remains, the error has the class `NotYet` and the next reconciliation continues.
async fn delete(session: Session<'_>, id: &str) -> Result<(), CallError> {
    let discovery = &session.clients.discovery;
    let instances =
        match session.call("servicediscovery:ListInstances", discovery.list_instances().service_id(id).send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(ABSENT) => return Ok(()),
            Err(error) => return Err(error),
        };
    for instance in instances.instances() {
        let request = discovery.deregister_instance().service_id(id).instance_id(instance.id().unwrap_or_default());
        let operation = match session.call("servicediscovery:DeregisterInstance", request.send()).await {
            Ok(answer) => answer.operation_id,
            Err(error) if error.is(ABSENT) => None,
            Err(error) => return Err(error),
        };
        let Some(operation) = operation else { continue };
        let answer = session
            .call("servicediscovery:GetOperation", discovery.get_operation().operation_id(operation).send())
            .await?;
        let status = answer.operation().and_then(|operation| operation.status());
        if matches!(status, Some(OperationStatus::Submitted | OperationStatus::Pending)) {
            return Err(CallError {
                operation: "servicediscovery:DeregisterInstance",
                class: Class::NotYet,
                code: String::new(),
                message: "Cloud Map is still deregistering an instance".to_owned(),
            });
        }
    }
    match session.call("servicediscovery:DeleteService", discovery.delete_service().id(id).send()).await {
        Err(error) if !error.is(ABSENT) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(dns: Option<&DnsConfig>) -> Observed {
        read("srv-1".to_owned(), "arn".into(), "orders-service", (dns, true, Some(2)), Tags::new().into())
    }

    #[test]
    fn a_service_is_read_with_its_records() {
        let dns = DnsConfig::builder().routing_policy(RoutingPolicy::Weighted).dns_records(record(10).unwrap());
        let observed = observed(Some(&dns.build().unwrap()));
        assert_eq!(observed.records, [("A".to_owned(), 10)]);
        assert!(!observed.multivalue);
        assert_eq!(observed.instances, Some(2));
    }

    #[test]
    fn without_a_routing_policy_all_addresses_are_returned() {
        assert!(observed(None).multivalue);
        assert!(observed(None).records.is_empty());
    }
}
