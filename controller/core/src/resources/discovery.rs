//! Cloud Map service: the DNS name under which Dagster finds a location's tasks.

use codeloc_crds::Location;
use serde::Serialize;

use super::drift::{Found, TrackedField};
use super::{Deferred, Description, Effect, Field};
use crate::deployment::Deployment;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("record", "one A record", "servicediscovery:UpdateService"),
    TrackedField::new("ttl", "seconds of that record", "servicediscovery:UpdateService"),
    TrackedField::report_only("routing_policy", "`MULTIVALUE`, as where AWS names none", ANEW),
    TrackedField::report_only("health_check", "ECS reports each task's health: a custom health check is there", ANEW),
    TrackedField::tags("servicediscovery:TagResource", Found::InTurns),
];

const ANEW: &str = "delete the ECS service and the Cloud Map service by hand, and both are made anew";

/// Seconds. Short, so that a task that was replaced is forgotten before Dagster asks for it again.
const TTL: i64 = 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    pub namespace_id: String,
    /// Seconds.
    pub ttl: i64,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub id: String,
    pub arn: String,
    pub name: String,
    /// Type and seconds of each record.
    pub records: Vec<(String, i64)>,
    /// Whether all addresses are answered, and not one by weight.
    pub multivalue: bool,
    /// Whether ECS may say which task is healthy.
    pub health_check: bool,
    /// Tasks that are registered, by Cloud Map's own count.
    pub instances: Option<i32>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Desired),
    /// One A record in place of these.
    SetRecord {
        id: String,
        name: String,
        from: Vec<(String, i64)>,
        ttl: i64,
    },
    /// Only told: a Cloud Map service keeps these.
    Immutable {
        name: String,
        fields: Vec<Field>,
    },
    Tag {
        arn: String,
        name: String,
        tags: Tags,
    },
    /// Its instances are deregistered first.
    Delete {
        id: String,
        name: String,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::service(location.name.as_str()),
        namespace_id: deployment.namespace_id.clone(),
        ttl: TTL,
        tags: tags::wanted(location, deployment),
    }
}

pub fn diff(desired: &Desired, observed: Option<&Observed>) -> Vec<Change> {
    let Some(observed) = observed else { return vec![Change::Create(desired.clone())] };
    let mut changes = Vec::new();
    let missing = tags::missing(&observed.tags, &desired.tags);
    if !missing.is_empty() {
        changes.push(Change::Tag { arn: observed.arn.clone(), name: observed.name.clone(), tags: missing });
    }
    if observed.records != [("A".to_owned(), desired.ttl)] {
        let (id, name, from) = (observed.id.clone(), observed.name.clone(), observed.records.clone());
        changes.push(Change::SetRecord { id, name, from, ttl: desired.ttl });
    }
    let routing = |multivalue: bool| if multivalue { "MULTIVALUE" } else { "WEIGHTED" };
    let health = |custom: bool| if custom { "custom" } else { "none" };
    let fields: Vec<Field> = [
        Field::differing("routing_policy", &routing(observed.multivalue), &routing(true)),
        Field::differing("health_check", &health(observed.health_check), &health(true)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !fields.is_empty() {
        changes.push(Change::Immutable { name: observed.name.clone(), fields });
    }
    changes
}

pub fn delete(observed: &Observed) -> Change {
    Change::Delete { id: observed.id.clone(), name: observed.name.clone() }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Create(_) => Effect::Creates,
            Self::SetRecord { .. } | Self::Tag { .. } | Self::Delete { .. } => Effect::Modifies,
            Self::Immutable { .. } => Effect::Reports,
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Create(desired) => Description::created(
                &desired.name,
                vec![
                    Field::set("namespace", &desired.namespace_id),
                    Field::set("record", format!("A, {} s", desired.ttl)),
                    Field::set("id", Deferred::AfterApply),
                    Field::set("tags", tags::render(&desired.tags)),
                ],
            ),
            Self::SetRecord { name, from, ttl, .. } => {
                let field = match from.as_slice() {
                    [(kind, from)] if kind == "A" => Field::changed("ttl", from, ttl),
                    others => {
                        let others: Vec<String> = others.iter().map(|(kind, ttl)| format!("{kind}, {ttl} s")).collect();
                        Field::changed("record", others.join("; "), format!("A, {ttl} s"))
                    }
                };
                Description::updated(name, vec![field], "was changed by hand")
            }
            Self::Immutable { name, fields } => {
                Description::updated(name, fields.clone(), &format!("a Cloud Map service keeps this: {ANEW}"))
            }
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}
