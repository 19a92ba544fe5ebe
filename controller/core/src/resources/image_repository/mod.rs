//! Image repository: the ECR repository a location's images are pushed to.

pub mod garbage;

use codeloc_crds::Location;
use serde::Serialize;

use super::drift::{Found, TrackedField};
use super::{Action, Description, Effect, Field};
use crate::deployment::Deployment;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

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
    /// A tag names one build for ever; what runs is pinned by digest besides.
    pub immutable_tags: bool,
    pub scan_on_push: bool,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: String,
    pub name: String,
    /// Where images are pushed: `HOST/NAME`.
    pub uri: String,
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
        arn: String,
        name: String,
        tags: Tags,
    },
    /// Images that nobody needs.
    DeleteImages {
        name: String,
        digests: Vec<String>,
    },
    /// With the images in it.
    Delete {
        name: String,
    },
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::image_repository(&deployment.id, location.name.as_str()),
        immutable_tags: true,
        scan_on_push: true,
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
    if observed.immutable_tags != desired.immutable_tags {
        changes.push(Change::SetImmutableTags { name: desired.name.clone(), to: desired.immutable_tags });
    }
    if observed.scan_on_push != desired.scan_on_push {
        changes.push(Change::SetScanOnPush { name: desired.name.clone(), to: desired.scan_on_push });
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
                update(name, Field::changed("immutable_tags", !to, to), "was changed by hand")
            }
            Self::SetScanOnPush { name, to } => {
                update(name, Field::changed("scan_on_push", !to, to), "was changed by hand")
            }
            Self::Tag { name, tags, .. } => Description::tagged(name, tags),
            Self::DeleteImages { name, digests } => Description {
                action: Action::Delete,
                name: name.clone(),
                fields: vec![Field::set("images", digests.len())],
                reason: "nothing that is registered names these images".to_owned(),
            },
            Self::Delete { name } => Description::deleted(name),
        }
    }
}
