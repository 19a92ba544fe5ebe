//! Image repository: the ECR repository for a location's images.

pub mod garbage;

use codeloc_crds::Location;
use serde::Serialize;

use super::change::{Action, Description, Effect, Field};
use super::tracked_fields::{Found, TrackedField};
use crate::deployment::Deployment;
use crate::ids::{Arn, Digest};
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::new(
        "immutable_tags",
        "`IMMUTABLE` for every tag; `IMMUTABLE_WITH_EXCLUSION` is a difference",
        "ecr:PutImageTagMutability",
    ),
    TrackedField::new("scan_on_push", "absent is off", "ecr:PutImageScanningConfiguration"),
    TrackedField::tags("ecr:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    /// A tag always names the same build. Task definitions name images by digest.
    pub immutable_tags: bool,
    pub scan_on_push: bool,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: Arn,
    pub name: String,
    /// The push target: `HOST/NAME`.
    pub uri: String,
    /// Milliseconds since 1970. A repository with another time is a new one: the images of the former one are gone.
    pub created_ms: Option<i64>,
    pub immutable_tags: bool,
    pub scan_on_push: bool,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Desired),
    SetImmutableTags {
        name: String,
        to: bool,
    },
    SetScanOnPush {
        name: String,
        to: bool,
    },
    Tag {
        arn: Arn,
        name: String,
        tags: TagChange,
    },
    /// Deletes images that no definition names.
    DeleteImages {
        name: String,
        digests: Vec<Digest>,
    },
    /// Deletes the repository with its images.
    Delete {
        arn: Arn,
        name: String,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::image_repository(&deployment.id, &location.name),
        immutable_tags: true,
        scan_on_push: true,
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
    if observed.immutable_tags != desired.immutable_tags {
        changes.push(Change::SetImmutableTags { name: desired.name.clone(), to: desired.immutable_tags });
    }
    if observed.scan_on_push != desired.scan_on_push {
        changes.push(Change::SetScanOnPush { name: desired.name.clone(), to: desired.scan_on_push });
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
            Self::SetImmutableTags { .. }
            | Self::SetScanOnPush { .. }
            | Self::Tag { .. }
            | Self::DeleteImages { .. }
            | Self::Delete { .. } => Effect::Modifies,
        }
    }

    pub fn describe(&self) -> Description {
        let update = |name: &str, field: Field, reason: &str| Description::updated(name, vec![field], reason);
        match self {
            Self::Create(desired) => Description::created(
                &desired.name,
                vec![
                    Field::set("immutable_tags", desired.immutable_tags),
                    Field::set("scan_on_push", desired.scan_on_push),
                    Field::set("tags", tags::render(&desired.tags)),
                ],
            ),
            Self::SetImmutableTags { name, to } => {
                update(name, Field::changed("immutable_tags", !to, to), "differs from the desired setting")
            }
            Self::SetScanOnPush { name, to } => {
                update(name, Field::changed("scan_on_push", !to, to), "differs from the desired setting")
            }
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::DeleteImages { name, digests } => Description {
                action: Action::Delete,
                name: name.clone(),
                fields: vec![Field::set("images", digests.len())],
                reason: "no registered task definition uses these images".to_owned(),
            },
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
        let observed = Observed {
            arn: "arn".into(),
            name: desired.name.clone(),
            uri: "registry/codeloc/orders".to_owned(),
            created_ms: Some(1),
            immutable_tags: true,
            scan_on_push: true,
            tags: desired.tags.clone().into(),
        };
        assert_eq!(diff(&desired, Some(&observed)), []);
        let mutable = Observed { immutable_tags: false, scan_on_push: false, ..observed };
        let changes = diff(&desired, Some(&mutable));
        let [Change::SetImmutableTags { to: true, .. }, Change::SetScanOnPush { to: true, .. }] = &changes[..] else {
            panic!("{changes:?}");
        };
    }
}
