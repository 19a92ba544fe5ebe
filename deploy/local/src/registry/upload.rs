//! The upload of one blob. Bytes are written to a file and hashed as they arrive, and are not kept in memory.

use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::error::RegistryError;

/// An upload. Dropping it before the end removes the file.
pub(super) struct Upload {
    pub(super) repository: String,
    pub(super) id: String,
    /// Bytes received.
    pub(super) size: u64,
    path: TempPath,
    file: File,
    sha256: Sha256,
}

impl Upload {
    pub(super) fn new(repository: &str, folder: &Path) -> Result<Self, RegistryError> {
        let (file, path) = tempfile::Builder::new()
            .prefix("")
            .rand_bytes(24)
            .tempfile_in(folder)
            .map_err(RegistryError::storage(folder))?
            .into_parts();
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::from_std(file);
        Ok(Self { repository: repository.to_owned(), id, size: 0, path, file, sha256: Sha256::new() })
    }

    pub(super) async fn append(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.file.write_all(bytes).await.map_err(RegistryError::storage(&self.path))?;
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.sha256.clone().finalize()))
    }

    pub(super) async fn sync(&mut self) -> Result<(), RegistryError> {
        self.file.flush().await.map_err(RegistryError::storage(&self.path))?;
        self.file.sync_all().await.map_err(RegistryError::storage(&self.path))
    }

    pub(super) fn persist(self, target: &Path) -> Result<(), RegistryError> {
        self.path.persist(target).map_err(|error| RegistryError::storage(target)(error.error))
    }
}
