//! Scaling: the service's scalable target and its two target-tracking policies. Once it exists, the service's desired
//! count belongs to Application Auto Scaling.

use std::collections::BTreeMap;

use codeloc_crds::Repository;
use serde::Serialize;

use super::drift::Watched;
use super::{Deferred, Description, Field};
use crate::names;
use crate::place::Place;
use crate::tags::{self, Tags};

pub const WATCHED: &[Watched] = &[
    Watched::new("capacity", "minimum and maximum", REGISTER),
    Watched::new("suspended", "nothing is suspended; absent is the same", REGISTER),
    Watched::new("metric", "of each of codeloc's two policies", PUT),
    Watched::new("target", "percent, to a thousandth", PUT),
    Watched::new("scale_in_cooldown", "300 s, as where none is named", PUT),
    Watched::new("scale_out_cooldown", "300 s, as where none is named", PUT),
    Watched::new("scale_in", "on, as where nothing is said", PUT),
    Watched::new("foreign_policy", "no other policy", "application-autoscaling:DeleteScalingPolicy"),
    Watched::new(
        "foreign_target",
        "no target where minimum and maximum of the config are equal",
        "application-autoscaling:DeregisterScalableTarget",
    ),
];

const REGISTER: &str = "application-autoscaling:RegisterScalableTarget";
const PUT: &str = "application-autoscaling:PutScalingPolicy";

/// Seconds that Application Auto Scaling takes for ECS where none are named.
pub const COOLDOWN: i32 = 300;

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
    /// Seconds.
    pub scale_in_cooldown: i32,
    pub scale_out_cooldown: i32,
    pub scale_in: bool,
}

impl Policy {
    pub fn new(metric: Metric, target_milli: i64) -> Self {
        Self { metric, target_milli, scale_in_cooldown: COOLDOWN, scale_out_cooldown: COOLDOWN, scale_in: true }
    }

    /// Its fields as the plan prints them, always in this order.
    fn in_words(&self) -> [(&'static str, String); 5] {
        #[expect(clippy::cast_precision_loss, reason = "a percentage in thousandths is exact in an f64")]
        let target = self.target_milli as f64 / 1000.0;
        [
            ("metric", self.metric.name().to_owned()),
            ("target", format!("{target} %")),
            ("scale_in_cooldown", format!("{} s", self.scale_in_cooldown)),
            ("scale_out_cooldown", format!("{} s", self.scale_out_cooldown)),
            ("scale_in", if self.scale_in { "on" } else { "off" }.to_owned()),
        ]
    }
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
    /// What somebody suspended.
    pub suspended: Vec<&'static str>,
    pub policies: BTreeMap<String, Policy>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// `fields` is how a target that exists differs.
    Register {
        want: Want,
        fields: Option<Vec<Field>>,
    },
    PutPolicy {
        resource_id: String,
        name: String,
        policy: Policy,
        from: Option<Policy>,
    },
    DeletePolicy {
        resource_id: String,
        name: String,
        /// Whether codeloc has no policy of that name.
        foreign: bool,
    },
    /// Takes the policies with it.
    Deregister {
        resource_id: String,
        /// Minimum and maximum of a target that a location has without wanting one.
        unwanted: Option<(i32, i32)>,
    },
}

pub fn want(repository: &Repository, place: &Place) -> Option<Want> {
    let scaling = &repository.scaling;
    if scaling.min_capacity == scaling.max_capacity {
        return None;
    }
    let policy = |metric, percent: u32| Policy::new(metric, i64::from(percent) * 1000);
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
            return vec![Change::Deregister {
                resource_id: live.resource_id.clone(),
                unwanted: Some((live.min, live.max)),
            }];
        }
        (Some(want), live) => (want, live),
    };
    let mut changes = Vec::new();
    let fields = live.map(|live| differing(want, live));
    if fields.as_ref().is_none_or(|fields| !fields.is_empty()) {
        changes.push(Change::Register { want: want.clone(), fields });
    }
    // A policy of another name would pull the count elsewhere. It goes first, and so does one of ours that tracks something else:
    // AWS takes one policy for each metric.
    for (name, policy) in live.into_iter().flat_map(|live| &live.policies) {
        if want.policies.get(name).is_none_or(|want| want.metric != policy.metric) {
            let foreign = !want.policies.contains_key(name);
            changes.push(Change::DeletePolicy { resource_id: want.resource_id.clone(), name: name.clone(), foreign });
        }
    }
    for (name, policy) in &want.policies {
        let from = live.and_then(|live| live.policies.get(name));
        if from != Some(policy) {
            let (resource_id, name) = (want.resource_id.clone(), name.clone());
            changes.push(Change::PutPolicy { resource_id, name, policy: policy.clone(), from: from.cloned() });
        }
    }
    changes
}

fn in_words((min, max): (i32, i32)) -> String {
    format!("{min}..{max}")
}

fn differing(want: &Want, live: &Live) -> Vec<Field> {
    let capacity = Field::differing("capacity", &in_words((live.min, live.max)), &in_words((want.min, want.max)));
    let suspended =
        (!live.suspended.is_empty()).then(|| Field::changed("suspended", live.suspended.join(", "), "nothing"));
    capacity.into_iter().chain(suspended).collect()
}

pub fn delete(live: &Live) -> Change {
    Change::Deregister { resource_id: live.resource_id.clone(), unwanted: None }
}

impl Change {
    pub fn describe(&self) -> Description {
        match self {
            Self::Register { want, fields: None } => {
                let fields = vec![Field::set("capacity", in_words((want.min, want.max)))];
                Description::created(&want.resource_id, fields)
            }
            Self::Register { want, fields: Some(fields) } => {
                Description::updated(&want.resource_id, fields.clone(), "differs from the config")
            }
            Self::PutPolicy { name, policy, from: None, .. } => {
                let [(_, metric), (_, target), ..] = policy.in_words();
                let target = Field::set("target", format!("{metric} at {target}"));
                Description::created(name, vec![target, Field::set("arn", Deferred::AfterApply)])
            }
            Self::PutPolicy { name, policy, from: Some(from), .. } => {
                let pairs = from.in_words().into_iter().zip(policy.in_words());
                let fields = pairs.filter_map(|((name, from), (_, to))| Field::differing(name, &from, &to));
                Description::updated(name, fields.collect(), "differs from the config")
            }
            Self::DeletePolicy { name, foreign, .. } => {
                let field = foreign.then(|| Field::changed("foreign_policy", name, "removed"));
                let reason =
                    if *foreign { "codeloc did not write this policy" } else { "it makes place for its metric" };
                Description::updated(name, field.into_iter().collect(), reason)
            }
            Self::Deregister { resource_id, unwanted: Some(bounds) } => Description::updated(
                resource_id,
                vec![Field::changed("foreign_target", in_words(*bounds), "none")],
                "minimum and maximum capacity are equal",
            ),
            Self::Deregister { resource_id, unwanted: None } => Description::deleted(resource_id),
        }
    }
}
