//! Log group: where a location's code server writes, kept for a number of days.

use codeloc_crds::Repository;
use serde::Serialize;

use super::drift::{Found, Watched};
use super::{Description, Field};
use crate::names;
use crate::place::Place;
use crate::shared::Shared;
use crate::tags::{self, Tags};

/// Days for which CloudWatch keeps logs (`PutRetentionPolicy`); there are no others.
pub const RETENTION: [i32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

pub const WATCHED: &[Watched] = &[
    Watched::new("retention_days", "days that its lines are kept", "logs:PutRetentionPolicy"),
    Watched::tags("logs:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub name: String,
    pub retention_days: i32,
    pub tags: Tags,
}

impl Want {
    /// Known before the group exists.
    pub fn arn(&self, place: &Place) -> String {
        format!("arn:{}:logs:{}:{}:log-group:{}", place.partition, place.region, place.account, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Without the `:*` that some answers append.
    pub arn: String,
    pub name: String,
    /// Absent: kept for ever.
    pub retention_days: Option<i32>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Want),
    SetRetention { name: String, from: Option<i32>, to: i32 },
    Tag { arn: String, name: String, tags: Tags },
    Delete { name: String },
}

pub fn want(repository: &Repository, place: &Place) -> Want {
    Want {
        name: names::log_group(&place.deployment, repository.name.as_str()),
        retention_days: place.log_retention_days,
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
    // Creating and setting the retention are two calls: a crash between them is repaired here.
    if live.retention_days != Some(want.retention_days) {
        changes.push(Change::SetRetention {
            name: want.name.clone(),
            from: live.retention_days,
            to: want.retention_days,
        });
    }
    changes
}

pub fn delete(live: &Live) -> Change {
    Change::Delete { name: live.name.clone() }
}

impl Change {
    pub fn describe(&self) -> Description {
        match self {
            Self::Create(want) => Description::created(
                &want.name,
                vec![Field::set("retention_days", want.retention_days), Field::set("tags", tags::render(&want.tags))],
            ),
            Self::SetRetention { name, from, to } => Description::updated(
                name,
                vec![Field::changed(
                    "retention_days",
                    from.map_or_else(|| "for ever".to_owned(), |days| days.to_string()),
                    to,
                )],
                "differs from the settings",
            ),
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name } => Description::deleted(name),
        }
    }
}
