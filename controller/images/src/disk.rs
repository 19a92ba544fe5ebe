//! Files of the work folder, and threads that may block on them.

use std::path::{Path, PathBuf};

use super::BuildError;

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(BuildError::Transient(format!("a thread of the build ended early: {error}"))))
}

/// A fresh folder below `parent`, removed with everything in it when dropped.
pub(super) fn fresh_folder(parent: &Path) -> Result<tempfile::TempDir, BuildError> {
    std::fs::create_dir_all(parent)
        .and_then(|()| tempfile::TempDir::new_in(parent))
        .map_err(|error| on_disk(parent, &error))
}

/// A fault of the controller's own disk.
pub fn on_disk(path: &Path, error: &std::io::Error) -> BuildError {
    BuildError::Transient(format!("{}: {error}", path.display()))
}

/// Writes a file so that readers see all of it or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let parent: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&parent)?;
        let mut file = tempfile::NamedTempFile::new_in(&parent)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| on_disk(path, &error))
}
