//! Files of the work folder, and threads that may block on them.

use std::io;
use std::path::Path;

use crate::error::BuildError;

/// Folder of temporary files, below the work folder.
pub(super) const SPOOL: &str = "spool";

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(BuildError::transient("a thread of the build ended early").caused_by(error)))
}

/// A new temporary folder below the work folder. Dropping it removes it with its content.
pub(super) fn temporary_folder(work: &Path) -> Result<tempfile::TempDir, BuildError> {
    let spool = work.join(SPOOL);
    std::fs::create_dir_all(&spool)
        .and_then(|()| tempfile::TempDir::new_in(&spool))
        .map_err(|error| disk_error(&spool, error))
}

/// A fault of codeloc's own disk. codeloc retries.
pub fn disk_error(path: &Path, error: io::Error) -> BuildError {
    BuildError::transient(format!("cannot access {}", path.display())).caused_by(error)
}

/// Writes a file so that readers see either all of it or none of it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(parent)?;
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        io::Write::write_all(&mut file, bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| disk_error(path, error))
}
