//! Desired state comes in: a git-backed folder of configs, and the heads of the users' branches.
//!
//! Guarantees: a [`Snapshot`] was read whole from one folder state or one commit; a file that does not parse is
//! invalid, never absent.

use std::collections::BTreeMap;

use codeloc_crds::{Repository, RepositoryName};

/// All configs at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The config repository's commit; absent in mode *dir* outside a git checkout.
    pub commit: Option<String>,
    pub repositories: BTreeMap<RepositoryName, Result<Repository, Invalid>>,
    /// Folders whose very name is not a repository name: reported, never acted upon.
    pub strays: Vec<Invalid>,
}

/// A config that does not pass: the location stays exactly as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Relative to the folder of configs.
    pub path: String,
    /// One line.
    pub message: String,
    /// With file, line, caret and hint; no colour.
    pub rendered: String,
}
