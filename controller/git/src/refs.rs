//! The current commits of users' branches and tags.
//!
//! Guarantees: one request at a time per reference, for any number of locations and triggers; a trigger during a request causes
//! one more request; the last known commit stays while a host does not answer. Nothing is persisted: codeloc requests all
//! references again after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use codeloc_core::ids::Commit;
use codeloc_core::lock::lock;
use codeloc_crds::GitReference;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::GitError;
use crate::failure::Failure;
use crate::git::Git;

#[cfg(test)]
mod tests;

/// The pause after a first transient failure. Doubled with each further one, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Port: resolves a reference to its commit.
pub trait ResolveReference: Send + Sync + 'static {
    fn resolve(&self, url: &str, reference: &GitReference) -> impl Future<Output = Result<Commit, GitError>> + Send;
}

impl ResolveReference for Git {
    async fn resolve(&self, url: &str, reference: &GitReference) -> Result<Commit, GitError> {
        self.ls_remote(url, reference).await
    }
}

/// A reference of a repository, with the URL as the config writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefKey {
    pub git_url: String,
    pub reference: GitReference,
}

/// The last answer for a reference. At least one field is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// The last known commit.
    pub commit: Option<Commit>,
    /// Why the last request failed.
    pub failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
pub struct RefsSettings {
    /// Between two requests for the same reference.
    pub interval: Duration,
    /// Requests in parallel; at least 1.
    pub parallelism: usize,
}

/// A handle to the one resolver of this process, which ends with the last handle.
#[derive(Clone)]
pub struct Refs {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    settings: RefsSettings,
    entries: Mutex<BTreeMap<RefKey, Entry>>,
    /// The set of due references may have changed.
    wake: Notify,
    /// The number of answers, for callers that wait for one.
    answers: watch::Sender<u64>,
}

struct Entry {
    /// False for a key that was removed while its request runs.
    tracked: bool,
    last: Option<Ref>,
    failures: u32,
    running: bool,
    /// The number of requests that started and ended.
    started: u64,
    ended: u64,
    /// When the last request started.
    requested: Option<Instant>,
    /// When the last request that returned a commit started.
    answered: Option<Instant>,
    /// `None`: no further request.
    due: Option<Instant>,
}

impl Refs {
    /// Starts without references. Calls `changed`, outside of any lock, when a commit or a failure changes.
    pub fn start(
        resolver: impl ResolveReference,
        settings: RefsSettings,
        changed: impl Fn(&RefKey) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            settings,
            entries: Mutex::default(),
            wake: Notify::new(),
            answers: watch::Sender::new(0),
        });
        let task = tokio::spawn(drive(Arc::clone(&shared), Arc::new(resolver), Arc::new(changed)));
        Self { shared, _task: Arc::new(AbortOnDrop(task)) }
    }

    /// Sets the references to resolve: new keys at once, known ones as before, and other keys are removed.
    pub fn track(&self, keys: impl IntoIterator<Item = RefKey>) {
        let tracked: BTreeSet<RefKey> = keys.into_iter().collect();
        let mut entries = self.shared.entries();
        for (key, entry) in entries.iter_mut() {
            entry.tracked = tracked.contains(key);
        }
        entries.retain(|_, entry| entry.tracked || entry.running);
        for key in tracked {
            entries.entry(key).or_insert_with(Entry::new);
        }
        drop(entries);
        self.shared.wake.notify_one();
        // Wakes callers that wait for a key that is no longer tracked.
        self.shared.answers.send_modify(|answers| *answers += 1);
    }

    /// The last answer. `None` before the first one, and for untracked keys.
    pub fn get(&self, key: &RefKey) -> Option<Ref> {
        self.shared.entries().get(key).filter(|entry| entry.tracked)?.last.clone()
    }

    /// The last known commit, and when the last request that returned it started.
    pub fn asked(&self, key: &RefKey) -> Option<(Commit, Instant)> {
        let entries = self.shared.entries();
        let entry = entries.get(key).filter(|entry| entry.tracked)?;
        Some((entry.last.as_ref()?.commit.clone()?, entry.answered?))
    }

    /// Requests all references of a URL now, as after a push.
    pub fn trigger(&self, git_url: &str) {
        self.make_due(|key| key.git_url == git_url);
    }

    /// Requests all references now.
    pub fn trigger_all(&self) {
        self.make_due(|_| true);
    }

    /// The answer to a request that starts after this call. `None` if the key is not tracked.
    pub async fn resolve(&self, key: &RefKey) -> Option<Ref> {
        let mut answers = self.shared.answers.subscribe();
        let before = self.shared.entries().get(key).filter(|entry| entry.tracked)?.started;
        self.make_due(|other| other == key);
        loop {
            answers.borrow_and_update();
            let answer = {
                let entries = self.shared.entries();
                let entry = entries.get(key).filter(|entry| entry.tracked)?;
                (entry.ended > before).then(|| entry.last.clone())
            };
            if let Some(last) = answer {
                return last;
            }
            answers.changed().await.ok()?;
        }
    }

    /// Waits until every tracked reference has an answer or a failure.
    pub async fn settled(&self) {
        let mut answers = self.shared.answers.subscribe();
        loop {
            answers.borrow_and_update();
            if self.shared.entries().values().all(|entry| entry.last.is_some() || !entry.tracked) {
                return;
            }
            if answers.changed().await.is_err() {
                return;
            }
        }
    }

    fn make_due(&self, select: impl Fn(&RefKey) -> bool) {
        let now = Instant::now();
        for (_, entry) in self.shared.entries().iter_mut().filter(|(key, _)| select(key)) {
            entry.due = Some(now);
        }
        self.shared.wake.notify_one();
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            tracked: true,
            last: None,
            failures: 0,
            running: false,
            started: 0,
            ended: 0,
            requested: None,
            answered: None,
            due: Some(Instant::now()),
        }
    }

    fn is_free(&self) -> bool {
        self.tracked && !self.running
    }

    /// Stores an answer, and returns whether it differs from the last one.
    fn take(&mut self, key: &RefKey, answer: Result<Commit, GitError>, interval: Duration) -> bool {
        let before = self.last.take();
        self.running = false;
        self.ended = self.started;
        let (answer, next) = match answer {
            Ok(commit) => {
                self.failures = 0;
                self.answered = self.requested;
                let fixed = matches!(key.reference, GitReference::Commit(_));
                (Ref { commit: Some(commit), failure: None }, (!fixed).then(|| spread(interval, key)))
            }
            Err(error) => {
                let next = if error.is_transient() {
                    FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(interval)
                } else {
                    spread(interval, key)
                };
                self.failures += 1;
                let last = before.as_ref();
                let failure = Failure::lasting(last.and_then(|last| last.failure.as_ref()), error.to_string());
                let commit = last.and_then(|last| last.commit.clone());
                (Ref { commit, failure: Some(failure) }, Some(next))
            }
        };
        // A trigger since the request started is due already.
        if self.due.is_none() {
            self.due = next.map(|next| Instant::now() + next);
        }
        let changed = before.as_ref() != Some(&answer);
        self.last = Some(answer);
        changed
    }
}

/// The interval, up to a tenth shorter depending on the key: references that started together are not requested together.
fn spread(interval: Duration, key: &RefKey) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 100).unwrap_or(0);
    interval.saturating_sub(interval / 1000 * thousandths)
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<RefKey, Entry>> {
        lock(&self.entries)
    }

    /// Marks the most overdue key without a running request as running.
    fn start_due(&self, now: Instant) -> Option<RefKey> {
        let mut entries = self.entries();
        let (key, entry) = entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_free() && entry.due.is_some_and(|due| due <= now))
            .min_by_key(|(_, entry)| entry.due)?;
        entry.running = true;
        entry.started += 1;
        entry.requested = Some(now);
        entry.due = None;
        Some(key.clone())
    }

    /// Stores an answer, and returns whether it changed a tracked reference.
    fn end(&self, key: &RefKey, answer: Result<Commit, GitError>) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key) else {
            return false;
        };
        let changed = entry.take(key, answer, self.settings.interval);
        let tracked = entry.tracked;
        if !tracked {
            entries.remove(key);
        }
        changed && tracked
    }

    fn next_due(&self) -> Option<Instant> {
        self.entries().values().filter(|entry| entry.is_free()).filter_map(|entry| entry.due).min()
    }
}

async fn drive<R: ResolveReference>(
    shared: Arc<Shared>,
    resolver: Arc<R>,
    changed: Arc<impl Fn(&RefKey) + Send + Sync + 'static>,
) {
    let permits = Arc::new(Semaphore::new(shared.settings.parallelism.max(1)));
    let mut requests = JoinSet::new();
    loop {
        while requests.try_join_next().is_some() {}
        while let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            let Some(key) = shared.start_due(Instant::now()) else {
                break;
            };
            let (shared, resolver, changed) = (Arc::clone(&shared), Arc::clone(&resolver), Arc::clone(&changed));
            requests.spawn(async move {
                let answer = resolver.resolve(&key.git_url, &key.reference).await;
                let is_new = shared.end(&key, answer);
                drop(permit);
                shared.answers.send_modify(|answers| *answers += 1);
                shared.wake.notify_one();
                if is_new {
                    changed(&key);
                }
            });
        }
        let busy = permits.available_permits() == 0;
        match shared.next_due().filter(|_| !busy) {
            Some(due) => {
                let _ = tokio::time::timeout_at(due, shared.wake.notified()).await;
            }
            None => shared.wake.notified().await,
        }
    }
}
