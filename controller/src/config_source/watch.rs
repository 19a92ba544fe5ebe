//! Publishes the desired state as it changes, from a folder or a repository.
//!
//! Guarantees: subscribers wake only if the configs, the commit or the failure changed. A failure keeps the last good snapshot and the
//! time of its first occurrence.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use codeloc_crds::GitReference;
use codeloc_git::{Failure, Git};
use tokio::sync::{Notify, watch};

use super::directory::Directory;
use super::remote::Remote;
use super::{Snapshot, SourceError};

/// Events come in bursts: a reading starts after this time without events …
const QUIET: Duration = Duration::from_millis(50);
/// … or after this time at the latest.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// The location of the configs, and the interval of readings without an event.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    Folder {
        root: PathBuf,
        interval: Duration,
    },
    Git {
        url: String,
        reference: GitReference,
        /// Path in the repository: `repos`, or `.` for its root.
        folder: String,
        /// For fetched objects and checkouts. No other process uses it.
        work: PathBuf,
        interval: Duration,
    },
}

/// The last known desired state.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// The last good snapshot; absent until the first reading succeeds.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why the last reading failed.
    pub failure: Option<Failure>,
    /// Start of the last successful reading, even if nothing changed.
    pub read: Option<tokio::time::Instant>,
}

/// Stops watching when dropped.
#[derive(Debug)]
pub struct SourceHandle {
    pub state: watch::Receiver<SourceState>,
    wake: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl SourceHandle {
    /// Reads now, or once more if a reading is in progress.
    pub fn trigger(&self) {
        self.wake.notify_one();
    }
}

impl Drop for SourceHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads at once, then at each interval, file system event and trigger. Needs a tokio runtime.
pub fn watch(settings: SourceSettings, git: Git) -> SourceHandle {
    let wake = Arc::new(Notify::new());
    let interval = match &settings {
        SourceSettings::Folder { interval, .. } | SourceSettings::Git { interval, .. } => *interval,
    };
    let mut reader = Reader::new(settings, git, Arc::clone(&wake));
    let (sender, state) = watch::channel(SourceState::default());
    let woken = Arc::clone(&wake);
    let task = tokio::spawn(async move {
        loop {
            let last = sender.borrow().snapshot.clone();
            let started = tokio::time::Instant::now();
            let outcome = reader.read(last.as_deref()).await;
            sender.send_if_modified(|state| state.take(outcome, started));
            if tokio::time::timeout(interval, woken.notified()).await.is_ok() {
                let burst = async { while tokio::time::timeout(QUIET, woken.notified()).await.is_ok() {} };
                // Either the burst is over, or it has lasted too long.
                let _ = tokio::time::timeout(LONGEST_BURST, burst).await;
            }
        }
    });
    SourceHandle { state, wake, task }
}

/// Reads once, for commands that do not watch.
pub async fn read_once(settings: SourceSettings, git: Git) -> Result<Snapshot, SourceError> {
    Reader::new(settings, git, Arc::default()).read(None).await
}

impl SourceState {
    /// Returns whether anything changed.
    fn take(&mut self, outcome: Result<Snapshot, SourceError>, started: tokio::time::Instant) -> bool {
        match outcome {
            Ok(snapshot) => {
                self.read = Some(started);
                let recovered = self.failure.take().is_some();
                let changed = self.snapshot.as_deref() != Some(&snapshot);
                if changed {
                    self.snapshot = Some(Arc::new(snapshot));
                }
                recovered || changed
            }
            Err(error) => {
                let failure = Failure::lasting(self.failure.as_ref(), error.to_string());
                let changed = self.failure.as_ref() != Some(&failure);
                if changed {
                    tracing::warn!(
                        %error,
                        "cannot read the configs; codeloc keeps the last valid ones and deletes nothing"
                    );
                }
                self.failure = Some(failure);
                changed
            }
        }
    }
}

enum Reader {
    Directory(Directory),
    Remote(Remote),
}

impl Reader {
    fn new(settings: SourceSettings, git: Git, wake: Arc<Notify>) -> Self {
        match settings {
            SourceSettings::Folder { root, .. } => Self::Directory(Directory::new(root, git, wake)),
            SourceSettings::Git { url, reference, folder, work, .. } => {
                Self::Remote(Remote { git, url, reference, folder, work })
            }
        }
    }

    async fn read(&mut self, last: Option<&Snapshot>) -> Result<Snapshot, SourceError> {
        match self {
            Self::Directory(directory) => directory.read(last).await,
            Self::Remote(remote) => remote.read(last).await,
        }
    }
}
