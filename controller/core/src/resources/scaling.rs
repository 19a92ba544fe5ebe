//! Scaling: the scalable target of the service and its two target-tracking policies. While it exists, the desired count of the service
//! belongs to Application Auto Scaling.

use std::collections::BTreeMap;

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Deferred, Description, Effect, Field};
use super::tracked_fields::TrackedField;
use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;
use crate::tags::{self, Tags};

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("capacity", "minimum and maximum", REGISTER),
    TrackedField::new("suspended", "no activity is suspended; absent is the same", REGISTER),
    TrackedField::new("metric", "the metric of each of codeloc's two policies", PUT),
    TrackedField::new("target", "percent, to three decimal places", PUT),
    TrackedField::new("scale_in_cooldown", "300 s; absent is the same", PUT),
    TrackedField::new("scale_out_cooldown", "300 s; absent is the same", PUT),
    TrackedField::new("scale_in", "on; absent is the same", PUT),
    TrackedField::new("foreign_policy", "no other policy", "application-autoscaling:DeleteScalingPolicy"),
    TrackedField::new(
        "foreign_target",
        "no target if minimum and maximum capacity are equal",
        "application-autoscaling:DeregisterScalableTarget",
    ),
];

const REGISTER: &str = "application-autoscaling:RegisterScalableTarget";
const PUT: &str = "application-autoscaling:PutScalingPolicy";

/// The default of Application Auto Scaling for ECS, in seconds.
pub const COOLDOWN: i32 = 300;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
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
    /// Thousandths of a percent, which compare exactly.
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

    /// The fields as the plan prints them, always in this order.
    fn summary(&self) -> [(&'static str, String); 5] {
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
    /// A metric that codeloc never writes.
    Other(String),
}

impl Metric {
    /// The name in Application Auto Scaling.
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
pub struct Observed {
    pub resource_id: String,
    pub min: i32,
    pub max: i32,
    /// Suspended activities.
    pub suspended: Vec<&'static str>,
    pub policies: BTreeMap<String, Policy>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// `fields` lists how an existing target differs.
    Register {
        desired: Desired,
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
        /// Whether codeloc has no policy with that name.
        foreign: bool,
    },
    /// Deletes the policies too.
    Deregister {
        resource_id: String,
        /// Minimum and maximum of a target that the config does not define.
        unwanted: Option<(i32, i32)>,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Option<Desired> {
    let scaling = &location.scaling;
    if scaling.min_capacity == scaling.max_capacity {
        return None;
    }
    let policy = |metric, percent: u32| Policy::new(metric, i64::from(percent) * 1000);
    Some(Desired {
        resource_id: names::scaling_resource(&deployment.cluster, &location.name),
        min: count(scaling.min_capacity),
        max: count(scaling.max_capacity),
        policies: BTreeMap::from([
            ("codeloc-cpu".to_owned(), policy(Metric::Cpu, scaling.cpu_threshold)),
            ("codeloc-memory".to_owned(), policy(Metric::Memory, scaling.memory_threshold)),
        ]),
        tags: tags::desired(location, deployment),
    })
}

/// The AWS API takes task counts as signed integers.
pub fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// `count` is the desired count of the service, if it is active. Application Auto Scaling does not raise a count below the minimum while no
/// task reports a metric; a registration does.
pub fn diff(desired: Option<&Desired>, observed: Option<&Observed>, count: Option<i32>) -> Vec<Change> {
    let (desired, observed) = match (desired, observed) {
        (None, None) => return vec![],
        (None, Some(observed)) => {
            return vec![Change::Deregister {
                resource_id: observed.resource_id.clone(),
                unwanted: Some((observed.min, observed.max)),
            }];
        }
        (Some(desired), observed) => (desired, observed),
    };
    let mut changes = Vec::new();
    let fields = observed.map(|observed| differing(desired, observed, count));
    if fields.as_ref().is_none_or(|fields| !fields.is_empty()) {
        changes.push(Change::Register { desired: desired.clone(), fields });
    }
    // Policies of others would change the count too. AWS accepts one policy for each metric, so codeloc first deletes those and its own ones
    // with another metric.
    for (name, policy) in observed.into_iter().flat_map(|observed| &observed.policies) {
        if desired.policies.get(name).is_none_or(|desired| desired.metric != policy.metric) {
            let foreign = !desired.policies.contains_key(name);
            changes.push(Change::DeletePolicy {
                resource_id: desired.resource_id.clone(),
                name: name.clone(),
                foreign,
            });
        }
    }
    for (name, policy) in &desired.policies {
        let from = observed.and_then(|observed| observed.policies.get(name));
        if from != Some(policy) {
            let (resource_id, name) = (desired.resource_id.clone(), name.clone());
            changes.push(Change::PutPolicy { resource_id, name, policy: policy.clone(), from: from.cloned() });
        }
    }
    changes
}

fn summary((min, max): (i32, i32)) -> String {
    format!("{min}..{max}")
}

fn differing(desired: &Desired, observed: &Observed, count: Option<i32>) -> Vec<Field> {
    let capacity =
        Field::differing("capacity", &summary((observed.min, observed.max)), &summary((desired.min, desired.max)));
    let suspended =
        (!observed.suspended.is_empty()).then(|| Field::changed("suspended", observed.suspended.join(", "), "nothing"));
    let count = count.filter(|count| *count < desired.min);
    let count = count.map(|count| Field::changed("desired_count", count, desired.min));
    capacity.into_iter().chain(suspended).chain(count).collect()
}

pub fn delete(observed: &Observed) -> Change {
    Change::Deregister { resource_id: observed.resource_id.clone(), unwanted: None }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Register { fields: None, .. } | Self::PutPolicy { from: None, .. } => Effect::Creates,
            Self::Register { fields: Some(_), .. }
            | Self::PutPolicy { from: Some(_), .. }
            | Self::DeletePolicy { .. }
            | Self::Deregister { .. } => Effect::Modifies,
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Register { desired, fields: None } => {
                let fields = vec![Field::set("capacity", summary((desired.min, desired.max)))];
                Description::created(&desired.resource_id, fields)
            }
            Self::Register { desired, fields: Some(fields) } => {
                Description::updated(&desired.resource_id, fields.clone(), "differs from the config")
            }
            Self::PutPolicy { name, policy, from: None, .. } => {
                let [(_, metric), (_, target), ..] = policy.summary();
                let target = Field::set("target", format!("{metric} at {target}"));
                Description::created(name, vec![target, Field::set("arn", Deferred::<Arn>::AfterApply)])
            }
            Self::PutPolicy { name, policy, from: Some(from), .. } => {
                let pairs = from.summary().into_iter().zip(policy.summary());
                let fields = pairs.filter_map(|((name, from), (_, to))| Field::differing(name, &from, &to));
                Description::updated(name, fields.collect(), "differs from the config")
            }
            Self::DeletePolicy { name, foreign, .. } => {
                let field = foreign.then(|| Field::changed("foreign_policy", name, "removed"));
                let reason = if *foreign {
                    "codeloc did not write this policy"
                } else {
                    "another policy of codeloc has this metric"
                };
                Description::updated(name, field.into_iter().collect(), reason)
            }
            Self::Deregister { resource_id, unwanted: Some(bounds) } => Description::updated(
                resource_id,
                vec![Field::changed("foreign_target", summary(*bounds), "none")],
                "minimum and maximum capacity are equal, so codeloc sets the task count itself",
            ),
            Self::Deregister { resource_id, unwanted: None } => Description::deleted(resource_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{deployment, location};

    fn observed(desired: &Desired) -> Observed {
        let (resource_id, policies) = (desired.resource_id.clone(), desired.policies.clone());
        Observed { resource_id, min: desired.min, max: desired.max, suspended: vec![], policies }
    }

    fn desired() -> Desired {
        super::desired(&location(512, 3, None), &deployment()).unwrap()
    }

    #[test]
    fn equal_capacities_need_no_scaling() {
        assert_eq!(super::desired(&location(512, 1, None), &deployment()), None);
        let changes = diff(None, Some(&observed(&desired())), None);
        assert!(matches!(&changes[..], [Change::Deregister { unwanted: Some((1, 3)), .. }]), "{changes:?}");
    }

    #[test]
    fn a_suspended_target_is_registered_again() {
        let desired = desired();
        assert_eq!(diff(Some(&desired), Some(&observed(&desired)), None), []);
        let suspended = Observed { suspended: vec!["scaling in"], ..observed(&desired) };
        let changes = diff(Some(&desired), Some(&suspended), None);
        assert!(matches!(&changes[..], [Change::Register { fields: Some(_), .. }]), "{changes:?}");
    }

    #[test]
    fn policies_of_others_are_deleted_before_own_ones_are_put() {
        let desired = desired();
        let mut observed = observed(&desired);
        let own = observed.policies.remove("codeloc-cpu").unwrap();
        observed.policies.insert("by-hand".to_owned(), own);
        let changes = diff(Some(&desired), Some(&observed), None);
        let [Change::DeletePolicy { foreign: true, .. }, Change::PutPolicy { name, .. }] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(name, "codeloc-cpu");
    }
}
