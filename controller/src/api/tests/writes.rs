//! Writes whose client leaves, repeats a request, or loses the answer.

use tokio::io::AsyncWriteExt;

use super::crowd::serve_on;
use super::*;
use crate::api::serve::Bounds;

fn add(key: &str) -> Builder {
    with("POST", "/v1/locations").header("idempotency-key", key)
}

fn pause_writes(daemon: &Daemon) {
    daemon.writes.forget_permits(1000);
}

fn is_written(daemon: &Daemon) -> bool {
    !daemon.triggered.lock().unwrap().is_empty()
}

#[tokio::test]
async fn a_repeated_write_with_a_key_counts_once() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let request = || with("POST", "/v1/locations").header("idempotency-key", "one");
    let first = ask(&router, request(), &config()).await;
    let second = ask(&router, request(), &config()).await;
    assert_eq!((first.status, second.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!(first.json(), second.json());
    assert_eq!(daemon.triggered.lock().unwrap().len(), 1);
    let other = config().replace("\"new\"", "\"other\"");
    assert_eq!(ask(&router, request(), &other).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_write_that_failed_is_performed_again_with_its_key() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let file = WriteError::File { path: "new/config.yml".to_owned(), reason: "no space left".to_owned() };
    daemon.write_errors.lock().unwrap().extend([WriteError::Busy, file]);
    let mut statuses = vec![];
    for _ in 0..4 {
        statuses.push(ask(&router, add("one"), &config()).await.status);
    }
    assert_eq!(statuses, [StatusCode::CONFLICT, StatusCode::BAD_GATEWAY, StatusCode::CREATED, StatusCode::CREATED]);
    assert_eq!(daemon.written.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_refused_write_is_performed_after_its_cause_is_gone() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let remove = || with("DELETE", "/v1/locations/new").header("idempotency-key", "remove");
    assert_eq!(ask(&router, remove(), "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(ask(&router, add("add"), &config()).await.status, StatusCode::CREATED);
    assert_eq!(ask(&router, remove(), "").await.status, StatusCode::OK);
    assert_eq!(ask(&router, remove(), "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_repeated_rollback_has_the_same_answer() {
    let daemon = Daemon::new();
    let router = open(&daemon);
    let text = "name: orders\ngit_url: https://example.com/orders.git\nmodule: orders\nbranch: main\n";
    let yaml = get_of("/v1/locations").method("POST").header("content-type", "application/yaml");
    assert_eq!(ask(&router, yaml, text).await.status, StatusCode::CREATED);
    let rollback = || with("POST", "/v1/locations/orders/rollback").header("idempotency-key", "back");
    let first = ask(&router, rollback(), "").await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    // After the rollback, another commit is the previous one.
    let previous = Some(Commit::from("c".repeat(40)));
    daemon.statuses.lock().unwrap().get_mut("orders").unwrap().previous_commit = previous;
    let second = ask(&router, rollback(), "").await;
    assert_eq!((second.status, second.json()), (StatusCode::OK, first.json()));
}

#[tokio::test]
async fn a_write_continues_when_its_client_leaves() {
    for key in ["", "Idempotency-Key: one\r\n"] {
        let daemon = Daemon::new();
        pause_writes(&daemon);
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let router = open(&daemon);
        let task = tokio::spawn(serve_on(server, Bounds::default(), router.clone()));
        let body = config();
        let head =
            format!("Host: 127.0.0.1\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n", body.len());
        client.write_all(format!("POST /v1/locations HTTP/1.1\r\n{head}\r\n{body}").as_bytes()).await.unwrap();
        while daemon.pending.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        drop(client);
        task.await.unwrap();
        daemon.writes.add_permits(1);
        while !is_written(&daemon) {
            tokio::task::yield_now().await;
        }
        assert_eq!(daemon.recorder.events.list(|_| true).len(), 1);
        if !key.is_empty() {
            // The client comes back for its answer.
            assert_eq!(ask(&router, add("one"), &config()).await.status, StatusCode::CREATED);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_timed_out_has_its_answer_later() {
    let daemon = Daemon::new();
    pause_writes(&daemon);
    let router = open(&daemon);
    let timed_out = ask(&router, add("one"), &config()).await;
    assert_eq!(timed_out.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(timed_out.text.contains("continues with a write"), "{}", timed_out.text);
    daemon.writes.add_permits(1);
    let answer = ask(&router, add("one"), &config()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(daemon.written.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_number_of_abandoned_writes_is_bounded() {
    let daemon = Daemon::new();
    pause_writes(&daemon);
    let router = open(&daemon);
    let mut refused = 0;
    for number in 0..70 {
        let request = add(&number.to_string()).body(Body::from(config())).unwrap();
        let mut request = Box::pin(router.clone().oneshot(request));
        // The client leaves after the write began, unless it was refused.
        while daemon.pending.load(Ordering::Relaxed) <= number - refused {
            if let Some(answer) = futures::FutureExt::now_or_never(&mut request) {
                assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
                refused += 1;
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(refused, 6);
    daemon.writes.add_permits(100);
    while ask(&router, add("last"), &config()).await.status == StatusCode::SERVICE_UNAVAILABLE {
        tokio::task::yield_now().await;
    }
}
