//! The state on disk: one JSON file, replaced atomically.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::model::Cloud;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not a state of this localcloud version: {source}; move the file away to start with an empty state"
    )]
    Unreadable { path: PathBuf, source: serde_json::Error },
    #[error("cannot write the state as JSON: {source}")]
    Unwritable { source: serde_json::Error },
}

/// A folder with a file `state.json`.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Creates the folder if it does not exist.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        Ok(Self { path: folder.join("state.json") })
    }

    /// The saved cloud, or `None` before the first save.
    pub fn load(&self) -> Result<Option<Cloud>, StoreError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &self.path)(source)),
        };
        let unreadable = |source| StoreError::Unreadable { path: self.path.clone(), source };
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    /// Writes a new file and renames it, so that a crash leaves the old or the new state.
    pub fn save(&self, state: &[u8]) -> Result<(), StoreError> {
        let beside = self.path.with_extension("new");
        let mut file = fs::File::create(&beside).map_err(io("write", &beside))?;
        file.write_all(state).and_then(|()| file.sync_all()).map_err(io("write", &beside))?;
        fs::rename(&beside, &self.path).map_err(io("replace", &self.path))
    }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}
