//! The commits that users' branches and tags name at present.
//!
//! Guarantees: one request at a time per branch, however many locations share it and however often it is poked; a poke
//! during a request brings one more; the last known commit stays while a host does not answer. Nothing is persisted: a
//! restart asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codeloc_crds::GitReference;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Failure, Git, GitError};

/// After a first failure that may pass by itself; doubled with each more, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Port: whoever knows which commit a reference names.
pub trait ResolveReference: Send + Sync + 'static {
    fn resolve(
        &self,
        url: &str,
        reference: &GitReference,
    ) -> impl Future<Output = Result<String, GitError>> + Send;
}

impl ResolveReference for Git {
    async fn resolve(&self, url: &str, reference: &GitReference) -> Result<String, GitError> {
        self.ls_remote(url, reference).await
    }
}

/// A reference of a repository, with the URL as the config writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadKey {
    pub git_url: String,
    pub reference: GitReference,
}

/// What is known of a reference; at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last answer: 40 hexadecimal digits.
    pub commit: Option<String>,
    /// Why there is no newer answer.
    pub failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
pub struct HeadsSettings {
    /// Between two requests for the same reference.
    pub interval: Duration,
    /// Requests at the same time; at least 1.
    pub parallelism: usize,
}

/// A handle to the one resolver of this process, which ends with the last handle.
#[derive(Clone)]
pub struct Heads {
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
    settings: HeadsSettings,
    entries: Mutex<BTreeMap<HeadKey, Entry>>,
    /// The set of what is due may have changed.
    wake: Notify,
    /// Counts answers, for those who wait for one.
    answers: watch::Sender<u64>,
}

struct Entry {
    /// False for a key that was forgotten while a request for it runs.
    wanted: bool,
    head: Option<Head>,
    failures: u32,
    running: bool,
    /// Requests begun and ended so far.
    begun: u64,
    ended: u64,
    /// None: never again.
    due: Option<Instant>,
}

impl Heads {
    /// Begins with nothing to resolve. `changed` is called, outside of any lock, when a commit or a failure is another.
    pub fn start(
        resolver: impl ResolveReference,
        settings: HeadsSettings,
        changed: impl Fn(&HeadKey) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            settings,
            entries: Mutex::default(),
            wake: Notify::new(),
            answers: watch::Sender::new(0),
        });
        let task = tokio::spawn(drive(
            Arc::clone(&shared),
            Arc::new(resolver),
            Arc::new(changed),
        ));
        Self {
            shared,
            _task: Arc::new(AbortOnDrop(task)),
        }
    }

    /// What is to be kept resolved from now on: new keys at once, known ones as before, others are forgotten.
    pub fn want(&self, keys: impl IntoIterator<Item = HeadKey>) {
        let wanted: BTreeSet<HeadKey> = keys.into_iter().collect();
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
    pub fn get(&self, key: &HeadKey) -> Option<Head> {
        self.shared
            .entries()
            .get(key)
            .filter(|entry| entry.wanted)?
            .head
            .clone()
    }

    /// Asks again now for every reference of a URL, as after a push.
    pub fn poke(&self, git_url: &str) {
        self.make_due(|key| key.git_url == git_url);
    }

    /// Asks again now for everything.
    pub fn poke_all(&self) {
        self.make_due(|_| true);
    }

    /// An answer to a request that began after this call; nothing if the key is not wanted.
    pub async fn resolve(&self, key: &HeadKey) -> Option<Head> {
        let mut answers = self.shared.answers.subscribe();
        let before = self
            .shared
            .entries()
            .get(key)
            .filter(|entry| entry.wanted)?
            .begun;
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
            if self
                .shared
                .entries()
                .values()
                .all(|entry| entry.head.is_some() || !entry.wanted)
            {
                return;
            }
            if answers.changed().await.is_err() {
                return;
            }
        }
    }

    fn make_due(&self, concerned: impl Fn(&HeadKey) -> bool) {
        let now = Instant::now();
        for (_, entry) in self
            .shared
            .entries()
            .iter_mut()
            .filter(|(key, _)| concerned(key))
        {
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
            due: Some(Instant::now()),
        }
    }

    fn is_free(&self) -> bool {
        self.wanted && !self.running
    }

    /// Whether the answer differs from what was known.
    fn take(
        &mut self,
        key: &HeadKey,
        answer: Result<String, GitError>,
        interval: Duration,
    ) -> bool {
        let before = self.head.take();
        self.running = false;
        self.ended = self.begun;
        let (head, next) = match answer {
            Ok(commit) => {
                self.failures = 0;
                let fixed = matches!(key.reference, GitReference::Commit(_));
                (
                    Head {
                        commit: Some(commit),
                        failure: None,
                    },
                    (!fixed).then(|| spread(interval, key)),
                )
            }
            Err(error) => {
                let next = if error.is_transient() {
                    FIRST_RETRY
                        .saturating_mul(1 << self.failures.min(16))
                        .min(interval)
                } else {
                    spread(interval, key)
                };
                self.failures += 1;
                let last = before.as_ref();
                let failure = Failure::lasting(
                    last.and_then(|head| head.failure.as_ref()),
                    error.to_string(),
                );
                let commit = last.and_then(|head| head.commit.clone());
                (
                    Head {
                        commit,
                        failure: Some(failure),
                    },
                    Some(next),
                )
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
fn spread(interval: Duration, key: &HeadKey) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 100).unwrap_or(0);
    interval.saturating_sub(interval / 1000 * thousandths)
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<HeadKey, Entry>> {
        // No code between lock and unlock leaves an entry half changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a due key that is not being asked for as running.
    fn begin(&self, now: Instant) -> Option<HeadKey> {
        let mut entries = self.entries();
        let (key, entry) = entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_free() && entry.due.is_some_and(|due| due <= now))
            .min_by_key(|(_, entry)| entry.due)?;
        entry.running = true;
        entry.begun += 1;
        entry.due = None;
        Some(key.clone())
    }

    /// Whether the answer differs from what was known, and anybody wants to know.
    fn end(&self, key: &HeadKey, answer: Result<String, GitError>) -> bool {
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
        self.entries()
            .values()
            .filter(|entry| entry.is_free())
            .filter_map(|entry| entry.due)
            .min()
    }
}

async fn drive<R: ResolveReference>(
    shared: Arc<Shared>,
    resolver: Arc<R>,
    changed: Arc<impl Fn(&HeadKey) + Send + Sync + 'static>,
) {
    let permits = Arc::new(Semaphore::new(shared.settings.parallelism.max(1)));
    let mut requests = JoinSet::new();
    loop {
        while requests.try_join_next().is_some() {}
        while let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            let Some(key) = shared.begin(Instant::now()) else {
                break;
            };
            let (shared, resolver, changed) = (
                Arc::clone(&shared),
                Arc::clone(&resolver),
                Arc::clone(&changed),
            );
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// Answers what it is told, after a second of virtual time, and counts.
    #[derive(Clone, Default)]
    struct Script(Arc<ScriptState>);

    #[derive(Default)]
    struct ScriptState {
        answers: Mutex<BTreeMap<String, Result<String, GitError>>>,
        requests: Mutex<BTreeMap<String, usize>>,
        running: AtomicUsize,
        most_running: AtomicUsize,
    }

    impl Script {
        fn answer(&self, url: &str, answer: Result<&str, GitError>) {
            self.0
                .answers
                .lock()
                .unwrap()
                .insert(url.to_owned(), answer.map(str::to_owned));
        }

        fn requests(&self, url: &str) -> usize {
            self.0
                .requests
                .lock()
                .unwrap()
                .get(url)
                .copied()
                .unwrap_or(0)
        }
    }

    impl ResolveReference for Script {
        async fn resolve(&self, url: &str, _: &GitReference) -> Result<String, GitError> {
            let state = &self.0;
            *state
                .requests
                .lock()
                .unwrap()
                .entry(url.to_owned())
                .or_default() += 1;
            let running = state.running.fetch_add(1, Ordering::SeqCst) + 1;
            state.most_running.fetch_max(running, Ordering::SeqCst);
            // The answer is that of the moment at which the request began.
            let answer = state.answers.lock().unwrap()[url].clone();
            tokio::time::sleep(Duration::from_secs(1)).await;
            state.running.fetch_sub(1, Ordering::SeqCst);
            answer
        }
    }

    const INTERVAL: Duration = Duration::from_mins(1);

    fn key(url: &str) -> HeadKey {
        HeadKey {
            git_url: url.to_owned(),
            reference: GitReference::Branch("main".to_owned()),
        }
    }

    fn failed(detail: &str) -> GitError {
        GitError::Failed {
            operation: "ls-remote",
            url: "x".to_owned(),
            detail: detail.to_owned(),
        }
    }

    fn not_found() -> GitError {
        GitError::ReferenceNotFound {
            url: "x".to_owned(),
            reference: "branch main".to_owned(),
        }
    }

    fn start(script: &Script) -> (Heads, mpsc::UnboundedReceiver<HeadKey>) {
        let (sender, changes) = mpsc::unbounded_channel();
        let settings = HeadsSettings {
            interval: INTERVAL,
            parallelism: 3,
        };
        let heads = Heads::start(script.clone(), settings, move |key| {
            let _ = sender.send(key.clone());
        });
        (heads, changes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_branch_is_told_within_the_interval_and_an_unmoved_one_is_not() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        script.answer("b", Ok("1"));
        let (heads, mut changes) = start(&script);
        heads.want([key("a"), key("b"), key("a")]);
        heads.settled().await;
        assert_eq!(
            heads.get(&key("a")),
            Some(Head {
                commit: Some("1".to_owned()),
                failure: None
            })
        );
        let mut first = [changes.recv().await.unwrap(), changes.recv().await.unwrap()];
        first.sort();
        assert_eq!(first, [key("a"), key("b")]);
        let began = Instant::now();
        script.answer("b", Ok("2"));
        assert_eq!(changes.recv().await, Some(key("b")));
        assert!(began.elapsed() <= INTERVAL + Duration::from_secs(2));
        assert_eq!(heads.get(&key("b")).unwrap().commit.as_deref(), Some("2"));
        assert!(changes.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_share_the_request_that_follows() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        let (heads, _changes) = start(&script);
        heads.want([key("a")]);
        // The first request has begun: its answer is too old for those who ask now.
        tokio::time::sleep(Duration::from_millis(500)).await;
        script.answer("a", Ok("2"));
        let key = key("a");
        let answers = futures::future::join_all((0..10).map(|_| heads.resolve(&key))).await;
        assert!(
            answers
                .iter()
                .all(|head| head.as_ref().unwrap().commit.as_deref() == Some("2"))
        );
        assert_eq!(script.requests("a"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_commit_and_the_moment_it_began() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        let (heads, mut changes) = start(&script);
        heads.want([key("a")]);
        changes.recv().await.unwrap();
        script.answer("a", Err(failed("no route")));
        let first = heads.resolve(&key("a")).await.unwrap();
        assert_eq!(first.commit.as_deref(), Some("1"));
        let second = heads.resolve(&key("a")).await.unwrap();
        assert_eq!(first, second);
        script.answer("a", Ok("1"));
        let healed = heads.resolve(&key("a")).await.unwrap();
        assert_eq!(
            healed,
            Head {
                commit: Some("1".to_owned()),
                failure: None
            }
        );
        // Told when it began and when it ended.
        assert_eq!(
            (changes.recv().await, changes.recv().await),
            (Some(key("a")), Some(key("a")))
        );
        assert!(changes.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_retried_soon_and_what_may_not_is_left_to_the_interval() {
        let script = Script::default();
        script.answer("passing", Err(failed("no route")));
        script.answer("lasting", Err(not_found()));
        let (heads, _changes) = start(&script);
        heads.want([key("passing"), key("lasting")]);
        // Requests of a second each, begun at 0, 6, 17 and 38 s.
        tokio::time::sleep(Duration::from_secs(45)).await;
        assert_eq!(
            (script.requests("passing"), script.requests("lasting")),
            (4, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_requests_run_at_once_than_allowed() {
        let script = Script::default();
        let keys: Vec<HeadKey> = (0..20).map(|index| key(&index.to_string())).collect();
        for key in &keys {
            script.answer(&key.git_url, Ok("1"));
        }
        let (heads, _changes) = start(&script);
        heads.want(keys);
        heads.settled().await;
        assert_eq!(script.0.most_running.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_no_more_is_forgotten_and_asked_for_no_more() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        let (heads, _changes) = start(&script);
        heads.want([key("a")]);
        heads.settled().await;
        heads.want([]);
        heads.poke("a");
        tokio::time::sleep(INTERVAL * 5).await;
        assert_eq!(script.requests("a"), 1);
        assert_eq!(
            (heads.get(&key("a")), heads.resolve(&key("a")).await),
            (None, None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_comes_back_during_its_request_is_not_asked_for_twice_at_once() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        let (heads, _changes) = start(&script);
        heads.want([key("a")]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        heads.want([]);
        assert_eq!(heads.get(&key("a")), None);
        heads.want([key("a")]);
        heads.settled().await;
        assert_eq!(
            (
                script.requests("a"),
                script.0.most_running.load(Ordering::SeqCst)
            ),
            (1, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_poke_asks_for_every_reference_of_the_url_at_once() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        script.answer("b", Ok("1"));
        let (heads, mut changes) = start(&script);
        let tag = HeadKey {
            git_url: "a".to_owned(),
            reference: GitReference::Tag("v1".to_owned()),
        };
        heads.want([key("a"), tag, key("b")]);
        heads.settled().await;
        while changes.try_recv().is_ok() {}
        script.answer("a", Ok("2"));
        let began = Instant::now();
        heads.poke("a");
        changes.recv().await.unwrap();
        changes.recv().await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!((script.requests("a"), script.requests("b")), (4, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fixed_commit_is_asked_for_once() {
        let script = Script::default();
        script.answer("a", Ok("1"));
        let (heads, _changes) = start(&script);
        heads.want([HeadKey {
            git_url: "a".to_owned(),
            reference: GitReference::Commit("1".to_owned()),
        }]);
        tokio::time::sleep(INTERVAL * 5).await;
        assert_eq!(script.requests("a"), 1);
    }
}
