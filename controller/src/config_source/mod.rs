//! Desired state comes in: a git-backed folder of configs, and the heads of the users' branches.
//!
//! Guarantees: a [`Snapshot`] was read whole from one folder state or one commit; a file that does not parse is
//! invalid, never absent; a folder or repository that cannot be read is an error beside the last good snapshot, never
//! an empty one.

use std::collections::{BTreeMap, BTreeSet};

use codeloc_core::desired::Invalid;
use codeloc_crds::{Glimpse, Location, LocationName};
use codeloc_git::GitError;

mod directory;
mod folder;
pub mod inspect;
mod remote;
#[cfg(test)]
mod tests;
mod watch;
pub mod write;

pub use folder::read_folder;
pub use watch::{SourceHandle, SourceSettings, SourceState, read_once, watch};

/// All configs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The config repository's commit; absent in mode *dir* outside a git checkout, or with changes not yet committed.
    pub commit: Option<String>,
    pub locations: BTreeMap<LocationName, Result<Location, Invalid>>,
    /// Folders whose very name is not a repository name: reported, never acted upon.
    pub invalid_dirs: Vec<Invalid>,
    /// Locations that have no config of their own, but that a config which does not pass says it is: they are not deleted.
    pub claimed: BTreeMap<LocationName, Invalid>,
    /// Those of the invalid whose only fault is another config that takes the same prefix: where one runs with it, that one goes on.
    pub contested: BTreeMap<LocationName, Location>,
    /// The names in `prune.txt` beside the configs: locations that may be deleted however many they are.
    pub prune: BTreeSet<String>,
}

impl Snapshot {
    /// Whatever may be acted upon.
    pub fn in_force(&self) -> impl Iterator<Item = &Location> {
        self.locations.values().flatten().chain(self.contested.values())
    }

    /// Everything that a user has to mend.
    pub fn invalid(&self) -> impl Iterator<Item = &Invalid> {
        self.locations.values().filter_map(|one| one.as_ref().err()).chain(&self.invalid_dirs)
    }

    /// Keeps the locations that an invalid config in `folder` says it is: after a folder was renamed and its `name` left, or the
    /// other way round, what runs under the old name is not gone.
    pub fn keep_named(&mut self, folder: &str, file: &str, glimpse: &Glimpse) {
        for name in glimpse.names.iter().filter(|name| name.as_str() != folder) {
            let fault = format!("{file} says `name: {name}` and does not pass, and no other config is for {name}");
            let hint = format!(
                "rename the folder {folder} to {name}, or write another name into the file to have {name} deleted"
            );
            self.claimed.entry(name.clone()).or_insert_with(|| Invalid {
                path: format!("{folder}/config.yml"),
                message: format!("{fault}; {hint}"),
                rendered: format!("error: {fault}\nhint: {hint}\n"),
            });
        }
    }
}

/// Why no new snapshot could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read the folder of configs {path}: {reason}")]
    Folder { path: String, reason: String },
    #[error("cannot fetch the configs: {0}")]
    Git(#[from] GitError),
    #[error("cannot keep the checkout of the configs in {path}: {reason}")]
    Checkout { path: String, reason: String },
}
