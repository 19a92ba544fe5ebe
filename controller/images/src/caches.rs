//! Keeps what builds leave in the work folder within a limit: what was not used for longest goes first.
//!
//! All of it can be made again, so nothing that is removed is lost: builds get slower only. Nothing is removed while a build of this process
//! is at work, which may read from any of it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{RwLock, RwLockReadGuard};

use super::{
    BuildError,
    disk::{blocking, fresh_folder, on_disk},
};

/// Bare caches of repositories, one folder for each URL.
pub(super) const GIT: &str = "git";
/// Packed dependency layers, two files for each lock.
pub(super) const LAYERS: &str = "layers";
/// uv's own cache, of which nobody else knows what belongs together.
pub(super) const UV: &str = "uv";

/// `du` counts blocks of this size, whatever the file system's are.
const BLOCK: u64 = 512;

/// One thing that goes as a whole.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

pub(super) struct Caches {
    folders: Arc<Folders>,
    builds: Arc<RwLock<()>>,
}

impl Caches {
    pub(super) fn new(work: PathBuf, limit: u64) -> Self {
        Self { folders: Arc::new(Folders { work, limit }), builds: Arc::default() }
    }

    /// For as long as a build reads from them. Where they are over their limit, other builds are waited for, and room is made first.
    pub(super) async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, BuildError> {
        let folders = self.folders.clone();
        if blocking(move || Ok(folders.are_full())).await? {
            let (folders, alone) = (self.folders.clone(), self.builds.clone().write_owned().await);
            let room = move || {
                // Held until nothing is removed any more, whoever still waits for it.
                let _alone = alone;
                Ok(folders.make_room())
            };
            let removed = blocking(room).await?.len();
            tracing::info!(removed, "the caches of builds were over their limit: what was longest unused went");
        }
        Ok(self.builds.read().await)
    }
}

struct Folders {
    work: PathBuf,
    /// Bytes on disk, of all of them together.
    limit: u64,
}

impl Folders {
    fn are_full(&self) -> bool {
        self.entries().iter().map(|entry| entry.bytes).sum::<u64>() > self.limit
    }

    /// Where they take more than the limit: removes until they take three quarters of it, so that this is not done at each build. Gives
    /// what went. What cannot be removed is tried again next time.
    fn make_room(&self) -> Vec<PathBuf> {
        let mut entries = self.entries();
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if bytes <= self.limit {
            return vec![];
        }
        entries.sort_by_key(|entry| entry.used);
        let mut removed = Vec::new();
        for Entry { path, bytes: freed, .. } in entries {
            if bytes <= self.limit / 4 * 3 {
                break;
            }
            match self.remove(&path) {
                Ok(()) => {
                    bytes -= freed;
                    removed.push(path);
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "a cache of builds was not removed"),
            }
        }
        removed
    }

    /// Moved away first: what is half removed when the process ends must not be taken for whole. The spool is swept at each start.
    fn remove(&self, path: &Path) -> Result<(), BuildError> {
        let folder = fresh_folder(&self.work.join("spool"))?;
        let moved = std::fs::rename(path, folder.path().join("removed"));
        moved.and_then(|()| folder.close()).map_err(|error| on_disk(path, &error))
    }

    fn entries(&self) -> Vec<Entry> {
        let parts = [GIT, LAYERS].into_iter().flat_map(|part| children(&self.work.join(part)));
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

/// With everything in it, by blocks or by length: some file systems give blocks later. What goes while it is counted counts nothing.
fn bytes_of(path: &Path, metadata: &Metadata) -> u64 {
    let inside = if metadata.is_dir() { children(path) } else { vec![] };
    let inside = inside.iter().filter_map(|path| Some(bytes_of(path, &std::fs::symlink_metadata(path).ok()?)));
    (metadata.blocks() * BLOCK).max(metadata.len()) + inside.sum::<u64>()
}

/// Notes that a cache is of use. One that is not there has nothing to be noted of.
pub(super) fn used(path: &Path) {
    // The file system's clock is the only one that is compared with this.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A work folder whose caches were used in this order, 64 KiB each.
    fn work(caches: &[&str]) -> tempfile::TempDir {
        let work = tempfile::tempdir().unwrap();
        for (place, cache) in (1..).zip(caches) {
            let path = work.path().join(cache);
            let file = if cache.starts_with(LAYERS) { path.clone() } else { path.join("objects/pack") };
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, vec![1; 64 << 10]).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + place);
            File::open(&path).unwrap().set_modified(at).unwrap();
        }
        work
    }

    fn left(caches: &[&str], limit_kib: u64) -> Vec<String> {
        let work = work(caches);
        let all = Folders { work: work.path().to_owned(), limit: limit_kib << 10 };
        let full = all.are_full();
        let removed = all.make_room();
        assert_eq!(full, !removed.is_empty());
        assert!(!all.are_full());
        caches.iter().filter(|cache| work.path().join(cache).exists()).map(|cache| (*cache).to_owned()).collect()
    }

    #[test]
    fn what_was_longest_unused_goes_first_whatever_it_is() {
        let caches = ["git/a.git", "layers/b.tar", "uv", "git/c.git", "layers/d.tar"];
        assert_eq!(left(&caches, 1000), caches);
        assert_eq!(left(&caches, 300), ["uv", "git/c.git", "layers/d.tar"]);
        assert_eq!(left(&caches, 100), ["layers/d.tar"]);
        assert_eq!(left(&caches, 10), Vec::<String>::new());
    }

    #[test]
    fn what_is_used_again_stays() {
        let work = work(&["git/a.git", "git/b.git", "layers/c.tar"]);
        used(&work.path().join("git/a.git"));
        used(&work.path().join("git/never-there.git"));
        let removed = Folders { work: work.path().to_owned(), limit: 190 << 10 }.make_room();
        assert_eq!(removed, [work.path().join("git/b.git")]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_while_a_build_reads_from_it() {
        let work = work(&["git/a.git"]);
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
    fn nothing_else_of_the_work_folder_is_touched() {
        let work = work(&["spool/layer", "locks/lock", "configs/checkout"]);
        let caches = Folders { work: work.path().to_owned(), limit: 0 };
        assert!(!caches.are_full());
        assert!(caches.make_room().is_empty());
    }
}
