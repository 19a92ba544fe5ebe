//! Log group: where a location's code server writes, kept for a number of days.

use codeloc_crds::Location;
use serde::Serialize;

use super::drift::{Found, TrackedField};
use super::{Description, Effect, Field};
use crate::deployment::Deployment;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

/// Days for which CloudWatch keeps logs (`PutRetentionPolicy`); there are no others.
pub const RETENTION: [i32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("retention_days", "days that its lines are kept", "logs:PutRetentionPolicy"),
    TrackedField::tags("logs:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    pub retention_days: i32,
    pub tags: Tags,
}

impl Desired {
    /// Known before the group exists.
    pub fn arn(&self, deployment: &Deployment) -> String {
        format!(
            "arn:{}:logs:{}:{}:log-group:{}",
            deployment.partition, deployment.region, deployment.account, self.name
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
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
    Create(Desired),
    SetRetention { name: String, from: Option<i32>, to: i32 },
    Tag { arn: String, name: String, tags: Tags },
    Delete { name: String },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::log_group(&deployment.id, location.name.as_str()),
        retention_days: deployment.log_retention_days,
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
    // Creating and setting the retention are two calls: a crash between them is repaired here.
    if observed.retention_days != Some(desired.retention_days) {
        changes.push(Change::SetRetention {
            name: desired.name.clone(),
            from: observed.retention_days,
            to: desired.retention_days,
        });
    }
    changes
}

pub fn delete(observed: &Observed) -> Change {
    Change::Delete { name: observed.name.clone() }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Create(_) => Effect::Creates,
            Self::SetRetention { .. } | Self::Tag { .. } | Self::Delete { .. } => Effect::Modifies,
        }
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::Create(desired) => Description::created(
                &desired.name,
                vec![
                    Field::set("retention_days", desired.retention_days),
                    Field::set("tags", tags::render(&desired.tags)),
                ],
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
