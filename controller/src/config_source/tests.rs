//! Tests with real git in temporary folders. They wait for changes of the published state and do not sleep.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use codeloc_core::ids::Commit;
use codeloc_crds::{GitReference, LocationName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use codeloc_git::{Git, GitSettings};

use super::*;

mod inspecting;

/// More time than any step needs.
const LONG: Duration = Duration::from_mins(1);
/// Longer than any test, so that only an event or a trigger can cause a reading.
const NEVER: Duration = Duration::from_hours(1);

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> GitSettings {
        GitSettings {
            program: "git".into(),
            home: self.path("home"),
            url_rewrites: BTreeMap::new(),
            tokens: BTreeMap::new(),
            allow_local: true,
            timeout: LONG,
        }
    }

    fn git(&self) -> Git {
        Git::new(self.settings())
    }

    /// A repository with one commit on `main`.
    fn origin(&self) -> Origin {
        let origin = Origin { path: self.path("origin") };
        std::fs::create_dir_all(&origin.path).unwrap();
        origin.git(&["init", "--quiet", "--initial-branch=main"]);
        origin.config("one", "");
        origin.commit("first");
        origin
    }

    fn remote(&self, origin: &Origin) -> SourceSettings {
        SourceSettings::Git {
            url: origin.url(),
            reference: GitReference::Branch("main".to_owned()),
            folder: "repos".to_owned(),
            work: self.path("work"),
            interval: NEVER,
        }
    }
}

struct Origin {
    path: PathBuf,
}

impl Origin {
    fn url(&self) -> String {
        self.path.display().to_string()
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn config(&self, name: &str, more: &str) {
        write_config(&self.path.join("repos"), name, more);
    }

    /// Commits everything and returns the commit.
    fn commit(&self, message: &str) -> Commit {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.head()
    }

    fn head(&self) -> Commit {
        Commit::from(self.git(&["rev-parse", "HEAD"]))
    }
}

fn write_config(root: &Path, name: &str, more: &str) {
    std::fs::create_dir_all(root.join(name)).unwrap();
    let text = format!("name: {name}\ngit_url: https://example.com/x.git\nmodule: x\n{more}");
    std::fs::write(root.join(name).join("config.yml"), text).unwrap();
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.locations.keys().map(LocationName::as_str).collect()
}

fn cpu(snapshot: &Snapshot, name: &str) -> Option<u32> {
    let outcome = snapshot.locations.get(&LocationName::new(name).unwrap())?;
    outcome.as_ref().ok().map(|location| location.resources.cpu)
}

async fn wait_for(handle: &mut SourceHandle, expected: impl FnMut(&SourceState) -> bool) -> SourceState {
    tokio::time::timeout(LONG, handle.state.wait_for(expected)).await.expect("in time").unwrap().clone()
}

async fn wait_for_snapshot(handle: &mut SourceHandle, mut expected: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
    let state = wait_for(handle, |state| state.snapshot.as_deref().is_some_and(&mut expected)).await;
    state.snapshot.unwrap()
}

#[tokio::test]
async fn an_edit_in_a_folder_is_read_before_the_interval() {
    let fixture = Fixture::new();
    let root = fixture.path("repos");
    write_config(&root, "one", "");
    let settings = SourceSettings::Folder { root: root.clone(), interval: NEVER };
    let mut handle = watch(settings, fixture.git());
    let first = wait_for_snapshot(&mut handle, |_| true).await;
    assert_eq!((names(&first), first.commit.as_ref()), (vec!["one"], None));

    write_config(&root, "one", "resources: {cpu: 512, memory: 1024}\n");
    wait_for_snapshot(&mut handle, |snapshot| cpu(snapshot, "one") == Some(512)).await;

    write_config(&root, "two", "");
    wait_for_snapshot(&mut handle, |snapshot| names(snapshot) == ["one", "two"]).await;

    std::fs::remove_dir_all(root.join("one")).unwrap();
    wait_for_snapshot(&mut handle, |snapshot| names(snapshot) == ["two"]).await;
}

#[tokio::test]
async fn an_invalid_config_leaves_the_others_unchanged() {
    let fixture = Fixture::new();
    let root = fixture.path("repos");
    write_config(&root, "one", "");
    write_config(&root, "two", "");
    let mut handle = watch(SourceSettings::Folder { root: root.clone(), interval: NEVER }, fixture.git());
    wait_for_snapshot(&mut handle, |snapshot| names(snapshot).len() == 2).await;
    write_config(&root, "two", "branch: [");
    let snapshot = wait_for_snapshot(&mut handle, |snapshot| cpu(snapshot, "two").is_none()).await;
    assert_eq!(cpu(&snapshot, "one"), Some(256));
    let two = &snapshot.locations[&LocationName::new("two").unwrap()];
    assert!(two.as_ref().unwrap_err().rendered.contains("repos/two/config.yml:4:9"), "{two:?}");
}

#[tokio::test]
async fn a_missing_folder_keeps_its_last_snapshot() {
    let fixture = Fixture::new();
    let root = fixture.path("repos");
    write_config(&root, "one", "");
    let mut handle = watch(SourceSettings::Folder { root: root.clone(), interval: NEVER }, fixture.git());
    wait_for_snapshot(&mut handle, |_| true).await;

    std::fs::rename(&root, fixture.path("elsewhere")).unwrap();
    handle.trigger();
    let state = wait_for(&mut handle, |state| state.failure.is_some()).await;
    assert_eq!(names(&state.snapshot.unwrap()), ["one"]);
    assert!(state.failure.unwrap().message.contains("cannot read the folder of configs"));

    std::fs::rename(fixture.path("elsewhere"), &root).unwrap();
    handle.trigger();
    wait_for(&mut handle, |state| state.failure.is_none()).await;
    write_config(&root, "two", "");
    wait_for_snapshot(&mut handle, |snapshot| names(snapshot) == ["one", "two"]).await;
}

#[tokio::test]
async fn a_folder_that_never_existed_has_no_snapshot() {
    let fixture = Fixture::new();
    let mut handle = watch(SourceSettings::Folder { root: fixture.path("none"), interval: NEVER }, fixture.git());
    let state = wait_for(&mut handle, |state| state.failure.is_some()).await;
    assert!(state.snapshot.is_none());
}

#[tokio::test]
async fn only_a_clean_checkout_has_a_commit() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let commit = origin.head();
    let settings = SourceSettings::Folder { root: origin.path.join("repos"), interval: NEVER };
    let clean = read_once(settings.clone(), fixture.git()).await.unwrap();
    assert_eq!(clean.commit, Some(commit));
    origin.config("one", "adopt: true\n");
    assert_eq!(read_once(settings, fixture.git()).await.unwrap().commit, None);
}

#[tokio::test]
async fn commits_and_forced_pushes_are_read_whole() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let first = origin.head();
    let mut handle = watch(fixture.remote(&origin), fixture.git());
    let snapshot = wait_for_snapshot(&mut handle, |_| true).await;
    assert_eq!((names(&snapshot), snapshot.commit.as_ref()), (vec!["one"], Some(&first)));

    origin.config("two", "");
    origin.config("one", "resources: {cpu: 512, memory: 1024}\n");
    let second = origin.commit("second");
    handle.trigger();
    let snapshot = wait_for_snapshot(&mut handle, |snapshot| snapshot.commit.as_ref() == Some(&second)).await;
    assert_eq!((names(&snapshot), cpu(&snapshot, "one")), (vec!["one", "two"], Some(512)));
    let work = fixture.path("work");
    assert_eq!(std::fs::read_link(work.join("current")).unwrap(), Path::new(second.as_str()));
    assert!(work.join("current/repos/two/config.yml").is_file());
    assert!(!work.join(first.as_str()).exists());

    origin.git(&["reset", "--quiet", "--hard", &first]);
    origin.config("three", "");
    let forced = origin.commit("another second");
    handle.trigger();
    let snapshot = wait_for_snapshot(&mut handle, |snapshot| snapshot.commit.as_ref() == Some(&forced)).await;
    assert_eq!(names(&snapshot), ["one", "three"]);
}

#[tokio::test]
async fn an_unreadable_remote_keeps_the_last_snapshot() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let mut handle = watch(fixture.remote(&origin), fixture.git());
    let good = wait_for_snapshot(&mut handle, |_| true).await;

    origin.git(&["mv", "repos", "renamed"]);
    let moved = origin.commit("the folder moves");
    handle.trigger();
    let state = wait_for(&mut handle, |state| state.failure.is_some()).await;
    assert_eq!(state.snapshot.as_ref(), Some(&good));
    let failure = state.failure.unwrap();
    assert!(failure.message.contains("folder repos") && failure.message.contains(moved.as_str()), "{failure:?}");

    std::fs::rename(&origin.path, fixture.path("away")).unwrap();
    handle.trigger();
    let gone = |state: &SourceState| state.failure.as_ref().is_some_and(|now| now.message != failure.message);
    let state = wait_for(&mut handle, gone).await;
    assert_eq!(state.snapshot.as_ref(), Some(&good));
    assert_eq!(state.failure.unwrap().since, failure.since);
}

#[tokio::test]
async fn links_in_a_remote_are_refused() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    std::fs::create_dir(origin.path.join("repos/two")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", origin.path.join("repos/two/config.yml")).unwrap();
    origin.commit("a link");
    let snapshot = read_once(fixture.remote(&origin), fixture.git()).await.unwrap();
    let two = &snapshot.locations[&LocationName::new("two").unwrap()];
    assert!(two.as_ref().unwrap_err().message.contains("symbolic link"), "{two:?}");
    assert!(cpu(&snapshot, "one").is_some());
}

#[tokio::test]
async fn an_unfinished_checkout_is_repeated() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let work = fixture.path("work");
    std::fs::create_dir_all(work.join("unfinished/repos/one")).unwrap();
    std::fs::create_dir_all(work.join("objects.git")).unwrap();
    std::fs::write(work.join("objects.git/shallow.lock"), "").unwrap();
    std::fs::write(work.join("unfinished.index"), "rubbish").unwrap();
    let snapshot = read_once(fixture.remote(&origin), fixture.git()).await.unwrap();
    assert_eq!(names(&snapshot), ["one"]);
}

#[tokio::test]
async fn branches_tags_and_commits_resolve() {
    let fixture = Fixture::new();
    let (git, origin) = (fixture.git(), fixture.origin());
    let first = origin.head();
    origin.git(&["tag", "light"]);
    origin.git(&["tag", "--annotate", "--message", "x", "heavy"]);
    origin.git(&["branch", "feature/x"]);
    origin.config("two", "");
    let second = origin.commit("second");
    // A branch whose name ends with the name of the other.
    origin.git(&["branch", "other/refs/heads/feature/x"]);
    let resolve = async |reference| git.ls_remote(&origin.url(), &reference).await;
    assert_eq!(resolve(GitReference::Branch("main".into())).await, Ok(second));
    assert_eq!(resolve(GitReference::Branch("feature/x".into())).await, Ok(first.clone()));
    assert_eq!(resolve(GitReference::Tag("light".into())).await, Ok(first.clone()));
    assert_eq!(resolve(GitReference::Tag("heavy".into())).await, Ok(first.clone()));
    assert_eq!(resolve(GitReference::Commit(first.to_string())).await, Ok(first));

    let missing = resolve(GitReference::Branch("none".into())).await.unwrap_err();
    assert!(matches!(missing, GitError::ReferenceNotFound { .. }) && !missing.is_transient(), "{missing}");
    let option = resolve(GitReference::Branch("--upload-pack=id".into())).await.unwrap_err();
    assert!(matches!(option, GitError::ReferenceNotFound { .. }), "{option}");
    let reference = GitReference::Branch("main".into());
    let gone = git.ls_remote(&fixture.path("none").display().to_string(), &reference).await.unwrap_err();
    assert!(matches!(gone, GitError::RepositoryNotFound { .. }) && !gone.is_transient(), "{gone}");
}

#[tokio::test]
async fn a_commit_without_a_branch_is_fetched_once() {
    let fixture = Fixture::new();
    let (git, origin) = (fixture.git(), fixture.origin());
    let first = origin.head();
    origin.config("two", "");
    let second = origin.commit("second");
    let bare = fixture.path("bare.git");
    git.fetch_commit(&bare, &origin.url(), &first).await.unwrap();
    let reference = GitReference::Branch("main".into());
    assert_eq!(git.fetch_ref(&bare, &origin.url(), &reference).await, Ok(second));

    std::fs::rename(&origin.path, fixture.path("away")).unwrap();
    git.fetch_commit(&bare, &origin.url(), &first).await.unwrap();
    let unknown = Commit::from("0123456789012345678901234567890123456789");
    std::fs::rename(fixture.path("away"), &origin.path).unwrap();
    let error = git.fetch_commit(&bare, &origin.url(), &unknown).await.unwrap_err();
    assert!(matches!(error, GitError::ReferenceNotFound { .. }), "{error}");
}

#[tokio::test]
async fn the_longest_rewrite_applies_and_may_be_local() {
    let fixture = Fixture::new();
    let origin = fixture.origin();
    let local = format!("{}/", fixture.folder.path().display());
    let git = Git::new(GitSettings {
        url_rewrites: BTreeMap::from([
            ("https://example.com/".to_owned(), "https://mirror.example.com/".to_owned()),
            ("https://example.com/samples/".to_owned(), local.clone()),
        ]),
        allow_local: false,
        ..fixture.settings()
    });
    assert_eq!(git.rewrite("https://example.com/x.git"), "https://mirror.example.com/x.git");
    assert_eq!(git.rewrite("https://example.org/x.git"), "https://example.org/x.git");
    assert_eq!(git.rewrite("https://example.com/samples/origin"), format!("{local}origin"));
    let main = GitReference::Branch("main".into());
    assert!(git.ls_remote("https://example.com/samples/origin", &main).await.is_ok());

    let refused = git.ls_remote(&origin.url(), &main).await.unwrap_err();
    assert!(matches!(refused, GitError::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn forbidden_urls_are_refused_before_git_runs() {
    let fixture = Fixture::new();
    let git = Git::new(GitSettings { program: "/nonexistent/git".into(), ..fixture.settings() });
    let main = GitReference::Branch("main".into());
    for url in [
        "ext::sh -c id",
        "http://127.0.0.1/x",
        "--upload-pack=id",
        "relative",
        "https://127.0.0.1/x\ny",
        "ftp://127.0.0.1/x",
    ] {
        let error = git.ls_remote(url, &main).await.unwrap_err();
        assert!(matches!(error, GitError::Refused { .. }), "{url}: {error}");
    }
    let error = git.ls_remote("https://127.0.0.1/x", &main).await.unwrap_err();
    assert!(matches!(error, GitError::Start { .. }), "{error}");
}

#[tokio::test]
async fn credentials_are_masked_in_errors_of_git() {
    // A port without a listener: bound and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fixture = Fixture::new();
    let url = format!("https://me:hunter2@127.0.0.1:{port}/x.git");
    let error = fixture.git().ls_remote(&url, &GitReference::Branch("main".into())).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hunter2") && text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn a_timeout_ends_git_and_its_children() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fixture = Fixture::new();
    let git = Git::new(GitSettings { timeout: Duration::from_millis(500), ..fixture.settings() });
    let url = format!("https://{}/x.git", listener.local_addr().unwrap());
    let error = git.ls_remote(&url, &GitReference::Branch("main".into())).await.unwrap_err();
    assert!(matches!(error, GitError::TimedOut { .. }), "{error}");
    // The child process with the connection has ended, so reading ends.
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (mut connection, _) = tokio::time::timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let mut sink = tokio::io::sink();
    let drained = tokio::time::timeout(LONG, tokio::io::copy(&mut connection, &mut sink)).await;
    // A reset ends it too.
    assert!(drained.is_ok(), "the connection is still open");
}

/// Answers one request with 404 and returns the request.
async fn answer_not_found(listener: &tokio::net::TcpListener) -> String {
    let (mut connection, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await.unwrap());
    }
    let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    connection.write_all(answer).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn a_token_is_sent_only_to_its_urls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let fixture = Fixture::new();
    std::fs::write(fixture.path("token"), "hunter2\n").unwrap();
    let git = Git::new(GitSettings {
        url_rewrites: BTreeMap::from([("https://example.com/".to_owned(), base.clone())]),
        tokens: BTreeMap::from([(format!("{base}private"), fixture.path("token"))]),
        ..fixture.settings()
    });
    let main = GitReference::Branch("main".into());
    for (path, expected) in [("private/x", true), ("private-not/x", false)] {
        let url = format!("https://example.com/{path}");
        let (answer, request) = tokio::join!(git.ls_remote(&url, &main), answer_not_found(&listener));
        let error = answer.unwrap_err();
        assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error}");
        // x-access-token:hunter2
        let header = "Authorization: Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==";
        assert_eq!(request.contains(header), expected, "{request}");
    }
    std::fs::remove_file(fixture.path("token")).unwrap();
    let error = git.ls_remote("https://example.com/private/x", &main).await.unwrap_err();
    assert!(matches!(error, GitError::Token { .. }), "{error}");
}
