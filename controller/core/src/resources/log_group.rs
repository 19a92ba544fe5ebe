//! Log group: the logs of a location's code servers and runs.

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Description, Effect, Field};
use super::tracked_fields::{Found, TrackedField};
use crate::arns;
use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

/// The retention times in days that CloudWatch accepts (`PutRetentionPolicy`).
pub const RETENTION: [i32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new("retention_days", "days for which CloudWatch keeps lines", "logs:PutRetentionPolicy"),
    TrackedField::tags("logs:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    pub retention_days: i32,
    pub tags: Tags,
}

impl Desired {
    pub fn arn(&self, deployment: &Deployment) -> Arn {
        arns::log_group(&self.name, deployment)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Without the `:*` that some answers append.
    pub arn: Arn,
    pub name: String,
    /// Absent: CloudWatch keeps lines forever.
    pub retention_days: Option<i32>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Desired),
    SetRetention { name: String, from: Option<i32>, to: i32 },
    Tag { arn: Arn, name: String, tags: TagChange },
    Delete { arn: Arn, name: String },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::log_group(&deployment.id, &location.name),
        retention_days: deployment.log_retention_days,
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
    // Two calls create a log group and set its retention. After a crash between them, this repairs it.
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
    Change::Delete { arn: observed.arn.clone(), name: observed.name.clone() }
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
                    from.map_or_else(|| "forever".to_owned(), |days| days.to_string()),
                    to,
                )],
                "differs from the settings",
            ),
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{deployment, location};

    #[test]
    fn each_difference_is_one_change() {
        let desired = desired(&location(512, 1, None), &deployment());
        let mut observed = Observed {
            arn: desired.arn(&deployment()),
            name: desired.name.clone(),
            retention_days: Some(desired.retention_days),
            tags: desired.tags.clone().into(),
        };
        assert_eq!(diff(&desired, None), [Change::Create(desired.clone())]);
        assert_eq!(diff(&desired, Some(&observed)), []);
        // A log group without a retention keeps its lines forever.
        observed.retention_days = None;
        observed.tags.clear();
        let changes = diff(&desired, Some(&observed));
        let [Change::Tag { tags, .. }, Change::SetRetention { from: None, to: 30, .. }] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(*tags, desired.tags.into());
    }
}
