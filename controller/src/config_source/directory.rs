//! Reads configs from a folder on this machine.
//!
//! Guarantees: a snapshot is published after two equal readings, so that a file that an editor is writing or replacing is read again
//! first. Events only wake a full reading; if events are lost, the interval wakes it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use codeloc_git::Git;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::folder::{Links, read_with};
use super::{Snapshot, SourceError};

/// Time between two readings that must be equal.
const SETTLE: Duration = Duration::from_millis(100);

/// The same if a config is gone: editors and `git pull` remove a file before they write the new one, and codeloc deletes locations
/// without a config.
const SETTLE_AFTER_REMOVAL: Duration = Duration::from_secs(1);

/// After this many readings, a folder that keeps changing is published; the next reading corrects it.
const READINGS: usize = 10;

pub(super) struct Directory {
    root: PathBuf,
    git: Git,
    wake: Arc<Notify>,
    watched: Option<Watched>,
}

struct Watched {
    /// Device and inode, which differ if the root was replaced by another folder of the same name.
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl Directory {
    pub fn new(root: PathBuf, git: Git, wake: Arc<Notify>) -> Self {
        Self { root, git, wake, watched: None }
    }

    pub async fn read(&mut self, last: Option<&Snapshot>) -> Result<Snapshot, SourceError> {
        self.watch();
        let mut snapshot = self.read_files().await?;
        if last.is_none_or(|last| !same_configs(last, &snapshot)) {
            for _ in 0..READINGS {
                let removed =
                    last.is_some_and(|last| last.locations.keys().any(|name| !snapshot.locations.contains_key(name)));
                tokio::time::sleep(if removed { SETTLE_AFTER_REMOVAL } else { SETTLE }).await;
                let again = self.read_files().await?;
                if same_configs(&again, &snapshot) {
                    break;
                }
                snapshot = again;
            }
        }
        snapshot.commit = self.git.commit_of(&self.root).await;
        Ok(snapshot)
    }

    async fn read_files(&self) -> Result<Snapshot, SourceError> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || read_with(&root, Links::Follow)).await.unwrap_or_else(|error| {
            Err(SourceError::Folder { path: self.root.display().to_string(), reason: error.to_string() })
        })
    }

    fn watch(&mut self) {
        let Ok(metadata) = std::fs::metadata(&self.root) else {
            self.watched = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.watched.as_ref().is_some_and(|watched| watched.identity == identity) {
            return;
        }
        self.watched = match start_watcher(&self.root, Arc::clone(&self.wake)) {
            Ok(watcher) => Some(Watched { identity, _watcher: watcher }),
            Err(error) => {
                tracing::warn!(root = %self.root.display(), %error, "cannot watch the folder of configs; codeloc reads it at each interval");
                None
            }
        };
    }
}

fn same_configs(left: &Snapshot, right: &Snapshot) -> bool {
    left.locations == right.locations
        && left.invalid_dirs == right.invalid_dirs
        && left.claimed == right.claimed
        && left.contested == right.contested
        && left.prune == right.prune
}

fn start_watcher(root: &Path, wake: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that events were lost.
        if event.as_ref().is_ok_and(is_noise) {
            return;
        }
        wake.notify_one();
    })?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Events of codeloc's own reads, and of `.git` if the root is a checkout.
fn is_noise(event: &Event) -> bool {
    let is_read = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    let in_git = |path: &PathBuf| path.components().any(|part| part.as_os_str() == ".git");
    is_read || (!event.paths.is_empty() && event.paths.iter().all(in_git))
}
