//! ECS: clusters, task definitions, services and tasks.

pub mod rollout;
pub mod service;
pub mod task;
pub mod task_definition;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::service::Service;
use self::task::Task;
use self::task_definition::{Definition, Family};
use crate::protocol::arn::tail;
use crate::protocol::fields::Tags;

#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Ecs {
    pub clusters: BTreeMap<String, Cluster>,
    pub families: BTreeMap<String, Family>,
    /// By ARN. Stopped tasks stay for an hour.
    pub tasks: BTreeMap<String, Task>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub arn: String,
    pub settings: Map<String, Value>,
    pub tags: Tags,
    pub services: BTreeMap<String, Service>,
}

impl Ecs {
    /// By ARN or `family:revision`; a family alone means its latest ACTIVE revision.
    pub fn definition(&self, id: &str) -> Option<&Definition> {
        let (family, revision) = self.revision(id)?;
        self.families.get(&family)?.revisions.get(&revision)
    }

    pub fn definition_mut(&mut self, id: &str) -> Option<&mut Definition> {
        let (family, revision) = self.revision(id)?;
        self.families.get_mut(&family)?.revisions.get_mut(&revision)
    }

    fn revision(&self, id: &str) -> Option<(String, u32)> {
        let name = tail(id);
        if let Some((family, revision)) = name.split_once(':') {
            return Some((family.to_owned(), revision.parse().ok()?));
        }
        let revisions = &self.families.get(name)?.revisions;
        let latest = revisions.values().rev().find(|definition| definition.status == "ACTIVE")?;
        Some((name.to_owned(), latest.revision))
    }

    pub fn service_mut(&mut self, cluster: &str, name: &str) -> Option<&mut Service> {
        self.clusters.get_mut(cluster)?.services.get_mut(name)
    }

    /// The addresses of all tasks that are described, in the order in which the tasks started.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let started = self.tasks.values().filter_map(|task| Some((task.times.started?, task.address?)));
        let mut started: Vec<_> = started.collect();
        started.sort_unstable();
        started.into_iter().map(|(_, address)| address).collect()
    }
}
