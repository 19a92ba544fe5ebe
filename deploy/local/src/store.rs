//! State that survives a restart: one JSON file, replaced as a whole.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::model::Cloud;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} does not hold a localcloud state of this version: {source}; move it away to begin anew")]
    Unreadable { path: PathBuf, source: serde_json::Error },
    #[error("the state cannot be written as JSON: {source}")]
    Unwritable { source: serde_json::Error },
}

/// A folder with `state.json` in it.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Makes the folder if it is not there.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(io("make", folder))?;
        Ok(Self { path: folder.join("state.json") })
    }

    /// `None` when nothing was saved yet.
    pub fn load(&self) -> Result<Option<Cloud>, StoreError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &self.path)(source)),
        };
        let unreadable = |source| StoreError::Unreadable { path: self.path.clone(), source };
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    /// Writes beside and renames, so that a crash leaves the old state or the new one.
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
