//! Image repository: the ECR repository a location's images are pushed to.

pub mod garbage;

use codeloc_crds::Repository;
use serde::Serialize;

use super::drift::{Found, Watched};
use super::{Action, Description, Field};
use crate::names;
use crate::place::Place;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub const WATCHED: &[Watched] = &[
    Watched::new(
        "immutable_tags",
        "`IMMUTABLE` for every tag; `IMMUTABLE_WITH_EXCLUSION` is a difference",
        "ecr:PutImageTagMutability",
    ),
    Watched::new("scan_on_push", "absent is off", "ecr:PutImageScanningConfiguration"),
    Watched::tags("ecr:TagResource", Found::InTurns),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub name: String,
    /// A tag names one build for ever; what runs is pinned by digest besides.
    pub immutable_tags: bool,
    pub scan_on_push: bool,
    pub tags: Tags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
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
    Create(Want),
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

pub fn want(repository: &Repository, place: &Place) -> Want {
    Want {
        name: names::image_repository(&place.deployment, repository.name.as_str()),
        immutable_tags: true,
        scan_on_push: true,
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
    if live.immutable_tags != want.immutable_tags {
        changes.push(Change::SetImmutableTags { name: want.name.clone(), to: want.immutable_tags });
    }
    if live.scan_on_push != want.scan_on_push {
        changes.push(Change::SetScanOnPush { name: want.name.clone(), to: want.scan_on_push });
    }
    changes
}

pub fn delete(live: &Live) -> Change {
    Change::Delete { name: live.name.clone() }
}

impl Change {
    pub fn describe(&self) -> Description {
        let update = |name: &str, field: Field, reason: &str| Description::updated(name, vec![field], reason);
        match self {
            Self::Create(want) => Description::created(
                &want.name,
                vec![
                    Field::set("immutable_tags", want.immutable_tags),
                    Field::set("scan_on_push", want.scan_on_push),
                    Field::set("tags", tags::render(&want.tags)),
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
