//! Reads the desired state: a folder of configs, on this machine or in a git repository.
//!
//! Guarantees: a [`Snapshot`] is one complete state of the folder or one commit. A file that does not parse is invalid, never absent. If the
//! folder or repository cannot be read, the last good snapshot stays in force, with an error; it is never replaced by an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codeloc_core::desired::Invalid;
use codeloc_core::ids::Commit;
use codeloc_crds::{Glimpse, Location, LocationName};
use codeloc_git::GitError;

mod directory;
mod encoding;
mod folder;
pub mod inspect;
mod remote;
#[cfg(test)]
mod tests;
mod watch;
pub mod write;

pub use folder::read_folder;
pub use watch::{SourceHandle, SourceSettings, SourceState, read_once, watch};

/// All configs at one point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit of the config repository; absent for a folder that is not a clean git checkout.
    pub commit: Option<Commit>,
    pub locations: BTreeMap<LocationName, Result<Arc<Location>, Invalid>>,
    /// Folders whose name is not a valid location name. codeloc only reports them.
    pub invalid_dirs: Vec<Invalid>,
    /// Locations without a config that an invalid config names. codeloc does not delete them.
    pub claimed: BTreeMap<LocationName, Invalid>,
    /// Invalid configs whose only error is an overlapping prefix. The one that already uses the prefix keeps running.
    pub contested: BTreeMap<LocationName, Arc<Location>>,
    /// Names in `prune.txt`: locations that codeloc may delete regardless of their number.
    pub prune: BTreeSet<LocationName>,
}

impl Snapshot {
    /// Configs that codeloc reconciles.
    pub fn in_force(&self) -> impl Iterator<Item = &Location> {
        self.locations.values().flatten().chain(self.contested.values()).map(AsRef::as_ref)
    }

    /// Errors that a user must fix.
    pub fn invalid(&self) -> impl Iterator<Item = &Invalid> {
        self.locations.values().filter_map(|one| one.as_ref().err()).chain(&self.invalid_dirs)
    }

    /// Claims the locations that an invalid config in `folder` names: if a user renames a folder but not its `name`, or the other way round,
    /// codeloc does not delete the running location.
    pub fn claim_named(&mut self, folder: &str, file: &str, glimpse: &Glimpse) {
        for name in glimpse.names.iter().filter(|name| name.as_str() != folder) {
            let fault = format!("{file} has `name: {name}` but is invalid, and {name} has no other config");
            let hint = format!("rename the folder {folder} to {name}; to delete {name}, change the name in the file");
            self.claimed.entry(name.clone()).or_insert_with(|| Invalid {
                path: format!("{folder}/config.yml"),
                message: format!("{fault}; {hint}"),
                rendered: format!("error: {fault}\nhint: {hint}\n"),
            });
        }
    }
}

/// Why codeloc could not read a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read the folder of configs {path}: {reason}")]
    Folder { path: String, reason: String },
    #[error("cannot fetch the configs: {0}")]
    Git(#[from] GitError),
    #[error("cannot check out the configs into {path}: {reason}")]
    Checkout { path: String, reason: String },
}
