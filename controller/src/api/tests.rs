use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::request::Builder;
use codeloc_core::ids::Commit;
use codeloc_core::status::LocationStatus;
use codeloc_crds::LocationName;
use codeloc_git::commit::Author;
use codeloc_git::{Git, GitSettings};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::*;
use crate::config_source::SourceSettings;
use crate::config_source::write::{Change, WriteError, Writer};
use crate::cost::Cost;
use crate::fixtures::location_name;
use crate::runtime::Clock;
use crate::status::Recorder;
use crate::status::metrics::Scrape;

mod crowd;
mod streams;
mod writes;

const WRITE: &str = "0123456789abcdefghij-write";
const READ: &str = "0123456789abcdefghij-read";

/// A daemon that has only a folder of configs.
struct Daemon {
    recorder: Recorder,
    writer: Writer,
    statuses: Mutex<BTreeMap<String, LocationStatus>>,
    triggered: Mutex<Vec<String>>,
    readiness: Mutex<Readiness>,
    /// Each write takes one permit.
    writes: Semaphore,
    /// Writes that began.
    pending: AtomicUsize,
    /// Writes that ended.
    written: AtomicUsize,
    /// The errors of the next writes.
    write_errors: Mutex<VecDeque<WriteError>>,
    /// The pages of the next reads of a log that a client follows, after three lines. Without pages, nothing is new.
    log_pages: Mutex<VecDeque<LogPage>>,
    /// The arguments of these reads.
    log_reads: Mutex<Vec<(i64, Option<String>)>>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let git = Git::new(GitSettings {
            program: PathBuf::from("git"),
            home: folder.path().join("home"),
            url_rewrites: BTreeMap::new(),
            tokens: BTreeMap::new(),
            allow_local: false,
            timeout: Duration::from_mins(1),
        });
        let settings = SourceSettings::Folder { root: folder.path().to_owned(), interval: Duration::from_hours(1) };
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let mut status = LocationStatus::unknown("orders", "in sync".to_owned(), now);
        status.commit = Some(Commit::from("b".repeat(40)));
        status.previous_commit = Some(Commit::from("a".repeat(40)));
        Arc::new(Self {
            recorder: Recorder::new(Clock::starting_at(now)),
            writer: Writer::new(&settings, git, folder.path().join("unused")),
            statuses: Mutex::new([("orders".to_owned(), status)].into()),
            triggered: Mutex::default(),
            readiness: Mutex::new(Readiness { ready: true, fault: None }),
            writes: Semaphore::new(1000),
            pending: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            write_errors: Mutex::default(),
            log_pages: Mutex::default(),
            log_reads: Mutex::default(),
            _folder: folder,
        })
    }
}

impl Control for Daemon {
    fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    fn statuses(&self) -> Vec<LocationStatus> {
        self.statuses.lock().unwrap().values().cloned().collect()
    }

    fn status(&self, name: &str) -> Option<LocationStatus> {
        self.statuses.lock().unwrap().get(name).cloned()
    }

    fn daemon(&self) -> DaemonStatus {
        DaemonStatus {
            version: "1".to_owned(),
            deployment: "test".to_owned(),
            mode: "enforce".to_owned(),
            lease: "held".to_owned(),
            commit: None,
            now: None,
            as_of: None,
            fault: None,
        }
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }

    fn scrape(&self) -> Scrape {
        Scrape { lease: "held", ..Scrape::default() }
    }

    fn costs(&self) -> Vec<Cost> {
        vec![]
    }

    fn trigger(&self, name: Option<&LocationName>) {
        self.triggered.lock().unwrap().push(name.map_or("everything", LocationName::as_str).to_owned());
    }

    fn abandon_runs(&self, name: &LocationName) {
        self.triggered.lock().unwrap().push(format!("without the runs of {name}"));
    }

    fn retry(&self, name: &LocationName) {
        self.triggered.lock().unwrap().push(format!("{name} again"));
    }

    fn pushed(&self, urls: &[RepositoryUrl]) -> usize {
        let own = RepositoryUrl::parse("git@github.com:Shop/Orders.git");
        urls.iter().filter(|url| url.is_same(&own)).count()
    }

    fn plan<'a>(&'a self, _name: &'a LocationName) -> Call<'a, Result<Value, PlanError>> {
        Box::pin(async { Err(PlanError("ecs:DescribeServices: no answer".to_owned())) })
    }

    fn logs<'a>(&'a self, _name: &'a LocationName, selection: Logs) -> Call<'a, Result<Vec<Line>, PlanError>> {
        let lines = [1, 2, 3].map(line).into_iter().filter(|line| selection.after.is_none_or(|after| line.at > after));
        let lines = lines.collect();
        Box::pin(async { Ok(lines) })
    }

    fn log_page<'a>(
        &'a self,
        _name: &'a LocationName,
        from: i64,
        page: Option<String>,
    ) -> Call<'a, Result<LogPage, PlanError>> {
        self.log_reads.lock().unwrap().push((from, page));
        let page = self.log_pages.lock().unwrap().pop_front();
        Box::pin(async { Ok(page.unwrap_or_default()) })
    }

    fn config<'a>(&'a self, name: &'a LocationName) -> Call<'a, Result<Option<String>, WriteError>> {
        Box::pin(self.writer.read(name))
    }

    fn write<'a>(
        &'a self,
        name: &'a LocationName,
        change: &'a Change,
        message: &'a str,
        author: &'a Author,
    ) -> Call<'a, Result<crate::config_source::write::Written, WriteError>> {
        Box::pin(async move {
            self.pending.fetch_add(1, Ordering::Relaxed);
            self.writes.acquire().await.unwrap().forget();
            self.written.fetch_add(1, Ordering::Relaxed);
            let error = self.write_errors.lock().unwrap().pop_front();
            match error {
                Some(error) => Err(error),
                None => self.writer.write(name, change, message, author).await,
            }
        })
    }
}

fn line(at: i64) -> Line {
    Line { id: format!("id{at}"), at, stream: "task".to_owned(), text: format!("line {at}") }
}

struct Answer {
    status: StatusCode,
    kind: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

async fn ask(router: &Router, request: Builder, body: &str) -> Answer {
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let bytes = to_bytes(response.into_body(), 10_000_000).await.unwrap();
    Answer { status, kind, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

fn get_of(path: &str) -> Builder {
    Request::get(path).header("host", "127.0.0.1:8080")
}

fn with(method: &str, path: &str) -> Builder {
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080");
    request.header("content-type", "application/json")
}

fn open(daemon: &Arc<Daemon>) -> Router {
    router(daemon.clone(), Access::Loopback, Secret::default())
}

fn config() -> String {
    json!({"name": "new", "git_url": "https://example.com/new.git", "module": "new"}).to_string()
}

#[tokio::test]
async fn readiness_shows_faults_even_if_the_daemon_is_ready() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let cases = [
        (true, None, StatusCode::OK, "ok\n"),
        (true, Some("no webserver"), StatusCode::OK, "ok\nno webserver\n"),
        (false, Some("no AWS\nno webserver"), StatusCode::SERVICE_UNAVAILABLE, "no AWS\nno webserver\n"),
    ];
    for (ready, fault, status, text) in cases {
        *daemon.readiness.lock().unwrap() = Readiness { ready, fault: fault.map(str::to_owned) };
        let answer = ask(&router, get_of("/readyz"), "").await;
        assert_eq!((answer.status, answer.text.as_str()), (status, text));
    }
}

#[tokio::test]
async fn every_write_changes_the_config() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let added = ask(&router, with("POST", "/v1/locations"), &config()).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    let again = ask(&router, with("POST", "/v1/locations"), &config()).await;
    assert_eq!((again.status, again.kind.as_str()), (StatusCode::CONFLICT, "application/problem+json"));
    // The daemon knows a location after its first observation.
    let now = jiff::Timestamp::from_second(1).unwrap();
    let mut status = LocationStatus::unknown("new", String::new(), now);
    status.previous_commit = Some(Commit::from("b".repeat(40)));
    daemon.statuses.lock().unwrap().insert("new".to_owned(), status);

    let changed =
        ask(&router, with("PATCH", "/v1/locations/new"), r#"{"resources": {"cpu": 512, "memory": 1024}}"#).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    let suspended = ask(&router, with("POST", "/v1/locations/new/suspend"), "").await;
    assert_eq!(suspended.status, StatusCode::OK, "{}", suspended.text);
    let rolled = ask(&router, with("POST", "/v1/locations/new/rollback"), "").await;
    assert_eq!(rolled.status, StatusCode::OK, "{}", rolled.text);
    let config = ask(&router, get_of("/v1/locations/new/config"), "").await;
    assert_eq!(config.kind, "application/yaml");
    assert!(
        config.text.contains("resources: {cpu: 512, memory: 1024}\nmode: suspended\ncommit: bbbb"),
        "{}",
        config.text
    );
    let removed = ask(&router, with("DELETE", "/v1/locations/new"), "").await;
    assert_eq!((removed.status, &removed.json()["config"]), (StatusCode::OK, &Value::Null));
    let gone = ask(&router, with("DELETE", "/v1/locations/new"), "").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert_eq!(daemon.triggered.lock().unwrap().len(), 5);
    let reasons: Vec<_> = daemon.recorder.events.list(|_| true).into_iter().map(|event| event.message).collect();
    assert_eq!(reasons[0], "codeloc: Add location new");
    assert_eq!(reasons.len(), 5);
}

#[tokio::test]
async fn resuming_restores_the_previous_mode() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    for mode in ["", "mode: enforce\n", "mode: detect\n"] {
        let text = format!("name: new\ngit_url: https://example.com/new.git\nmodule: new\n{mode}");
        let yaml = get_of("/v1/locations").method("POST").header("content-type", "application/yaml");
        assert_eq!(ask(&router, yaml, &text).await.status, StatusCode::CREATED);
        // Twice: the second request must not store `suspended` as the previous mode.
        for _ in 0..2 {
            let suspended = ask(&router, with("POST", "/v1/locations/new/suspend"), "").await.json();
            assert!(suspended["config"].as_str().unwrap().contains("mode: suspended\n"), "{suspended}");
        }
        let resumed = ask(&router, with("POST", "/v1/locations/new/resume"), "").await.json();
        assert_eq!((resumed["config"].as_str(), &resumed["changed"]), (Some(text.as_str()), &json!(true)));
        let again = ask(&router, with("POST", "/v1/locations/new/resume"), "").await.json();
        assert_eq!((again["config"].as_str(), &again["changed"]), (Some(text.as_str()), &json!(false)));
        assert_eq!(ask(&router, with("DELETE", "/v1/locations/new"), "").await.status, StatusCode::OK);
    }
    assert_eq!(ask(&router, with("POST", "/v1/locations/new/resume"), "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_retry_looks_for_the_image_of_a_known_location() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    for (name, status) in [("orders", StatusCode::ACCEPTED), ("unknown", StatusCode::NOT_FOUND)] {
        let path = format!("/v1/locations/{name}/retry");
        assert_eq!(ask(&router, with("POST", &path), "").await.status, status);
    }
    assert_eq!(*daemon.triggered.lock().unwrap(), ["orders again"]);
}

#[tokio::test]
async fn a_rollback_without_a_commit_uses_the_previous_one() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let text = "name: orders\ngit_url: https://example.com/orders.git\nmodule: orders\nbranch: main\n";
    let yaml = get_of("/v1/locations").method("POST").header("content-type", "application/yaml");
    assert_eq!(ask(&router, yaml, text).await.status, StatusCode::CREATED);
    let rolled = ask(&router, with("POST", "/v1/locations/orders/rollback"), "{}").await;
    let config = rolled.json()["config"].as_str().unwrap().to_owned();
    assert!(config.ends_with(&format!("module: orders\ncommit: {}\n", "a".repeat(40))), "{config}");

    daemon.statuses.lock().unwrap().get_mut("orders").unwrap().previous_commit = None;
    let refused = ask(&router, with("POST", "/v1/locations/orders/rollback"), "{}").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("set `commit`"), "{}", refused.text);
}

#[tokio::test]
async fn an_invalid_config_is_refused_with_file_line_and_hint() {
    let daemon = Daemon::new();
    let body = json!({"name": "new", "git_url": "https://example.com/new.git", "modul": "new"}).to_string();
    let answer = ask(&open(&daemon), with("POST", "/v1/locations"), &body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let config = answer.json()["config"].as_str().unwrap().to_owned();
    assert!(config.contains("new/config.yml:4") && config.contains("modul"), "{config}");
    assert!(daemon.triggered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn requests_need_a_token_its_role_and_the_own_origin() {
    let daemon = Daemon::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("write ada {WRITE}\nread grafana {READ}\n")).unwrap();
    let access = Access::new(Some(file.path().to_owned()), "0.0.0.0:80".parse().unwrap()).unwrap();
    let router = router(daemon.clone(), access, Secret::default());
    let bearer = |request: Builder, token: &str| request.header("authorization", format!("Bearer {token}"));

    for path in ["/v1/locations", "/metrics", "/v1/events", "/v1/costs", "/v1/status"] {
        assert_eq!(ask(&router, get_of(path), "").await.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(ask(&router, bearer(get_of(path), "wrong"), "").await.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(ask(&router, bearer(get_of(path), READ), "").await.status, StatusCode::OK, "{path}");
    }
    let refused = ask(&router, bearer(with("POST", "/v1/locations"), READ), &config()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(&router, with("POST", "/v1/sync"), "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&router, bearer(with("POST", "/v1/sync"), WRITE), "").await.status, StatusCode::ACCEPTED);
    for open in ["/healthz", "/readyz", "/openapi.json", "/"] {
        assert_eq!(ask(&router, get_of(open), "").await.status, StatusCode::OK, "{open}");
    }
    let foreign = bearer(with("POST", "/v1/sync"), WRITE).header("origin", "https://evil.example");
    assert_eq!(ask(&router, foreign, "").await.status, StatusCode::FORBIDDEN);
    let own = bearer(with("POST", "/v1/sync"), WRITE).header("origin", "http://127.0.0.1:8080");
    assert_eq!(ask(&router, own, "").await.status, StatusCode::ACCEPTED);
    let cross = bearer(get_of("/v1/locations"), READ).header("sec-fetch-site", "cross-site");
    assert_eq!(ask(&router, cross, "").await.status, StatusCode::FORBIDDEN);

    // A malformed line, as while an editor writes the file, changes nothing.
    std::fs::write(file.path(), format!("write ada {WRITE}\nread grafana\n")).unwrap();
    for (token, status) in [(WRITE, StatusCode::ACCEPTED), (READ, StatusCode::FORBIDDEN)] {
        assert_eq!(ask(&router, bearer(with("POST", "/v1/sync"), token), "").await.status, status);
    }
    // The tokens file was replaced: the old token is unknown.
    std::fs::write(file.path(), "write ada another-token-of-ada-0123\n").unwrap();
    assert_eq!(ask(&router, bearer(with("POST", "/v1/sync"), WRITE), "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn without_tokens_a_request_must_name_loopback() {
    let router = open(&Daemon::new());
    let status = async |request: Builder| ask(&router, request, "").await.status;
    for line in include_str!("../../../tests/fixtures/hosts.txt").lines().filter(|line| !line.starts_with('#')) {
        let (answer, host) = line.split_once(' ').unwrap();
        let expected = if answer == "allowed" { StatusCode::OK } else { StatusCode::FORBIDDEN };
        let host = axum::http::HeaderValue::from_bytes(host.as_bytes()).unwrap();
        assert_eq!(status(Request::get("/v1/locations").header("host", host)).await, expected, "{line}");
    }
    assert_eq!(status(Request::get("/v1/locations")).await, StatusCode::FORBIDDEN, "no host");
    assert_eq!(status(get_of("/v1/locations").header("host", "evil.example")).await, StatusCode::FORBIDDEN, "two");
    assert_eq!(status(get_of("http://evil.example/v1/locations")).await, StatusCode::FORBIDDEN, "another target");
}

#[tokio::test]
async fn invalid_requests_get_problem_documents() {
    let router = open(&Daemon::new());
    let large = " ".repeat(limits::MAX_BODY + 1);
    for (request, body, status) in [
        (with("POST", "/v1/locations"), large.as_str(), StatusCode::PAYLOAD_TOO_LARGE),
        (with("POST", "/v1/locations"), "{", StatusCode::UNPROCESSABLE_ENTITY),
        (with("POST", "/v1/locations"), "[]", StatusCode::UNPROCESSABLE_ENTITY),
        (
            get_of("/v1/locations").method("POST").header("content-type", "text/html"),
            "x",
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (with("PATCH", "/v1/locations/no..name"), "{}", StatusCode::UNPROCESSABLE_ENTITY),
        (get_of("/v1/locations/none"), "", StatusCode::NOT_FOUND),
        (get_of("/v1/locations/%ff"), "", StatusCode::BAD_REQUEST),
        (get_of("/v1/locations/orders/logs?lines=0"), "", StatusCode::BAD_REQUEST),
        (get_of("/v1/locations/orders/logs?lines=x"), "", StatusCode::BAD_REQUEST),
        (get_of("/v1/events?severity=loud"), "", StatusCode::BAD_REQUEST),
        (get_of("/v1/locations/orders/plan"), "", StatusCode::BAD_GATEWAY),
        (get_of("/v2"), "", StatusCode::NOT_FOUND),
        (with("PUT", "/v1/locations"), "", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let described = format!("{request:?}");
        let answer = ask(&router, request, body).await;
        assert_eq!(
            (answer.status, answer.kind.as_str()),
            (status, "application/problem+json"),
            "{described}: {}",
            answer.text
        );
        assert_eq!(answer.json()["status"], status.as_u16(), "{described}");
    }
}

#[tokio::test]
async fn logs_start_with_the_oldest_line() {
    let router = open(&Daemon::new());
    let answer = ask(&router, get_of("/v1/locations/orders/logs?after=1"), "").await;
    let texts: Vec<_> = answer.json().as_array().unwrap().iter().map(|line| line["text"].clone()).collect();
    assert_eq!(texts, ["line 2", "line 3"]);
}

#[tokio::test]
async fn only_a_signed_webhook_triggers() {
    let daemon = Daemon::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hush\n").unwrap();
    let secret = Secret::new(Some(file.path().to_owned())).unwrap();
    let router = router(daemon.clone(), Access::Loopback, secret);
    let body = json!({"repository": {"clone_url": "https://github.com/shop/orders.git"}}).to_string();
    let hook = |signature: &str| {
        with("POST", "/hooks/git").header("x-github-event", "push").header("x-hub-signature-256", signature)
    };
    let good = ask(&router, hook(&crate::runtime::signing::sign(body.as_bytes(), "hush")), &body).await;
    assert_eq!((good.status, &good.json()["triggered"]), (StatusCode::ACCEPTED, &json!(1)));
    let forged = ask(&router, hook(&crate::runtime::signing::sign(body.as_bytes(), "guess")), &body).await;
    assert_eq!(forged.status, StatusCode::UNAUTHORIZED);
    let gitlab = with("POST", "/hooks/git").header("x-gitlab-event", "Push Hook").header("x-gitlab-token", "hush");
    assert_eq!(ask(&router, gitlab, "{}").await.json()["triggered"], 0);
    let metrics = ask(&router, get_of("/metrics"), "").await.text;
    for line in [
        r#"codeloc_hooks_total{outcome="accepted",sender="github"} 1"#,
        r#"codeloc_hooks_total{outcome="refused",sender="github"} 1"#,
        r#"codeloc_hooks_total{outcome="ignored",sender="gitlab"} 1"#,
        r#"codeloc_http_requests_total{method="POST",route="/hooks/git",status="401"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
    }
}

#[test]
fn every_route_has_a_description_and_errors() {
    let described = serde_json::to_value(openapi()).unwrap();
    let paths = described["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 17);
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].is_string() || operation["description"].is_string(), "{method} {path}");
            assert!(operation["responses"]["401"].is_object(), "{method} {path}");
        }
    }
}
