//! Cloud Map service: the DNS name under which Dagster finds a location's tasks.

use codeloc_crds::Repository;
use serde::Serialize;

use super::drift::{Found, Watched};
use super::{Deferred, Description, Field};
use crate::names;
use crate::place::Place;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub const WATCHED: &[Watched] = &[
    Watched::new("record", "one A record", "servicediscovery:UpdateService"),
    Watched::new("ttl", "seconds of that record", "servicediscovery:UpdateService"),
    Watched::told("routing_policy", "`MULTIVALUE`, as where AWS names none", ANEW),
    Watched::told("health_check", "ECS reports each task's health: a custom health check is there", ANEW),
    Watched::tags("servicediscovery:TagResource", Found::InTurns),
];

const ANEW: &str = "delete the ECS service and the Cloud Map service by hand, and both are made anew";

/// Seconds. Short, so that a task that was replaced is forgotten before Dagster asks for it again.
const TTL: i64 = 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub name: String,
    pub namespace_id: String,
    /// Seconds.
    pub ttl: i64,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
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
    Create(Want),
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

pub fn want(repository: &Repository, place: &Place) -> Want {
    Want {
        name: names::service(repository.name.as_str()),
        namespace_id: place.namespace_id.clone(),
        ttl: TTL,
        tags: tags::wanted(repository, place),
    }
}

pub fn diff(want: &Want, live: Option<&Live>) -> Vec<Change> {
    let Some(live) = live else { return vec![Change::Create(want.clone())] };
    let mut changes = Vec::new();
    let missing = tags::missing(&live.tags, &want.tags);
    if !missing.is_empty() {
        changes.push(Change::Tag { arn: live.arn.clone(), name: live.name.clone(), tags: missing });
    }
    if live.records != [("A".to_owned(), want.ttl)] {
        let (id, name, from) = (live.id.clone(), live.name.clone(), live.records.clone());
        changes.push(Change::SetRecord { id, name, from, ttl: want.ttl });
    }
    let routing = |multivalue: bool| if multivalue { "MULTIVALUE" } else { "WEIGHTED" };
    let health = |custom: bool| if custom { "custom" } else { "none" };
    let fields: Vec<Field> = [
        Field::differing("routing_policy", &routing(live.multivalue), &routing(true)),
        Field::differing("health_check", &health(live.health_check), &health(true)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !fields.is_empty() {
        changes.push(Change::Immutable { name: live.name.clone(), fields });
    }
    changes
}

pub fn delete(live: &Live) -> Change {
    Change::Delete { id: live.id.clone(), name: live.name.clone() }
}

impl Change {
    pub fn describe(&self) -> Description {
        match self {
            Self::Create(want) => Description::created(
                &want.name,
                vec![
                    Field::set("namespace", &want.namespace_id),
                    Field::set("record", format!("A, {} s", want.ttl)),
                    Field::set("id", Deferred::AfterApply),
                    Field::set("tags", tags::render(&want.tags)),
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
