//! Ownership: no tag of ours, no change and no deletion.

use std::collections::BTreeMap;

use codeloc_crds::Location;

use super::deployment::Deployment;

pub type Tags = BTreeMap<String, String>;

/// The deployment's id.
pub const MANAGED_BY: &str = "codeloc:managed-by";
/// The repository's name.
pub const LOCATION: &str = "codeloc:location";
/// On a task definition: the hash of all that reaches it.
pub const REVISION: &str = "codeloc:revision";
/// On a task definition: when it was last rolled out, and over which deployment (see [`super::task_definition::Attempt`]).
pub const ATTEMPT: &str = "codeloc:attempt";
/// On a code server's task definition: the commit that its image was built from.
pub const COMMIT: &str = "codeloc:commit";
/// On a code server's task definition: the commit that served when it was last rolled out.
pub const SERVED_BEFORE: &str = "codeloc:served-before";
/// On a task definition: the `NAME:TAG` that its image's digest was looked up for, or [`NO_IMAGE_TAG`].
pub const IMAGE_TAG: &str = "codeloc:image-tag";
/// Takes an image's tag back: the config names a digest by now.
const NO_IMAGE_TAG: &str = "none";
/// On an ECS service: the revision of which the rollout failed; it is not tried again.
pub const FAILED_REVISION: &str = "codeloc:failed-revision";

/// `true` on every resource of a location that stays when its config is removed.
pub const PROTECT: &str = "codeloc:protect";

/// Keys that carry the controller's memory, and so are never compared with what a config wants.
const MEMORY: [&str; 4] = [REVISION, ATTEMPT, SERVED_BEFORE, FAILED_REVISION];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// Ours, made for this repository.
    Ours(&'a str),
    /// Another deployment's, or nobody's that we know.
    Stranger,
}

pub fn owner<'a>(tags: &'a Tags, deployment: &str) -> Owner<'a> {
    match (tags.get(MANAGED_BY), tags.get(LOCATION)) {
        (Some(managed_by), Some(location)) if managed_by == deployment => Owner::Ours(location),
        _ => Owner::Stranger,
    }
}

/// The tags of every resource of a location: ours, and those its config adds.
pub fn wanted(location: &Location, deployment: &Deployment) -> Tags {
    let mut tags = location.tags.clone();
    tags.insert(MANAGED_BY.to_owned(), deployment.id.clone());
    tags.insert(LOCATION.to_owned(), location.name.to_string());
    if location.protect {
        tags.insert(PROTECT.to_owned(), "true".to_owned());
    }
    tags
}

/// Tags to set so that `live` carries what is wanted. Foreign tags (AWS's own, cost tools') are left alone.
pub fn missing(observed: &Tags, desired: &Tags) -> Tags {
    let mut missing: Tags = desired
        .iter()
        .filter(|(key, value)| !MEMORY.contains(&key.as_str()) && observed.get(*key) != Some(*value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // Taken back by another value: a tag that is removed would need a call of its own for each kind.
    if observed.get(PROTECT).is_some_and(|value| value == "true") && !desired.contains_key(PROTECT) {
        missing.insert(PROTECT.to_owned(), "false".to_owned());
    }
    if observed.get(IMAGE_TAG).is_some_and(|value| value != NO_IMAGE_TAG) && !desired.contains_key(IMAGE_TAG) {
        missing.insert(IMAGE_TAG.to_owned(), NO_IMAGE_TAG.to_owned());
    }
    missing
}

pub fn render(tags: &Tags) -> String {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}
