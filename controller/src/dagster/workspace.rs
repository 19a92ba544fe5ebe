//! `workspace.yaml`: atomic, sorted, every string quoted, written only on change.

use std::collections::BTreeMap;

/// Where Dagster reaches one location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub host: String,
    pub port: u16,
}

/// All entries by location name.
pub type Entries = BTreeMap<String, Entry>;
