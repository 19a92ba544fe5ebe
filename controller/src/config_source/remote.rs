//! Reads configs from a git repository, one commit at a time.
//!
//! Guarantees: a snapshot is one complete commit; `current` in the work folder always points to a complete checkout.
//! Assumes: no other process uses the work folder.

use std::io;
use std::path::{Path, PathBuf};

use codeloc_core::ids::Commit;
use codeloc_crds::GitReference;
use codeloc_git::Git;

use super::folder::{Links, read_with};
use super::{Snapshot, SourceError};

/// Names in the work folder: the fetched objects, and a link to the checkout of the last commit.
const OBJECTS: &str = "objects.git";
const CURRENT: &str = "current";

pub(super) struct Remote {
    pub git: Git,
    pub url: String,
    pub reference: GitReference,
    /// Path in the repository.
    pub folder: String,
    pub work: PathBuf,
}

impl Remote {
    pub async fn read(&mut self, last: Option<&Snapshot>) -> Result<Snapshot, SourceError> {
        let commit = self.git.ls_remote(&self.url, &self.reference).await?;
        if let Some(last) = last.filter(|last| last.commit.as_ref() == Some(&commit)) {
            return Ok(last.clone());
        }
        let unusable = |error: io::Error| SourceError::Checkout {
            path: self.work.display().to_string(),
            reason: error.to_string(),
        };
        tokio::fs::create_dir_all(&self.work).await.map_err(unusable)?;
        let work = tokio::fs::canonicalize(&self.work).await.map_err(unusable)?;
        let bare = work.join(OBJECTS);
        self.git.fetch_commit(&bare, &self.url, &commit).await?;
        let checkout = work.join(commit.as_str());
        // Only a complete checkout gets its final name.
        if !tokio::fs::try_exists(&checkout).await.map_err(unusable)? {
            let unfinished = work.join("unfinished");
            remove(&unfinished).await.map_err(unusable)?;
            remove(&unfinished.with_extension("index")).await.map_err(unusable)?;
            self.git.check_out(&bare, &commit, &self.folder, &unfinished).await?;
            tokio::fs::rename(&unfinished, &checkout).await.map_err(unusable)?;
        }
        let root = if self.folder == "." { checkout.clone() } else { checkout.join(&self.folder) };
        let read = tokio::task::spawn_blocking(move || read_with(&root, Links::Refuse)).await;
        let snapshot = read.map_err(|error| unusable(io::Error::other(error)))??;
        switch_current(&work, &commit).await.map_err(unusable)?;
        Ok(Snapshot { commit: Some(commit), ..snapshot })
    }
}

/// Points `current` to the checkout of the commit in one step, then removes the others.
async fn switch_current(work: &Path, commit: &Commit) -> io::Result<()> {
    let next = work.join("next");
    remove(&next).await?;
    tokio::fs::symlink(commit.as_str(), &next).await?;
    tokio::fs::rename(&next, work.join(CURRENT)).await?;
    let mut entries = tokio::fs::read_dir(work).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        if name != CURRENT && name != OBJECTS && name != commit.as_str() {
            remove(&entry.path()).await?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a folder, if it exists.
async fn remove(path: &Path) -> io::Result<()> {
    let removed = match tokio::fs::symlink_metadata(path).await {
        Ok(metadata) if metadata.is_dir() => tokio::fs::remove_dir_all(path).await,
        Ok(_) => tokio::fs::remove_file(path).await,
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
