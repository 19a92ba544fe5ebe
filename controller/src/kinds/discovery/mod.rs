//! Cloud Map service: the DNS name under which Dagster finds a location's tasks.

#[cfg(feature = "aws")]
pub mod aws;

use codeloc_crds::Repository;
use serde::Serialize;

use super::place::Place;
use super::tags::{self, Tags};
use super::{Deferred, Description, Field, names};

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
    /// Seconds; absent where its only record is not an A record.
    pub ttl: Option<i64>,
    /// Tasks that are registered, by Cloud Map's own count.
    pub instances: Option<i32>,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Want),
    SetTtl {
        id: String,
        name: String,
        from: Option<i64>,
        to: i64,
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
    if live.ttl != Some(want.ttl) {
        changes.push(Change::SetTtl { id: live.id.clone(), name: live.name.clone(), from: live.ttl, to: want.ttl });
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
            Self::SetTtl { name, from, to, .. } => Description::updated(
                name,
                vec![Field::changed("ttl", from.map_or_else(|| "none".to_owned(), |ttl| ttl.to_string()), to)],
                "was changed by hand",
            ),
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}
