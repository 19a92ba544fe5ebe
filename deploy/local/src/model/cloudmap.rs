//! Cloud Map: namespaces, services with their instances, and operations.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time::Time;
use crate::protocol::arn::tail;
use crate::protocol::fields::{Fields, Tags};

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct CloudMap {
    pub namespaces: BTreeMap<String, Namespace>,
    pub services: BTreeMap<String, Registry>,
    /// The last id of a service, by namespace and name.
    #[serde(default)]
    pub ids: BTreeMap<String, String>,
    pub operations: BTreeMap<String, Operation>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Namespace {
    pub id: String,
    pub arn: String,
    pub name: String,
    pub description: Option<String>,
    pub created_at: Time,
    pub hosted_zone: String,
    pub tags: Tags,
}

/// A service of Cloud Map.
#[derive(Clone, Serialize, Deserialize)]
pub struct Registry {
    pub id: String,
    pub arn: String,
    pub name: String,
    pub namespace_id: String,
    pub created_at: Time,
    /// Description, `DnsConfig`, `HealthCheckConfig` and `HealthCheckCustomConfig` from the input.
    pub settings: serde_json::Map<String, Value>,
    pub tags: Tags,
    pub instances: BTreeMap<String, Attributes>,
}

pub type Attributes = BTreeMap<String, String>;

impl Registry {
    /// Whether instances need a port: DNS answers with SRV records.
    pub fn has_srv(&self) -> bool {
        let records = self.settings.get("DnsConfig").map_or(&[][..], |dns| dns.items("DnsRecords"));
        records.iter().any(|record| record.text("Type") == Some("SRV"))
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Operation {
    pub kind: String,
    pub targets: BTreeMap<String, String>,
    pub created_at: Time,
    pub done: bool,
    pub change: Change,
}

#[derive(Clone, Serialize, Deserialize)]
pub enum Change {
    CreateNamespace { id: String, name: String, description: Option<String>, tags: Tags },
    UpdateService { id: String, settings: serde_json::Map<String, Value> },
    Register { service: String, instance: String, attributes: Attributes },
    Deregister { service: String, instance: String },
}

impl CloudMap {
    pub fn by_arn(&self, arn: &str) -> Option<&Registry> {
        self.services.get(tail(arn)).filter(|registry| registry.arn == arn)
    }

    /// The addresses that DNS answers for `service.namespace`, in lower case.
    pub fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let full = |service: &Registry| {
            let namespace = self.namespaces.get(&service.namespace_id)?;
            Some(format!("{}.{}", service.name, namespace.name).to_lowercase())
        };
        let named = self.services.values().filter(|service| full(service).as_deref() == Some(name));
        let instances = named.flat_map(|service| service.instances.values());
        instances.filter_map(|attributes| attributes.get("AWS_INSTANCE_IPV4")?.parse().ok()).collect()
    }
}
