//! With tokio's paused clock: seconds here are virtual.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::error::CommandError;

/// Answers from a script after a second of virtual time, and counts the requests.
#[derive(Clone, Default)]
struct Script(Arc<ScriptState>);

#[derive(Default)]
struct ScriptState {
    answers: Mutex<BTreeMap<String, Result<Commit, GitError>>>,
    requests: Mutex<BTreeMap<String, usize>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl Script {
    fn answer(&self, url: &str, answer: Result<&str, GitError>) {
        self.0.answers.lock().unwrap().insert(url.to_owned(), answer.map(Commit::from));
    }

    fn requests(&self, url: &str) -> usize {
        self.0.requests.lock().unwrap().get(url).copied().unwrap_or(0)
    }
}

impl ResolveReference for Script {
    async fn resolve(&self, url: &str, _: &GitReference) -> Result<Commit, GitError> {
        let state = &self.0;
        *state.requests.lock().unwrap().entry(url.to_owned()).or_default() += 1;
        let running = state.running.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_running.fetch_max(running, Ordering::SeqCst);
        // The answer is that of the start of the request.
        let answer = state.answers.lock().unwrap()[url].clone();
        tokio::time::sleep(Duration::from_secs(1)).await;
        state.running.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

const INTERVAL: Duration = Duration::from_mins(1);

fn key(url: &str) -> RefKey {
    RefKey { git_url: url.to_owned(), reference: GitReference::Branch("main".to_owned()) }
}

fn failed(detail: &str) -> GitError {
    GitError::Failed { operation: "ls-remote", url: "x".to_owned(), source: CommandError::Message(detail.to_owned()) }
}

fn not_found() -> GitError {
    GitError::ReferenceNotFound { url: "x".to_owned(), reference: "branch main".to_owned() }
}

fn start(script: &Script) -> (Refs, mpsc::UnboundedReceiver<RefKey>) {
    let (sender, changes) = mpsc::unbounded_channel();
    let settings = RefsSettings { interval: INTERVAL, parallelism: 3 };
    let refs = Refs::start(script.clone(), settings, move |key| {
        let _ = sender.send(key.clone());
    });
    (refs, changes)
}

#[tokio::test(start_paused = true)]
async fn a_new_commit_is_reported_within_the_interval() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    script.answer("b", Ok("1"));
    let (refs, mut changes) = start(&script);
    refs.track([key("a"), key("b"), key("a")]);
    refs.settled().await;
    assert_eq!(refs.get(&key("a")), Some(Ref { commit: Some(Commit::from("1")), failure: None }));
    let mut first = [changes.recv().await.unwrap(), changes.recv().await.unwrap()];
    first.sort();
    assert_eq!(first, [key("a"), key("b")]);
    let began = Instant::now();
    script.answer("b", Ok("2"));
    assert_eq!(changes.recv().await, Some(key("b")));
    assert!(began.elapsed() <= INTERVAL + Duration::from_secs(2));
    assert_eq!(refs.get(&key("b")).unwrap().commit.as_deref(), Some("2"));
    assert!(changes.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_share_the_next_request() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    let (refs, _changes) = start(&script);
    refs.track([key("a")]);
    // The first request has started: its answer is too old for later callers.
    tokio::time::sleep(Duration::from_millis(500)).await;
    script.answer("a", Ok("2"));
    let key = key("a");
    let answers = futures::future::join_all((0..10).map(|_| refs.resolve(&key))).await;
    assert!(answers.iter().all(|head| head.as_ref().unwrap().commit.as_deref() == Some("2")));
    assert_eq!(script.requests("a"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_commit_and_its_start() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    let (refs, mut changes) = start(&script);
    refs.track([key("a")]);
    changes.recv().await.unwrap();
    script.answer("a", Err(failed("no route")));
    let first = refs.resolve(&key("a")).await.unwrap();
    assert_eq!(first.commit.as_deref(), Some("1"));
    let second = refs.resolve(&key("a")).await.unwrap();
    assert_eq!(first, second);
    script.answer("a", Ok("1"));
    let healed = refs.resolve(&key("a")).await.unwrap();
    assert_eq!(healed, Ref { commit: Some(Commit::from("1")), failure: None });
    // Reported at its start and at its end.
    assert_eq!((changes.recv().await, changes.recv().await), (Some(key("a")), Some(key("a"))));
    assert!(changes.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn only_a_transient_failure_is_retried_before_the_interval() {
    let script = Script::default();
    script.answer("passing", Err(failed("no route")));
    script.answer("lasting", Err(not_found()));
    let (refs, _changes) = start(&script);
    refs.track([key("passing"), key("lasting")]);
    // Requests of a second each, at 0, 6, 17 and 38 s.
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!((script.requests("passing"), script.requests("lasting")), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn requests_in_parallel_are_limited() {
    let script = Script::default();
    let keys: Vec<RefKey> = (0..20).map(|index| key(&index.to_string())).collect();
    for key in &keys {
        script.answer(&key.git_url, Ok("1"));
    }
    let (refs, _changes) = start(&script);
    refs.track(keys);
    refs.settled().await;
    assert_eq!(script.0.most_running.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn an_untracked_key_is_no_longer_requested() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    let (refs, _changes) = start(&script);
    refs.track([key("a")]);
    refs.settled().await;
    refs.track([]);
    refs.trigger("a");
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(script.requests("a"), 1);
    assert_eq!((refs.get(&key("a")), refs.resolve(&key("a")).await), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_key_tracked_again_keeps_its_running_request() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    let (refs, _changes) = start(&script);
    refs.track([key("a")]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    refs.track([]);
    assert_eq!(refs.get(&key("a")), None);
    refs.track([key("a")]);
    refs.settled().await;
    assert_eq!((script.requests("a"), script.0.most_running.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_trigger_requests_all_references_of_the_url() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    script.answer("b", Ok("1"));
    let (refs, mut changes) = start(&script);
    let tag = RefKey { git_url: "a".to_owned(), reference: GitReference::Tag("v1".to_owned()) };
    refs.track([key("a"), tag, key("b")]);
    refs.settled().await;
    while changes.try_recv().is_ok() {}
    script.answer("a", Ok("2"));
    let began = Instant::now();
    refs.trigger("a");
    changes.recv().await.unwrap();
    changes.recv().await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!((script.requests("a"), script.requests("b")), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fixed_commit_is_requested_once() {
    let script = Script::default();
    script.answer("a", Ok("1"));
    let (refs, _changes) = start(&script);
    refs.track([RefKey { git_url: "a".to_owned(), reference: GitReference::Commit("1".to_owned()) }]);
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(script.requests("a"), 1);
}
