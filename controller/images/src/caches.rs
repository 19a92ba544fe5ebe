//! Bounds the disk space of the caches in the work folder: the least recently used entries are removed first.
//!
//! Guarantees: nothing is removed while a build of this process runs, since a build may read any entry. Builds can
//! recreate every entry, so a removal only makes them slower.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{RwLock, RwLockReadGuard};

use crate::disk::{blocking, disk_error, temporary_folder};
use crate::error::BuildError;

/// Bare git repositories, one folder per URL.
pub(super) const GIT: &str = "git";
/// Packed dependency layers, two files per lock.
pub(super) const LAYERS: &str = "layers";
/// The archives of isolated builds.
pub(super) const ISOLATED: &str = "isolated";
/// uv's own cache. Only uv knows its structure, so it is one entry.
pub(super) const UV: &str = "uv";

/// The unit of `st_blocks`, independent of the file system.
const BLOCK: u64 = 512;

/// A file or folder that is removed as a whole.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

pub(super) struct Caches {
    folders: Arc<Folders>,
    running_builds: Arc<RwLock<()>>,
}

impl Caches {
    pub(super) fn new(work: PathBuf, limit: u64) -> Self {
        Self { folders: Arc::new(Folders { work, limit }), running_builds: Arc::default() }
    }

    /// A build holds the guard while it runs. If the caches are over their limit, this first waits for the other builds
    /// and removes entries.
    pub(super) async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, BuildError> {
        let folders = self.folders.clone();
        if blocking(move || Ok(folders.are_full())).await? {
            let (folders, exclusive) = (self.folders.clone(), self.running_builds.clone().write_owned().await);
            let evict = move || {
                // The thread holds the lock to its end, even if the waiting build is dropped.
                let _exclusive = exclusive;
                Ok(folders.evict())
            };
            let removed = blocking(evict).await?.len();
            tracing::info!(
                removed,
                "the build caches were over their limit; codeloc removed the least recently used entries"
            );
        }
        Ok(self.running_builds.read().await)
    }
}

struct Folders {
    work: PathBuf,
    /// Bytes on disk of all entries together.
    limit: u64,
}

impl Folders {
    fn are_full(&self) -> bool {
        self.entries().iter().map(|entry| entry.bytes).sum::<u64>() > self.limit
    }

    /// If the entries exceed the limit, removes some until the rest takes three quarters of it, so that not every build
    /// removes some. Returns the removed paths. An entry that cannot be removed stays until the next call.
    fn evict(&self) -> Vec<PathBuf> {
        let mut removed = self.remove_leftovers();
        let mut entries = self.entries();
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if bytes <= self.limit {
            return removed;
        }
        entries.sort_by_key(|entry| entry.used);
        for Entry { path, bytes: freed, .. } in entries {
            if bytes <= self.limit / 4 * 3 {
                break;
            }
            match self.remove(&path) {
                Ok(()) => {
                    bytes -= freed;
                    removed.push(path);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove an entry of the build caches");
                }
            }
        }
        removed
    }

    /// Moves the entry away first: if the process ends in the middle, no build must find half an entry. Each start cleans
    /// the spool folder.
    fn remove(&self, path: &Path) -> Result<(), BuildError> {
        let folder = temporary_folder(&self.work)?;
        let moved = std::fs::rename(path, folder.path().join("removed"));
        moved.and_then(|()| folder.close()).map_err(|error| disk_error(path, error))
    }

    /// Removes what a uv that was killed has left: wheels that it was unpacking.
    fn remove_leftovers(&self) -> Vec<PathBuf> {
        let is_leftover =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"));
        let removed = |path: &PathBuf| {
            self.remove(path).map_err(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot remove what uv has left in its cache");
            })
        };
        let leftovers = children(&self.work.join(UV)).into_iter().filter(is_leftover);
        leftovers.filter(|path| removed(path).is_ok()).collect()
    }

    fn entries(&self) -> Vec<Entry> {
        let parts = [GIT, LAYERS, ISOLATED].into_iter().flat_map(|part| children(&self.work.join(part)));
        parts.chain([self.work.join(UV)]).filter_map(|path| entry(path).ok()).collect()
    }
}

fn entry(path: PathBuf) -> io::Result<Entry> {
    let metadata = std::fs::symlink_metadata(&path)?;
    Ok(Entry { bytes: bytes_of(&path, &metadata), used: metadata.modified()?, path })
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Includes the content of a folder. Uses the length if it is larger, because some file systems allocate blocks later. A
/// file that disappears meanwhile counts nothing.
fn bytes_of(path: &Path, metadata: &Metadata) -> u64 {
    let inside = if metadata.is_dir() { children(path) } else { vec![] };
    let inside = inside.iter().filter_map(|path| Some(bytes_of(path, &std::fs::symlink_metadata(path).ok()?)));
    (metadata.blocks() * BLOCK).max(metadata.len()) + inside.sum::<u64>()
}

/// Marks an entry as used now, if it exists.
pub(super) fn mark_used(path: &Path) {
    // Modification times are compared with each other only.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A work folder with entries of 64 KiB each, used in this order.
    fn work_folder(caches: &[&str]) -> tempfile::TempDir {
        let work = tempfile::tempdir().unwrap();
        for (second, cache) in (1..).zip(caches) {
            let path = work.path().join(cache);
            let file = if cache.starts_with(LAYERS) { path.clone() } else { path.join("objects/pack") };
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, vec![1; 64 << 10]).unwrap();
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
            File::open(&path).unwrap().set_modified(used).unwrap();
        }
        work
    }

    fn remaining(caches: &[&str], limit_kib: u64) -> Vec<String> {
        let work = work_folder(caches);
        let folders = Folders { work: work.path().to_owned(), limit: limit_kib << 10 };
        let full = folders.are_full();
        let removed = folders.evict();
        assert_eq!(full, !removed.is_empty());
        assert!(!folders.are_full());
        caches.iter().filter(|cache| work.path().join(cache).exists()).map(|cache| (*cache).to_owned()).collect()
    }

    #[test]
    fn the_least_recently_used_entries_are_removed_first() {
        let caches = ["git/a.git", "layers/b.tar", "uv", "git/c.git", "layers/d.tar"];
        assert_eq!(remaining(&caches, 1000), caches);
        assert_eq!(remaining(&caches, 300), ["uv", "git/c.git", "layers/d.tar"]);
        assert_eq!(remaining(&caches, 100), ["layers/d.tar"]);
        assert_eq!(remaining(&caches, 10), Vec::<String>::new());
    }

    #[test]
    fn what_a_killed_uv_left_is_removed_first() {
        assert_eq!(remaining(&["git/a.git", "uv/.tmpA1", "uv/wheels"], 150), ["git/a.git", "uv/wheels"]);
    }

    #[test]
    fn an_entry_that_is_used_again_stays() {
        let work = work_folder(&["git/a.git", "git/b.git", "layers/c.tar"]);
        mark_used(&work.path().join("git/a.git"));
        mark_used(&work.path().join("git/never-there.git"));
        let removed = Folders { work: work.path().to_owned(), limit: 190 << 10 }.evict();
        assert_eq!(removed, [work.path().join("git/b.git")]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_removed_while_a_build_runs() {
        let work = work_folder(&["git/a.git"]);
        let caches = Caches::new(work.path().to_owned(), 100 << 10);
        let first = caches.enter().await.unwrap();
        std::fs::write(work.path().join("git/b.git"), vec![1; 64 << 10]).unwrap();
        let mut second = std::pin::pin!(caches.enter());
        assert!(tokio::time::timeout(Duration::from_hours(1), &mut second).await.is_err());
        assert!(work.path().join("git/a.git").exists());
        drop(first);
        drop(second.await.unwrap());
        assert!(!work.path().join("git/a.git").exists());
    }

    #[test]
    fn other_files_of_the_work_folder_stay() {
        let work = work_folder(&["spool/layer", "locks/lock", "configs/checkout"]);
        let caches = Folders { work: work.path().to_owned(), limit: 0 };
        assert!(!caches.are_full());
        assert!(caches.evict().is_empty());
    }
}
