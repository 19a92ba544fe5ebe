//! Tags: codeloc changes and deletes only resources that carry the tags of its deployment. Other tags hold what codeloc must remember.
//!
//! Guarantees: a resource never has more tags than AWS allows because of codeloc: a key that the config no longer has is removed before
//! others are added.

use std::collections::{BTreeMap, BTreeSet};

use codeloc_crds::Location;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

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

/// On the role of a removed location: since when codeloc waits for its runs, in milliseconds since 1970.
pub const REMOVED_AT: &str = "codeloc:removed-at";
/// On the role: the ECS cluster and the Cloud Map namespace of the location. The service and the instances are found only there.
pub const PLACEMENT: &str = "codeloc:placement";
/// On a resource of a location whose config has tags: a mark of each of their keys. codeloc removes a key that has a mark and that the config
/// no longer has. It never removes a key of another owner, which has no mark.
pub const CONFIG_TAGS: &str = "codeloc:config-tags";

/// Keys with which codeloc remembers a state. It never compares them with a config.
const MEMORY: [&str; 5] = [REVISION, ATTEMPT, SERVED_BEFORE, FAILED_REVISION, REMOVED_AT];

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

/// Whether codeloc may change a resource with these tags for a location. With `adopt`, it claims those without an owner.
pub fn may_manage(tags: &Tags, deployment: &str, location: &str, adopt: bool) -> bool {
    (adopt && !tags.contains_key(MANAGED_BY)) || owner(tags, deployment) == Owner::Location(location)
}

/// Whether codeloc may delete a resource with these tags, which were read just now.
pub fn may_delete(tags: &Tags, deployment: &str) -> bool {
    tags.get(MANAGED_BY).is_some_and(|id| id == deployment) && tags.get(PROTECT).is_none_or(|value| value != "true")
}

/// The value of [`PLACEMENT`]. `aws.cluster` can be a name or an ARN.
pub fn placement(deployment: &Deployment) -> String {
    let cluster = deployment.cluster.rsplit('/').next().unwrap_or_default();
    format!("{cluster}/{}", deployment.namespace)
}

/// How the tags of one resource change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TagChange {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
    pub set: Tags,
}

impl TagChange {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Changes `tags` as AWS does: it removes keys before it adds others.
    pub fn apply(&self, tags: &mut Tags) {
        tags.retain(|key, _| !self.remove.contains(key));
        tags.extend(self.set.clone());
    }
}

impl From<Tags> for TagChange {
    fn from(set: Tags) -> Self {
        Self { remove: BTreeSet::new(), set }
    }
}

impl std::fmt::Display for TagChange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let removed = self.remove.iter().map(|key| format!("{key} removed"));
        let set = self.set.iter().map(|(key, value)| format!("{key}={value}"));
        formatter.write_str(&removed.chain(set).collect::<Vec<_>>().join(", "))
    }
}

/// The tags of every resource of a location: those of codeloc and those of the config.
pub fn desired(location: &Location, deployment: &Deployment) -> Tags {
    let mut tags = location.tags.clone();
    if !tags.is_empty() {
        tags.insert(CONFIG_TAGS.to_owned(), location.tags.keys().map(|key| mark(key)).collect());
    }
    tags.insert(MANAGED_BY.to_owned(), deployment.id.clone());
    tags.insert(LOCATION.to_owned(), location.name.to_string());
    if location.protect {
        tags.insert(PROTECT.to_owned(), "true".to_owned());
    }
    tags
}

/// The number of characters of a [`mark`]: those of the most tags that a config may have fit into one value of AWS, 256 characters.
const MARK: usize = 6;

/// A short hash of a key, of characters that every AWS service accepts in the value of a tag.
fn mark(key: &str) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let hash = Sha256::digest(key);
    // A digest has 32 bytes, more than a mark has characters.
    hash.iter().take(MARK).map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()])).collect()
}

/// The keys that codeloc set for an earlier config, and that the current one does not have.
fn outdated<'a>(observed: &'a Tags, desired: &'a Tags) -> impl Iterator<Item = String> + 'a {
    let marks = observed.get(CONFIG_TAGS).map_or("", String::as_str);
    let marks: BTreeSet<&[u8]> = marks.as_bytes().chunks_exact(MARK).collect();
    let of_config = move |key: &str| marks.contains(mark(key).as_bytes()) && !is_reserved(key);
    let gone = observed.keys().filter(|key| !desired.contains_key(*key));
    gone.filter(move |key| of_config(key) || *key == CONFIG_TAGS).cloned()
}

/// Whether no config can have this key.
fn is_reserved(key: &str) -> bool {
    let key = key.to_lowercase();
    key.starts_with("codeloc:") || key.starts_with("aws:")
}

/// The change after which `observed` contains the desired tags, and none of an earlier config. codeloc leaves other tags alone, such as those
/// of AWS and of cost tools.
pub fn missing(observed: &Tags, desired: &Tags) -> TagChange {
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
    TagChange { remove: outdated(observed, desired).collect(), set: missing }
}

pub fn render(tags: &Tags) -> String {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{deployment, location};

    /// AWS allows this number of tags on a resource.
    const LIMIT: usize = 50;

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
        assert_eq!(missing(&observed, &tags([("team", "data"), (REVISION, "new")])), TagChange::default());
        assert_eq!(missing(&observed, &tags([("team", "web")])), tags([("team", "web")]).into());
    }

    #[test]
    fn a_new_value_revokes_protection_and_the_image_tag() {
        let observed = tags([(PROTECT, "true"), (IMAGE_TAG, "r/a:v1")]);
        let revoked = missing(&observed, &Tags::new());
        assert_eq!(revoked, tags([(PROTECT, "false"), (IMAGE_TAG, NO_IMAGE_TAG)]).into());
        assert_eq!(missing(&revoked.set, &Tags::new()), TagChange::default());
    }

    /// The desired tags of a location whose config has these.
    fn configured(config: Tags) -> Tags {
        let mut location = location(512, 1, None);
        location.tags = config;
        desired(&location, &deployment())
    }

    #[test]
    fn a_removed_key_of_the_config_is_removed() {
        let mut observed = configured(tags([("team", "data"), ("cost-center", "7")]));
        observed.extend(tags([("audit", "yes"), ("aws:cloudformation", "stack")]));
        let desired = configured(tags([("team", "data")]));
        let change = missing(&observed, &desired);
        assert_eq!(change.remove, ["cost-center".to_owned()].into());
        assert_eq!(change.set.keys().collect::<Vec<_>>(), [CONFIG_TAGS]);
        change.apply(&mut observed);
        assert_eq!(missing(&observed, &desired), TagChange::default());
        assert_eq!((observed["audit"].as_str(), observed["team"].as_str()), ("yes", "data"));
    }

    #[test]
    fn the_last_key_of_the_config_takes_its_mark_along() {
        let observed = configured(tags([("team", "data")]));
        let change = missing(&observed, &configured(Tags::new()));
        assert_eq!(change.remove, [CONFIG_TAGS, "team"].map(str::to_owned).into());
        assert_eq!(change.set, Tags::new());
    }

    #[test]
    fn a_key_that_another_owner_set_is_never_removed() {
        let observed = tags([("team", "data"), ("cost-center", "7")]);
        assert_eq!(missing(&observed, &configured(Tags::new())).remove, BTreeSet::new());
    }

    #[test]
    fn the_marks_of_the_most_tags_fit_into_one_value() {
        let config: Tags = (0..codeloc_crds::MAX_TAGS).map(|number| (format!("key-{number}"), String::new())).collect();
        let marks = &configured(config)[CONFIG_TAGS];
        assert_eq!(marks.len(), codeloc_crds::MAX_TAGS * MARK);
        assert!(marks.len() <= 256, "{marks}");
        assert!(marks.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit()), "{marks}");
    }

    #[test]
    fn codeloc_and_a_full_config_stay_within_the_limit() {
        // A task definition carries the most: its image comes from a commit, and earlier from a tag.
        let own = [
            MANAGED_BY,
            LOCATION,
            PROTECT,
            REVISION,
            ATTEMPT,
            COMMIT,
            SERVED_BEFORE,
            IMAGE_TAG,
            FAILED_REVISION,
            CONFIG_TAGS,
        ];
        assert!(own.len() + codeloc_crds::MAX_TAGS <= LIMIT, "{}", own.len());
    }

    proptest! {
        #[test]
        fn renamed_keys_never_exceed_the_limit(old in 0..=codeloc_crds::MAX_TAGS, new in 0..=codeloc_crds::MAX_TAGS, kept in 0_usize..10) {
            let config = |prefix: &'static str, number: usize| (0..number).map(move |index| (format!("{prefix}{index}"), "v".to_owned()));
            let before: Tags = config("kept", kept.min(old)).chain(config("old", old - kept.min(old))).collect();
            let after: Tags = config("kept", kept.min(new)).chain(config("new", new - kept.min(new))).collect();
            let mut observed = configured(before);
            observed.extend([REVISION, ATTEMPT, COMMIT, SERVED_BEFORE, IMAGE_TAG].map(|key| (key.to_owned(), "m".to_owned())));
            let desired = configured(after);
            let change = missing(&observed, &desired);
            observed.retain(|key, _| !change.remove.contains(key));
            prop_assert!(observed.len() <= LIMIT);
            observed.extend(change.set);
            prop_assert!(observed.len() <= LIMIT);
            prop_assert!(!observed.keys().any(|key| key.starts_with("old")));
            prop_assert_eq!(missing(&observed, &desired), TagChange::default());
        }
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
