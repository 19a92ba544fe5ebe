//! The desired state over time, out of either mode.
//!
//! Guarantees: subscribers are woken only when the configs, the commit or the failure changed; a failure stands beside
//! the last good snapshot and keeps the moment it began.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use codeloc_crds::GitReference;
use codeloc_git::{Failure, Git};
use tokio::sync::{Notify, watch};

use super::directory::Directory;
use super::remote::Remote;
use super::{Snapshot, SourceError};

/// Events come in bursts: a reading begins when there was none for so long …
const QUIET: Duration = Duration::from_millis(50);
/// … but is not put off for longer than this.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// Where the configs are, and how often they are read when nothing says that they changed.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    Folder {
        root: PathBuf,
        interval: Duration,
    },
    Git {
        url: String,
        reference: GitReference,
        /// Inside the repository: `repos`, or `.` for its root.
        folder: String,
        /// For fetched objects and checkouts; nobody else's.
        work: PathBuf,
        interval: Duration,
    },
}

/// What is known of the desired state.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// The last good one; none until the first reading has succeeded.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why there is no newer one.
    pub failure: Option<Failure>,
    /// When the last successful reading of the configs began, whether or not anything had changed.
    pub read: Option<tokio::time::Instant>,
}

/// Ends the watching when dropped.
#[derive(Debug)]
pub struct SourceHandle {
    pub state: watch::Receiver<SourceState>,
    wake: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl SourceHandle {
    /// Reads now, or once more if a reading is under way.
    pub fn trigger(&self) {
        self.wake.notify_one();
    }
}

impl Drop for SourceHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads at once, then on the interval, on events of the file system and when poked. Needs a tokio runtime.
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
            let began = tokio::time::Instant::now();
            let outcome = reader.read(last.as_deref()).await;
            sender.send_if_modified(|state| state.take(outcome, began));
            if tokio::time::timeout(interval, woken.notified()).await.is_ok() {
                let burst = async { while tokio::time::timeout(QUIET, woken.notified()).await.is_ok() {} };
                // Either way it is time to read.
                let _ = tokio::time::timeout(LONGEST_BURST, burst).await;
            }
        }
    });
    SourceHandle { state, wake, task }
}

/// One reading, for commands that do not stay.
pub async fn read_once(settings: SourceSettings, git: Git) -> Result<Snapshot, SourceError> {
    Reader::new(settings, git, Arc::default()).read(None).await
}

impl SourceState {
    /// Whether anything changed.
    fn take(&mut self, outcome: Result<Snapshot, SourceError>, began: tokio::time::Instant) -> bool {
        match outcome {
            Ok(snapshot) => {
                self.read = Some(began);
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
                    tracing::warn!(%error, "the configs cannot be read, the last ones stay in force");
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
