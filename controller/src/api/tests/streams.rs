//! Streams of events and log lines, also after a reconnect.

use axum::body::BodyDataStream;
use futures::StreamExt;

use super::*;
use crate::status::events::{EventId, EventReason, NewEvent};

async fn open_stream(daemon: &Arc<Daemon>, request: Builder) -> BodyDataStream {
    let response = open(daemon).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().into_data_stream()
}

/// The id and the data of the next message.
async fn next(stream: &mut BodyDataStream) -> (String, Value) {
    for _ in 0..100 {
        let chunk = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
        let field = |name: &str| chunk.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        // A comment keeps the connection alive.
        if let Some(data) = field("data: ") {
            return (field("id: ").unwrap_or_default(), serde_json::from_str(&data).unwrap());
        }
    }
    panic!("only comments");
}

fn record(daemon: &Daemon, message: &str) {
    daemon.recorder.record(NewEvent::of(&location_name("orders"), EventReason::Healthy, message));
}

async fn messages(stream: &mut BodyDataStream, number: usize) -> Vec<String> {
    let mut messages = vec![];
    for _ in 0..number {
        messages.push(next(stream).await.1["message"].as_str().unwrap().to_owned());
    }
    messages
}

#[tokio::test]
async fn a_stream_contains_past_and_new_events() {
    let daemon = Daemon::new();
    daemon.recorder.record(NewEvent::of(&location_name("orders"), EventReason::Healthy, "one"));
    let request = get_of("/v1/events/stream?after=0&location=orders").body(Body::empty()).unwrap();
    let response = open(&daemon).oneshot(request).await.unwrap();
    daemon.recorder.record(NewEvent::of(&location_name("billing"), EventReason::Healthy, "other"));
    daemon.recorder.record(NewEvent::of(&location_name("orders"), EventReason::Degraded, "two"));
    let mut stream = response.into_body().into_data_stream();
    for expected in ["\"message\":\"one\"", "\"message\":\"two\""] {
        let chunk = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
        assert!(chunk.contains(expected), "{chunk}");
    }
}

#[tokio::test]
async fn a_stream_of_events_resumes_after_the_last_id() {
    let daemon = Daemon::new();
    for message in ["one", "two", "three"] {
        record(&daemon, message);
    }
    let ids: Vec<String> = daemon.recorder.events.list(|_| true).iter().map(|event| event.id.to_string()).collect();
    // A browser repeats the query.
    let request = get_of("/v1/events/stream?after=0").header("last-event-id", &ids[0]);
    let mut stream = open_stream(&daemon, request).await;
    assert_eq!(next(&mut stream).await.0, ids[1]);
    assert_eq!(next(&mut stream).await.0, ids[2]);
    record(&daemon, "four");
    assert_eq!(messages(&mut stream, 1).await, ["four"]);
}

#[tokio::test]
async fn after_a_restart_all_events_are_new() {
    let daemon = Daemon::new();
    for message in ["one", "two"] {
        record(&daemon, message);
    }
    let other = EventId { process: 5, number: 500 };
    let listed = ask(&open(&daemon), get_of(&format!("/v1/events?after={other}")), "").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    for request in [
        get_of(&format!("/v1/events/stream?after={other}")),
        get_of("/v1/events/stream").header("last-event-id", other.to_string()),
    ] {
        let mut stream = open_stream(&daemon, request).await;
        assert_eq!(messages(&mut stream, 2).await, ["one", "two"]);
    }
}

#[tokio::test]
async fn recorded_events_are_streamed_in_the_order_of_their_ids() {
    let daemon = Daemon::new();
    for message in ["one", "two", "one"] {
        let reason = if message == "one" { EventReason::Degraded } else { EventReason::StepFailed };
        daemon.recorder.record(NewEvent::of(&location_name("orders"), reason, message));
    }
    let mut stream = open_stream(&daemon, get_of("/v1/events/stream?after=0")).await;
    assert_eq!(messages(&mut stream, 2).await, ["one", "two"]);
}

#[tokio::test]
async fn an_id_that_no_event_has_is_refused() {
    let router = open(&Daemon::new());
    for path in ["/v1/events?after=500", "/v1/events/stream?after=x", "/v1/events?after="] {
        let answer = ask(&router, get_of(path), "").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.text.contains("0 for all events"), "{}", answer.text);
    }
}

/// A line of another task.
fn other(at: i64) -> Line {
    Line { stream: "other".to_owned(), id: format!("other{at}"), ..line(at) }
}

async fn line_ids(stream: &mut BodyDataStream, number: usize) -> Vec<String> {
    let mut ids = vec![];
    for _ in 0..number {
        ids.push(next(stream).await.1["id"].as_str().unwrap().to_owned());
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn following_a_log_loses_no_line_and_repeats_none() {
    let daemon = Daemon::new();
    daemon.log_pages.lock().unwrap().extend([
        LogPage { lines: vec![line(1), line(2), line(3), line(4)], next: None },
        // Lines of another task appear late, one of them in the same millisecond.
        LogPage { lines: vec![line(1), other(2), line(2), line(3), line(4), other(4)], next: Some("p2".to_owned()) },
        LogPage { lines: vec![], next: Some("p3".to_owned()) },
        LogPage { lines: vec![line(5)], next: None },
        LogPage { lines: vec![line(5), line(40_000)], next: None },
        LogPage { lines: vec![line(40_000), line(40_001)], next: None },
    ]);
    let mut stream = open_stream(&daemon, get_of("/v1/locations/orders/logs/stream")).await;
    let expected = ["id1", "id2", "id3", "id4", "other2", "other4", "id5", "id40000", "id40001"];
    assert_eq!(line_ids(&mut stream, expected.len()).await, expected);
    let page = |page: &str| Some(page.to_owned());
    let reads = [(0, None), (0, None), (0, page("p2")), (0, page("p3")), (0, None), (10_000, None)];
    assert_eq!(*daemon.log_reads.lock().unwrap(), reads);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_lines_resumes_at_the_last_id() {
    let daemon = Daemon::new();
    daemon.log_pages.lock().unwrap().push_back(LogPage { lines: vec![other(99_999), line(100_000)], next: None });
    let request = get_of("/v1/locations/orders/logs/stream").header("last-event-id", "99998-id99998");
    let mut stream = open_stream(&daemon, request).await;
    let (id, line) = next(&mut stream).await;
    assert_eq!((id.as_str(), &line["id"]), ("99999-other99999", &json!("other99999")));
    assert_eq!(next(&mut stream).await.0, "100000-id100000");
    assert_eq!(*daemon.log_reads.lock().unwrap(), [(69_998, None)]);
}
