//! Real git, and hosts that redirect.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use codeloc_core::ids::Commit;
use codeloc_crds::GitReference;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::GitSettings;
use crate::commit::Author;

const COMMIT: &str = "0123456789012345678901234567890123456789";
/// `x-access-token:hunter2`
const CREDENTIALS: &str = "eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==";
const SERVICE: &str = "info/refs?service=git-upload-pack";

/// A git host that answers each path from a script, and records the requests.
struct Host {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

enum Answer {
    Redirect(String),
    /// One branch, `main`.
    References,
    /// Protocol version 2, with which git sends a second request.
    Capabilities,
}

fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

impl Answer {
    fn response(&self) -> String {
        let service = format!("{}0000", packet("# service=git-upload-pack\n"));
        let body = match self {
            Self::Redirect(target) => {
                return format!(
                    "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
            Self::References => {
                let head = packet(&format!("{COMMIT} HEAD\0symref=HEAD:refs/heads/main agent=test\n"));
                format!("{service}{head}{}0000", packet(&format!("{COMMIT} refs/heads/main\n")))
            }
            Self::Capabilities => format!("{service}{}{}0000", packet("version 2\n"), packet("ls-refs\n")),
        };
        let kind = "application/x-git-upload-pack-advertisement";
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

impl Host {
    async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                // git closes the connection as soon as it has read enough.
                if let Some(request) = head(&mut connection).await {
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    recorded.lock().unwrap().push(request);
                    let _ = connection.write_all(answer(&path).response().as_bytes()).await;
                }
            }
        });
        Self { port, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn head(connection: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await.ok()?);
    }
    Some(String::from_utf8(request).unwrap())
}

/// A git that rewrites `https://example.com/` to `base` and has a token for the URLs below `prefix`.
fn git(folder: &Path, base: &str, prefix: &str) -> Git {
    let token = folder.join("token");
    std::fs::write(&token, "hunter2\n").unwrap();
    Git::new(GitSettings {
        program: "git".into(),
        home: folder.join("home"),
        url_rewrites: BTreeMap::from([("https://example.com/".to_owned(), base.to_owned())]),
        tokens: BTreeMap::from([(prefix.to_owned(), token)]),
        allow_local: false,
        timeout: Duration::from_mins(1),
    })
}

/// The errors of all operations that reach a remote.
async fn failures(git: &Git, folder: &Path, url: &str) -> Vec<GitError> {
    let bare = folder.join("bare.git");
    let main = GitReference::Branch("main".to_owned());
    let author = Author { name: "Ada".to_owned(), email: "ada@example.com".to_owned() };
    let failures = vec![
        git.ls_remote(url, &main).await.unwrap_err(),
        git.default_branch(url).await.unwrap_err(),
        git.fetch_commit(&bare, url, &Commit::from(COMMIT)).await.unwrap_err(),
    ];
    let empty = git.reading(&bare).arguments(["hash-object", "-t", "tree", "-w", "/dev/null"]).run().await.unwrap();
    let tree = String::from_utf8(empty.stdout).unwrap();
    let committed = git.reading(&bare).arguments(["commit-tree", tree.trim(), "-m", "first"]).environment([
        ("GIT_AUTHOR_NAME", &author.name),
        ("GIT_AUTHOR_EMAIL", &author.email),
        ("GIT_COMMITTER_NAME", &author.name),
        ("GIT_COMMITTER_EMAIL", &author.email),
    ]);
    let commit = String::from_utf8(committed.run().await.unwrap().stdout).unwrap();
    let pushed = git.push(&bare, url, &Commit::from(commit.trim()), "main").await.unwrap_err();
    failures.into_iter().chain([pushed]).collect()
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_request() {
    let elsewhere = Host::start(|_| Answer::Capabilities).await;
    let port = elsewhere.port;
    for scheme in ["http:", ""] {
        let host = Host::start(move |path| Answer::Redirect(format!("{scheme}//localhost:{port}{path}"))).await;
        let plain = format!("http://127.0.0.1:{}/", host.port);
        let with_user = format!("http://me:hunter2@127.0.0.1:{}/", host.port);
        for (base, token) in [(&plain, &plain), (&plain, &"https://none.example/".to_owned()), (&with_user, &plain)] {
            let folder = tempfile::tempdir().unwrap();
            let git = git(folder.path(), base, token);
            for error in failures(&git, folder.path(), "https://example.com/team/x.git").await {
                let GitError::Redirected { host, .. } = &error else { panic!("{error}") };
                assert_eq!(*host, format!("localhost:{port}"));
                let text = format!("{error} {error:?}");
                assert!(text.contains("git_url") && text.contains("/team/x.git"), "{text}");
                assert!(!text.contains("hunter2") && !text.contains(CREDENTIALS), "{text}");
                assert!(error.is_transient(), "a host may redirect for an hour of maintenance");
            }
        }
        assert!(host.requests().iter().any(|request| request.contains(CREDENTIALS)), "{:?}", host.requests());
    }
    assert_eq!(elsewhere.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_renamed_repository_uses_the_token_of_its_new_url() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start(|path| match path.split_once("/info/") {
        Some(("/old/x", _)) => Answer::Redirect(format!("/old/x.git/{SERVICE}")),
        Some(("/old/x.git", _)) => Answer::Redirect(format!("/new/x.git/{SERVICE}")),
        _ => Answer::References,
    })
    .await;
    let base = format!("http://127.0.0.1:{}/", host.port);
    let main = GitReference::Branch("main".to_owned());
    for (prefix, path_with_token) in [("old", "/old/"), ("new/", "/new/")] {
        let git = git(folder.path(), &base, &format!("{base}{prefix}"));
        assert_eq!(git.ls_remote("https://example.com/old/x", &main).await.unwrap(), COMMIT);
        let requests: Vec<_> = std::mem::take(&mut *host.requests.lock().unwrap());
        assert!(requests.last().unwrap().starts_with("GET /new/x.git/"), "{requests:?}");
        for request in requests {
            assert_eq!(request.contains(CREDENTIALS), request[4..].starts_with(path_with_token), "{request}");
        }
    }
}

#[tokio::test]
async fn redirects_to_a_page_or_without_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start(|path| match path.split_once("/info/") {
        Some(("/round", _)) => Answer::Redirect(path.to_owned()),
        _ => Answer::Redirect("/users/sign_in".to_owned()),
    })
    .await;
    let git = git(folder.path(), &format!("http://127.0.0.1:{}/", host.port), "https://none.example/");
    let main = GitReference::Branch("main".to_owned());
    let error = git.ls_remote("https://example.com/x.git", &main).await.unwrap_err();
    assert!(matches!(error, GitError::Redirected { .. }), "{error}");
    let error = git.ls_remote("https://example.com/round", &main).await.unwrap_err().to_string();
    assert!(error.contains("redirects more than 3 times"), "{error}");
}

#[test]
fn an_error_names_only_the_host_of_a_redirect() {
    let place = Remote::of_config("https://git.example.com/team/x.git", false).unwrap();
    for (location, expected) in [
        ("https://evil.example/x.git/info/refs?service=git-upload-pack", "evil.example"),
        ("https://me:hunter2@Evil.Example:8443/x?token=hunter2", "evil.example:8443"),
        ("//evil.example#hunter2", "evil.example"),
        ("https://evil.example\\@git.example.com/x.git/info/refs?service=git-upload-pack", "evil.example"),
        (
            "https://git.example.com.evil.example/team/x.git/info/refs?service=git-upload-pack",
            "git.example.com.evil.example",
        ),
        ("http://git.example.com/team/x.git/info/refs?service=git-upload-pack", "git.example.com"),
        ("https://git.example.com:444/team/x.git/info/refs?service=git-upload-pack", "git.example.com:444"),
        ("https://ev\u{1b};il/x", "evil"),
        ("elsewhere", "git.example.com"),
    ] {
        let refused = place.moved_to(location).err().unwrap_or_else(|| panic!("{location}"));
        let GitError::Redirected { host, .. } = &refused else { panic!("{refused}") };
        assert_eq!(host, expected, "{location}");
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
    for location in ["https://GIT.example.com:443/new/x.git/", "/new/x.git/", "//git.example.com/new/x.git/"] {
        let moved = place.moved_to(&format!("{location}{SERVICE}")).unwrap();
        assert_eq!(moved.url, "https://git.example.com/new/x.git");
    }
}

#[test]
fn the_last_location_of_a_trace_counts() {
    let trace = "12:00 <= Recv header: Location: /old\n12:00 <= Recv header: HTTP/1.1 302\n12:00 <= Recv header: location: /new\n";
    assert_eq!(location(trace), Some("/new"));
    assert_eq!(location("12:00 => Send header: Location: /x\n"), None);
}

#[test]
fn a_redirect_is_known_by_its_status() {
    assert!(is_redirect("unable to access 'https://host/x/': The requested URL returned error: 301"));
    assert!(!is_redirect("unable to access 'https://host/x/': The requested URL returned error: 404"));
}
