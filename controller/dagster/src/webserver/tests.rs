use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use codeloc_core::dagster::Entry;
use tokio::net::TcpListener;

use super::*;
use crate::workspace_file::{Entries, Publisher};

/// A webserver that gives one answer to every request and records the requests.
async fn scripted(status: StatusCode, body: impl Into<String>) -> (GraphqlWebserver, Arc<Mutex<Vec<Value>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (recorded, body) = (Arc::clone(&requests), body.into());
    let answer = move |request: String| {
        recorded.lock().unwrap().push(serde_json::from_str(&request).unwrap());
        std::future::ready((status, body.clone()))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/graphql", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (GraphqlWebserver::new(&url, Duration::from_mins(1)), requests)
}

fn entry(name: &str, status: &str, location: &Value) -> Value {
    json!({"__typename": "WorkspaceLocationEntry", "name": name, "loadStatus": status, "locationOrLoadError": location})
}

#[tokio::test]
async fn the_type_decides_whether_a_location_is_loaded() {
    let body = json!({"data": {"workspaceOrError": {"__typename": "Workspace", "locationEntries": [
        entry("good", "LOADED", &json!({"__typename": "RepositoryLocation", "name": "good", "serverId": "revision-1"})),
        entry("old", "LOADED", &json!({"__typename": "RepositoryLocation", "serverId": null})),
        entry("broken", "LOADED", &json!({"__typename": "PythonError", "message": "Could not reach user code server.\n"})),
        entry("fresh", "LOADING", &Value::Null),
    ]}}});
    let (webserver, _) = scripted(StatusCode::OK, body.to_string()).await;
    let expected = BTreeMap::from([
        ("good".to_owned(), WebLocation::Loaded { server_id: Some("revision-1".into()) }),
        ("old".to_owned(), WebLocation::Loaded { server_id: None }),
        ("broken".to_owned(), WebLocation::Error { message: "Could not reach user code server.".into() }),
        ("fresh".to_owned(), WebLocation::Loading),
    ]);
    assert_eq!(webserver.locations().await.unwrap(), expected);
}

#[tokio::test]
async fn an_error_in_a_body_of_http_500_is_shown() {
    let error = json!({"__typename": "PythonError", "message": "yaml.parser.ParserError: expected the node content\n", "stack": []});
    let (webserver, _) =
        scripted(StatusCode::INTERNAL_SERVER_ERROR, json!({"data": {"reloadWorkspace": error}}).to_string()).await;
    let error = webserver.reload_workspace().await.unwrap_err();
    assert!(matches!(&error, WebError::Refused(text) if text.contains("yaml.parser.ParserError")), "{error:?}");
}

#[tokio::test]
async fn errors_next_to_the_data_are_shown_bounded() {
    let message = format!("Cannot query field. {}", "x".repeat(100_000));
    let (webserver, _) =
        scripted(StatusCode::BAD_REQUEST, json!({"data": null, "errors": [{"message": message}]}).to_string()).await;
    let text = webserver.locations().await.unwrap_err().to_string();
    assert!(text.contains("Cannot query field") && text.len() < 3_000, "{text}");
}

#[tokio::test]
async fn an_unauthorized_reload_is_refused() {
    let answer = json!({"data": {"reloadWorkspace": {"__typename": "UnauthorizedError", "message": "no permission"}}});
    let (webserver, _) = scripted(StatusCode::OK, answer.to_string()).await;
    assert_eq!(
        webserver.reload_workspace().await.unwrap_err().to_string(),
        "the webserver refused the request: no permission"
    );
}

#[tokio::test]
async fn reloading_a_location_passes_its_name_as_a_variable() {
    let location = entry("a\"b", "LOADED", &json!({"__typename": "RepositoryLocation", "serverId": "revision-2"}));
    let (webserver, requests) =
        scripted(StatusCode::OK, json!({"data": {"reloadRepositoryLocation": location}}).to_string()).await;
    let answer = webserver.reload_location("a\"b").await.unwrap();
    assert_eq!(answer, WebLocation::Loaded { server_id: Some("revision-2".into()) });
    assert_eq!(requests.lock().unwrap()[0]["variables"], json!({"name": "a\"b"}));
}

#[tokio::test]
async fn an_unfinished_run_is_known_by_its_location() {
    let run = |location: &str| json!({"repositoryOrigin": {"repositoryLocationName": location}});
    let answer = |runs: Value| json!({"data": {"runsOrError": {"__typename": "Runs", "results": runs}}}).to_string();
    let (webserver, _) = scripted(StatusCode::OK, answer(json!([run("orders-eu")]))).await;
    assert!(webserver.has_unfinished_runs("orders-eu").await.unwrap());
    assert!(!webserver.has_unfinished_runs("orders").await.unwrap());
    // A run without an origin may be of any location.
    let (webserver, _) = scripted(StatusCode::OK, answer(json!([{"repositoryOrigin": null}]))).await;
    assert!(webserver.has_unfinished_runs("orders").await.unwrap());
}

#[tokio::test]
async fn an_html_answer_of_a_proxy_is_unreachable() {
    let (webserver, _) = scripted(StatusCode::BAD_GATEWAY, "<html>bad gateway</html>").await;
    let error = webserver.locations().await.unwrap_err();
    assert!(
        matches!(&error, WebError::Unreachable(text) if text.contains("502") && text.contains("bad gateway")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_silent_webserver_ends_at_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let error = GraphqlWebserver::new(&url, Duration::from_millis(200)).locations().await.unwrap_err();
    assert!(matches!(&error, WebError::Unreachable(text) if text.contains("within 0.2 s")), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_hangs_ends_after_20_s() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let webserver =
        GraphqlWebserver::new(&format!("http://{}", listener.local_addr().unwrap()), Duration::from_mins(1));
    for error in [
        webserver.reload_workspace().await.unwrap_err(),
        webserver.reload_location("orders").await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(&error, WebError::Unreachable(text) if text.contains("within 20 s")), "{error:?}");
    }
}

#[tokio::test]
async fn the_body_is_shown_but_not_in_the_topic() {
    let mut topics = Vec::new();
    for body in ["<html>xqzv</html>", "pfft"] {
        let (webserver, _) = scripted(StatusCode::OK, body).await;
        let error = webserver.ping().await.unwrap_err();
        assert!(error.to_string().contains(body), "{error}");
        // Each webserver has another port.
        topics.push(error.topic().rsplit_once("graphql").unwrap().1.to_owned());
    }
    assert_eq!(topics, [" answered HTTP 200 OK"; 2]);
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = GraphqlWebserver::new(&url, Duration::from_mins(1)).locations().await.unwrap_err();
    assert!(matches!(&error, WebError::Transport(_)) && error.to_string().contains("refused"), "{error:?}");
}

#[tokio::test]
async fn a_real_webserver_follows_the_published_file() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.local/dagster/bin/dagster-webserver");
    if !program.exists() {
        eprintln!("SKIPPED: no {}; run `make prepare`", program.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dagster.yaml"), "telemetry:\n  enabled: false\n").unwrap();
    let publisher = Publisher::new(folder.path().join("workspace.yaml"));
    publisher.publish(&Entries::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut process = tokio::process::Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-w", "workspace.yaml"])
        .env("DAGSTER_HOME", folder.path())
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let webserver = GraphqlWebserver::new(&format!("http://{address}"), Duration::from_mins(1));
    tokio::time::timeout(Duration::from_mins(2), async {
        while let Err(error) = webserver.locations().await {
            assert!(process.try_wait().unwrap().is_none(), "the webserver ended: {error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("a webserver answers within 120 s");
    assert_eq!(webserver.locations().await.unwrap(), BTreeMap::new());
    webserver.ping().await.unwrap();

    // No server listens there: the entry is an error, and the workspace loads all the same. YAML 1.1 would change these names if
    // they were not quoted.
    let absent = Entry { host: "127.0.0.1".into(), port: 1 };
    publisher.publish(&Entries::from([("no".into(), absent.clone()), ("12:30 é\u{7}\\".into(), absent)])).unwrap();
    webserver.reload_workspace().await.unwrap();
    let locations = webserver.locations().await.unwrap();
    assert_eq!(locations.keys().map(String::as_str).collect::<Vec<_>>(), ["12:30 é\u{7}\\", "no"]);
    assert!(
        locations
            .values()
            .all(|location| matches!(location, WebLocation::Error { message } if message.contains("Could not reach"))),
        "{locations:?}"
    );
    assert!(matches!(webserver.reload_location("no").await.unwrap(), WebLocation::Error { .. }));
    let error = webserver.reload_location("missing").await.unwrap_err();
    assert!(matches!(&error, WebError::Refused(text) if text.contains("missing does not exist")), "{error:?}");

    std::fs::write(publisher.path(), "load_from: [").unwrap();
    let error = webserver.reload_workspace().await.unwrap_err();
    assert!(matches!(&error, WebError::Refused(text) if text.contains("ParserError")), "{error:?}");
    assert_eq!(webserver.locations().await.unwrap().len(), 2, "the old workspace is kept");
    process.kill().await.unwrap();
}
