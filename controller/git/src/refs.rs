//! The commits that users' branches and tags name at present.
//!
//! Guarantees: one request at a time per branch, however many locations share it and however often it is poked; a poke
//! during a request brings one more; the last known commit stays while a host does not answer. Nothing is persisted: a
//! restart asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use codeloc_core::lock::lock;
use codeloc_crds::GitReference;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Failure, Git, GitError};

#[cfg(test)]
mod tests;

/// After a first failure that may pass by itself; doubled with each more, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Port: whoever knows which commit a reference names.
pub trait ResolveReference: Send + Sync + 'static {
    fn resolve(&self, url: &str, reference: &GitReference) -> impl Future<Output = Result<String, GitError>> + Send;
}

impl ResolveReference for Git {
    async fn resolve(&self, url: &str, reference: &GitReference) -> Result<String, GitError> {
        self.ls_remote(url, reference).await
    }
}

/// A reference of a repository, with the URL as the config writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefKey {
    pub git_url: String,
    pub reference: GitReference,
}

/// What is known of a reference; at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// The last answer: 40 hexadecimal digits.
    pub commit: Option<String>,
    /// Why there is no newer answer.
    pub failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
pub struct RefsSettings {
    /// Between two requests for the same reference.
    pub interval: Duration,
    /// Requests at the same time; at least 1.
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
    /// The set of what is due may have changed.
    wake: Notify,
    /// Counts answers, for those who wait for one.
    answers: watch::Sender<u64>,
}

struct Entry {
    /// False for a key that was forgotten while a request for it runs.
    wanted: bool,
    head: Option<Ref>,
    failures: u32,
    running: bool,
    /// Requests begun and ended so far.
    begun: u64,
    ended: u64,
    /// When the last request began, and the last one that was answered with a commit.
    asked: Option<Instant>,
    answered: Option<Instant>,
    /// None: never again.
    due: Option<Instant>,
}

impl Refs {
    /// Begins with nothing to resolve. `changed` is called, outside of any lock, when a commit or a failure is another.
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

    /// What is to be kept resolved from now on: new keys at once, known ones as before, others are forgotten.
    pub fn track(&self, keys: impl IntoIterator<Item = RefKey>) {
        let wanted: BTreeSet<RefKey> = keys.into_iter().collect();
        let mut entries = self.shared.entries();
        for (key, entry) in entries.iter_mut() {
            entry.wanted = wanted.contains(key);
        }
        entries.retain(|_, entry| entry.wanted || entry.running);
        for key in wanted {
            entries.entry(key).or_insert_with(Entry::new);
        }
        drop(entries);
        self.shared.wake.notify_one();
        // Those who wait for a key that is wanted no more.
        self.shared.answers.send_modify(|answers| *answers += 1);
    }

    /// What is known at present; nothing before the first answer, and for keys that are not wanted.
    pub fn get(&self, key: &RefKey) -> Option<Ref> {
        self.shared.entries().get(key).filter(|entry| entry.wanted)?.head.clone()
    }

    /// The last known commit, and when the last request that returned it began.
    pub fn asked(&self, key: &RefKey) -> Option<(String, Instant)> {
        let entries = self.shared.entries();
        let entry = entries.get(key).filter(|entry| entry.wanted)?;
        Some((entry.head.as_ref()?.commit.clone()?, entry.answered?))
    }

    /// Asks again now for every reference of a URL, as after a push.
    pub fn trigger(&self, git_url: &str) {
        self.make_due(|key| key.git_url == git_url);
    }

    /// Asks again now for everything.
    pub fn trigger_all(&self) {
        self.make_due(|_| true);
    }

    /// An answer to a request that began after this call; nothing if the key is not wanted.
    pub async fn resolve(&self, key: &RefKey) -> Option<Ref> {
        let mut answers = self.shared.answers.subscribe();
        let before = self.shared.entries().get(key).filter(|entry| entry.wanted)?.begun;
        self.make_due(|other| other == key);
        loop {
            answers.borrow_and_update();
            let answer = {
                let entries = self.shared.entries();
                let entry = entries.get(key).filter(|entry| entry.wanted)?;
                (entry.ended > before).then(|| entry.head.clone())
            };
            if let Some(head) = answer {
                return head;
            }
            answers.changed().await.ok()?;
        }
    }

    /// Until every wanted reference has had an answer, good or bad.
    pub async fn settled(&self) {
        let mut answers = self.shared.answers.subscribe();
        loop {
            answers.borrow_and_update();
            if self.shared.entries().values().all(|entry| entry.head.is_some() || !entry.wanted) {
                return;
            }
            if answers.changed().await.is_err() {
                return;
            }
        }
    }

    fn make_due(&self, concerned: impl Fn(&RefKey) -> bool) {
        let now = Instant::now();
        for (_, entry) in self.shared.entries().iter_mut().filter(|(key, _)| concerned(key)) {
            entry.due = Some(now);
        }
        self.shared.wake.notify_one();
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            wanted: true,
            head: None,
            failures: 0,
            running: false,
            begun: 0,
            ended: 0,
            asked: None,
            answered: None,
            due: Some(Instant::now()),
        }
    }

    fn is_free(&self) -> bool {
        self.wanted && !self.running
    }

    /// Whether the answer differs from what was known.
    fn take(&mut self, key: &RefKey, answer: Result<String, GitError>, interval: Duration) -> bool {
        let before = self.head.take();
        self.running = false;
        self.ended = self.begun;
        let (head, next) = match answer {
            Ok(commit) => {
                self.failures = 0;
                self.answered = self.asked;
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
                let failure = Failure::lasting(last.and_then(|head| head.failure.as_ref()), error.to_string());
                let commit = last.and_then(|head| head.commit.clone());
                (Ref { commit, failure: Some(failure) }, Some(next))
            }
        };
        // A poke since the request began is due already.
        if self.due.is_none() {
            self.due = next.map(|next| Instant::now() + next);
        }
        let changed = before.as_ref() != Some(&head);
        self.head = Some(head);
        changed
    }
}

/// The interval, up to a tenth shorter, differently for each key: a fleet that began together does not ask together.
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

    /// Marks a due key that is not being asked for as running.
    fn begin(&self, now: Instant) -> Option<RefKey> {
        let mut entries = self.entries();
        let (key, entry) = entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_free() && entry.due.is_some_and(|due| due <= now))
            .min_by_key(|(_, entry)| entry.due)?;
        entry.running = true;
        entry.begun += 1;
        entry.asked = Some(now);
        entry.due = None;
        Some(key.clone())
    }

    /// Whether the answer differs from what was known, and anybody wants to know.
    fn end(&self, key: &RefKey, answer: Result<String, GitError>) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key) else {
            return false;
        };
        let changed = entry.take(key, answer, self.settings.interval);
        let wanted = entry.wanted;
        if !wanted {
            entries.remove(key);
        }
        changed && wanted
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
            let Some(key) = shared.begin(Instant::now()) else {
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
