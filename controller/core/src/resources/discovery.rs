//! Cloud Map service: the DNS name of a location's tasks.

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Deferred, Description, Effect, Field};
use super::tracked_fields::{Found, TrackedField};
use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("record", "one A record", "servicediscovery:UpdateService"),
    TrackedField::new("ttl", "seconds of that record", "servicediscovery:UpdateService"),
    TrackedField::report_only("routing_policy", "`MULTIVALUE`; absent is the same", CREATE_AGAIN),
    TrackedField::report_only(
        "health_check",
        "a custom health check, with which ECS reports the health of each task",
        CREATE_AGAIN,
    ),
    TrackedField::tags("servicediscovery:TagResource", Found::InTurns),
];

const CREATE_AGAIN: &str = "delete the ECS service and the Cloud Map service, and codeloc creates both again";

/// Seconds. Short, so that Dagster does not connect to a stopped task.
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
    pub arn: Arn,
    pub name: String,
    /// Type and seconds of each record.
    pub records: Vec<(String, i64)>,
    /// Whether DNS returns all addresses, not one of them by weight.
    pub multivalue: bool,
    /// Whether ECS can report the health of tasks.
    pub health_check: bool,
    /// The number of registered tasks, as Cloud Map counts them.
    pub instances: Option<i32>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Desired),
    /// Replaces the records with one A record.
    SetRecord {
        id: String,
        name: String,
        from: Vec<(String, i64)>,
        ttl: i64,
    },
    /// Only reported: AWS cannot change these fields.
    Immutable {
        name: String,
        fields: Vec<Field>,
    },
    Tag {
        arn: Arn,
        name: String,
        tags: TagChange,
    },
    /// codeloc deregisters its instances first.
    Delete {
        id: String,
        name: String,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::service(&location.name),
        namespace_id: deployment.namespace_id.clone(),
        ttl: TTL,
        tags: tags::desired(location, deployment),
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
                    Field::set("id", Deferred::<String>::AfterApply),
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
                Description::updated(name, vec![field], "differs from the desired record")
            }
            Self::Immutable { name, fields } => {
                let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
                let reason = format!("AWS cannot change {}: {CREATE_AGAIN}", names.join(" and "));
                Description::updated(name, fields.clone(), &reason)
            }
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{deployment, location};

    fn observed(desired: &Desired) -> Observed {
        Observed {
            id: "srv-1".to_owned(),
            arn: "arn".into(),
            name: desired.name.clone(),
            records: vec![("A".to_owned(), desired.ttl)],
            multivalue: true,
            health_check: true,
            instances: None,
            tags: desired.tags.clone().into(),
        }
    }

    #[test]
    fn another_record_is_replaced() {
        let desired = desired(&location(512, 1, None), &deployment());
        assert_eq!(diff(&desired, Some(&observed(&desired))), []);
        let records = vec![("A".to_owned(), 10), ("AAAA".to_owned(), 10)];
        let changes = diff(&desired, Some(&Observed { records, ..observed(&desired) }));
        assert!(matches!(&changes[..], [Change::SetRecord { ttl: 10, .. }]), "{changes:?}");
        assert_eq!(changes[0].describe().fields, [Field::changed("record", "A, 10 s; AAAA, 10 s", "A, 10 s")]);
    }

    #[test]
    fn a_field_that_aws_cannot_change_is_only_reported() {
        let desired = desired(&location(512, 1, None), &deployment());
        let changes = diff(&desired, Some(&Observed { health_check: false, ..observed(&desired) }));
        assert!(matches!(&changes[..], [Change::Immutable { .. }]), "{changes:?}");
        assert_eq!(changes[0].effect(), Effect::Reports);
    }
}
