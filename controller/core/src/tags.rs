//! Tags: codeloc changes and deletes only resources that carry the tags of its deployment. Other tags hold what codeloc must remember.

use std::collections::BTreeMap;

use codeloc_crds::Location;

use crate::deployment::Deployment;

pub type Tags = BTreeMap<String, String>;

/// The deployment's id.
pub const MANAGED_BY: &str = "codeloc:managed-by";
/// The location's name.
pub const LOCATION: &str = "codeloc:location";
/// On a task definition: the hash of its content.
pub const REVISION: &str = "codeloc:revision";
/// On a task definition: when its last rollout started, and which deployment it was to replace (see
/// [`crate::resources::task_spec::Attempt`]).
pub const ATTEMPT: &str = "codeloc:attempt";
/// On a code server's task definition: the commit of its image.
pub const COMMIT: &str = "codeloc:commit";
/// On a code server's task definition: the commit that served when its last rollout started.
pub const SERVED_BEFORE: &str = "codeloc:served-before";
/// On a task definition: the `NAME:TAG` that codeloc resolved to its image, or [`NO_IMAGE_TAG`].
pub const IMAGE_TAG: &str = "codeloc:image-tag";
/// Revokes the tag of an image: the config names a digest now.
const NO_IMAGE_TAG: &str = "none";
/// On an ECS service: the revision whose rollout failed. codeloc does not retry it.
pub const FAILED_REVISION: &str = "codeloc:failed-revision";

/// `true` on every resource of a location that codeloc keeps after its config is removed.
pub const PROTECT: &str = "codeloc:protect";

/// Keys with which codeloc remembers a state. It never compares them with a config.
const MEMORY: [&str; 4] = [REVISION, ATTEMPT, SERVED_BEFORE, FAILED_REVISION];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A location of this deployment.
    Location(&'a str),
    /// Another deployment, or an unknown owner.
    Other,
}

pub fn owner<'a>(tags: &'a Tags, deployment: &str) -> Owner<'a> {
    match (tags.get(MANAGED_BY), tags.get(LOCATION)) {
        (Some(managed_by), Some(location)) if managed_by == deployment => Owner::Location(location),
        _ => Owner::Other,
    }
}

/// The tags of every resource of a location: those of codeloc and those of the config.
pub fn desired(location: &Location, deployment: &Deployment) -> Tags {
    let mut tags = location.tags.clone();
    tags.insert(MANAGED_BY.to_owned(), deployment.id.clone());
    tags.insert(LOCATION.to_owned(), location.name.to_string());
    if location.protect {
        tags.insert(PROTECT.to_owned(), "true".to_owned());
    }
    tags
}

/// The tags to set so that `observed` contains the desired ones. codeloc leaves other tags alone, such as those of AWS and of cost tools.
pub fn missing(observed: &Tags, desired: &Tags) -> Tags {
    let mut missing: Tags = desired
        .iter()
        .filter(|(key, value)| !MEMORY.contains(&key.as_str()) && observed.get(*key) != Some(*value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // A new value revokes the tag: to remove it, codeloc would need another call for each kind.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{deployment, location};

    fn tags<const N: usize>(pairs: [(&str, &str); N]) -> Tags {
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn a_resource_without_both_tags_has_another_owner() {
        let own = desired(&location(512, 1, None), &deployment());
        assert_eq!(owner(&own, "codeloc"), Owner::Location("orders"));
        assert_eq!(owner(&own, "other"), Owner::Other);
        assert_eq!(owner(&tags([(MANAGED_BY, "codeloc")]), "codeloc"), Owner::Other);
    }

    #[test]
    fn tags_of_others_and_of_codeloc_memory_are_not_compared() {
        let observed = tags([("team", "data"), ("cost", "7")]);
        assert_eq!(missing(&observed, &tags([("team", "data"), (REVISION, "new")])), Tags::new());
        assert_eq!(missing(&observed, &tags([("team", "web")])), tags([("team", "web")]));
    }

    #[test]
    fn a_new_value_revokes_protection_and_the_image_tag() {
        let observed = tags([(PROTECT, "true"), (IMAGE_TAG, "r/a:v1")]);
        let revoked = missing(&observed, &Tags::new());
        assert_eq!(revoked, tags([(PROTECT, "false"), (IMAGE_TAG, NO_IMAGE_TAG)]));
        assert_eq!(missing(&revoked, &Tags::new()), Tags::new());
    }

    #[test]
    fn a_config_cannot_claim_another_owner() {
        let mut location = location(512, 1, None);
        location.tags = tags([(MANAGED_BY, "other")]);
        location.protect = true;
        let desired = desired(&location, &deployment());
        assert_eq!((desired[MANAGED_BY].as_str(), desired[PROTECT].as_str()), ("codeloc", "true"));
    }
}
