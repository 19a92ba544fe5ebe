//! Scaling: the service's scalable target and its two target-tracking policies. Once it exists, the service's desired
//! count belongs to Application Auto Scaling.

#[cfg(feature = "aws")]
pub mod aws;

use std::collections::BTreeMap;

use codeloc_crds::Repository;
use serde::Serialize;

use super::place::Place;
use super::tags::{self, Tags};
use super::{Action, Deferred, Description, Field, names};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    /// `service/CLUSTER/SERVICE`
    pub resource_id: String,
    pub min: i32,
    pub max: i32,
    pub policies: BTreeMap<String, Policy>,
    pub tags: Tags,
}

/// A target-tracking policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub metric: Metric,
    /// Percent, in thousandths, so that it compares exactly.
    pub target_milli: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Cpu,
    Memory,
    /// Nothing we would write.
    Other(String),
}

impl Metric {
    /// Application Auto Scaling's name of it.
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu => "ECSServiceAverageCPUUtilization",
            Self::Memory => "ECSServiceAverageMemoryUtilization",
            Self::Other(name) => name,
        }
    }

    pub fn from_name(name: &str) -> Self {
        match name {
            "ECSServiceAverageCPUUtilization" => Self::Cpu,
            "ECSServiceAverageMemoryUtilization" => Self::Memory,
            other => Self::Other(other.to_owned()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    pub resource_id: String,
    pub min: i32,
    pub max: i32,
    pub policies: BTreeMap<String, Policy>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Register { want: Want, from: Option<(i32, i32)> },
    PutPolicy { resource_id: String, name: String, policy: Policy, from: Option<Policy> },
    DeletePolicy { resource_id: String, name: String },
    /// Takes the policies with it.
    Deregister { resource_id: String, reason: &'static str },
}

pub fn want(repository: &Repository, place: &Place) -> Option<Want> {
    let scaling = &repository.scaling;
    if scaling.min_capacity == scaling.max_capacity {
        return None;
    }
    let policy = |metric, percent: u32| Policy { metric, target_milli: i64::from(percent) * 1000 };
    Some(Want {
        resource_id: names::scaling_resource(&place.cluster, repository.name.as_str()),
        min: count(scaling.min_capacity),
        max: count(scaling.max_capacity),
        policies: BTreeMap::from([
            ("codeloc-cpu".to_owned(), policy(Metric::Cpu, scaling.cpu_threshold)),
            ("codeloc-memory".to_owned(), policy(Metric::Memory, scaling.memory_threshold)),
        ]),
        tags: tags::wanted(repository, place),
    })
}

/// Task counts reach AWS as signed integers.
pub fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub fn diff(want: Option<&Want>, live: Option<&Live>) -> Vec<Change> {
    let (want, live) = match (want, live) {
        (None, None) => return vec![],
        (None, Some(live)) => {
            return vec![Change::Deregister { resource_id: live.resource_id.clone(), reason: "minimum and maximum capacity are equal" }];
        }
        (Some(want), live) => (want, live),
    };
    let mut changes = Vec::new();
    let bounds = live.map(|live| (live.min, live.max));
    if bounds != Some((want.min, want.max)) {
        changes.push(Change::Register { want: want.clone(), from: bounds });
    }
    for (name, policy) in &want.policies {
        let from = live.and_then(|live| live.policies.get(name));
        if from != Some(policy) {
            let (resource_id, name) = (want.resource_id.clone(), name.clone());
            changes.push(Change::PutPolicy { resource_id, name, policy: policy.clone(), from: from.cloned() });
        }
    }
    // A policy of another name would pull the count elsewhere.
    for name in live.into_iter().flat_map(|live| live.policies.keys()).filter(|name| !want.policies.contains_key(*name)) {
        changes.push(Change::DeletePolicy { resource_id: want.resource_id.clone(), name: name.clone() });
    }
    changes
}

pub fn delete(live: &Live) -> Change {
    Change::Deregister { resource_id: live.resource_id.clone(), reason: "the repository's config is gone" }
}

impl Change {
    pub fn describe(&self) -> Description {
        let percent = |policy: &Policy| format!("{} at {} %", policy.metric.name(), policy.target_milli / 1000);
        match self {
            Self::Register { want, from } => {
                let bounds = |(min, max): (i32, i32)| format!("{min}..{max}");
                let to = bounds((want.min, want.max));
                Description {
                    action: if from.is_some() { Action::Update } else { Action::Create },
                    name: want.resource_id.clone(),
                    fields: vec![from.map_or_else(|| Field::set("capacity", &to), |from| Field::changed("capacity", bounds(from), &to))],
                    reason: if from.is_some() { "differs from the config" } else { "does not exist" }.to_owned(),
                }
            }
            Self::PutPolicy { name, policy, from, .. } => Description {
                action: if from.is_some() { Action::Update } else { Action::Create },
                name: name.clone(),
                fields: vec![
                    from.as_ref().map_or_else(
                        || Field::set("target", percent(policy)),
                        |from| Field::changed("target", percent(from), percent(policy)),
                    ),
                    Field::set("arn", Deferred::AfterApply),
                ],
                reason: if from.is_some() { "differs from the config" } else { "does not exist" }.to_owned(),
            },
            Self::DeletePolicy { name, .. } => Description {
                action: Action::Delete,
                name: name.clone(),
                fields: vec![],
                reason: "codeloc did not write this policy".to_owned(),
            },
            Self::Deregister { resource_id, reason } => Description {
                action: Action::Delete,
                name: resource_id.clone(),
                fields: vec![],
                reason: (*reason).to_owned(),
            },
        }
    }
}
