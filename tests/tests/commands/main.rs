//! Commands with hostile, busy or missing daemons and clouds.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod apply;
mod errors;
mod pipes;
mod plan;
mod status;
mod terminal;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

/// The response of a daemon: status line, content type and body.
struct Answer(&'static str, &'static str, String);

impl Answer {
    fn json(value: &Value) -> Self {
        Self("200 OK", "application/json", value.to_string())
    }
}

/// Starts a local server that answers by method and path, and returns its URL.
fn daemon(answer: impl Fn(&str, &str) -> Answer + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // A command can close its connection early.
            let _ = serve(&connection.unwrap(), &answer);
        }
    });
    format!("http://{address}")
}

fn serve(mut connection: &TcpStream, answer: &impl Fn(&str, &str) -> Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    let mut parts = first.split_whitespace();
    let Answer(status, kind, body) = answer(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(format!("{head}{body}").as_bytes())
}

/// The status of a settled location, with other values for the fields in `more`.
fn status(name: &str, more: &Value) -> Value {
    let mut status = json!({
        "name": name, "sync": "Synced", "health": "Healthy", "message": "in sync", "conditions": [],
        "updated": "2026-01-01T00:00:00Z",
    });
    for (field, value) in more.as_object().unwrap() {
        status[field] = value.clone();
    }
    status
}

/// A daemon whose texts are all `text`.
fn daemon_with_text(text: &'static str) -> String {
    daemon(move |method, path| {
        let path = path.split('?').next().unwrap();
        let condition = json!({
            "kind": "ImageReady", "status": "False", "reason": "BuildFailed", "message": text,
            "since": "2026-01-01T00:00:00Z",
        });
        let texts = json!({
            "sync": "OutOfSync", "health": "Degraded", "message": text, "commit": text, "image": text,
            "platform": text, "revision": text, "serving": text, "address": text, "conditions": [condition],
        });
        let event = json!({
            "id": "1-1", "severity": "warning", "reason": "StepFailed", "location": text, "commit": text,
            "message": text, "first": "2026-01-01T00:00:00Z", "last": "2026-01-01T00:00:00Z", "count": 2,
        });
        let cost = json!({
            "location": text, "min": 1.0, "now": 1.0, "max": 1.0, "saved_by_arm64": 1.0, "saved_by_spot": 1.0,
            "as_of": text,
        });
        let line = json!({"id": text, "at": 1, "stream": text, "text": text});
        let step = json!({
            "kind": "role", "action": "update", "name": text, "reason": text,
            "fields": [{"name": text, "from": text, "to": text}],
        });
        let plan = json!({"location": text, "sync": "OutOfSync", "message": text, "steps": [step], "later": []});
        let stream = |kind: &str, value: &Value| {
            Answer(
                "200 OK",
                "text/event-stream",
                format!("event: {kind}\ndata: {value}\n\nevent: fault\ndata: {text}\n\n"),
            )
        };
        match (method, path) {
            ("GET", "/readyz") => Answer("200 OK", "text/plain", "ok\n".to_owned()),
            ("GET", "/v1/status") => Answer::json(&json!({
                "version": text, "deployment": "codeloc", "mode": text, "lease": text, "commit": text, "fault": null,
            })),
            ("GET", "/v1/locations") => Answer::json(&json!([status("orders", &texts)])),
            ("GET", "/v1/events") => Answer::json(&json!([event])),
            ("GET", "/v1/events/stream") => stream("event", &event),
            ("GET", "/v1/costs") => Answer::json(&json!([cost])),
            ("GET", "/v1/locations/orders/logs") => Answer::json(&json!([line])),
            ("GET", "/v1/locations/orders/logs/stream") => stream("line", &line),
            ("GET", "/v1/locations/orders/plan") => Answer::json(&plan),
            ("POST", "/v1/sync" | "/v1/locations/orders/sync" | "/v1/locations/orders/retry") => {
                Answer("202 Accepted", "text/plain", String::new())
            }
            _ => Answer::json(&json!({"commit": text, "changed": true, "config": format!("commit: {text}")})),
        }
    })
}

/// Every command that uses a daemon, in each of its forms.
const COMMANDS: [&[&str]; 30] = [
    &["status"],
    &["status", "orders"],
    &["status", "ordres"],
    &["status", "--json"],
    &["status", "orders", "--wait", "--timeout", "0"],
    &["list"],
    &["list", "--json"],
    &["logs", "orders"],
    &["logs", "orders", "--json"],
    &["logs", "orders", "--follow"],
    &["logs", "orders", "--follow", "--json"],
    &["events"],
    &["events", "--json"],
    &["events", "--follow"],
    &["events", "--follow", "--json"],
    &["cost"],
    &["cost", "--json"],
    &["sync"],
    &["sync", "orders"],
    &["retry", "orders"],
    &["rollback", "orders"],
    &["rollback", "orders", "--json"],
    &["update", "orders", "--set", "branch=next"],
    &["update", "orders", "--set", "branch=next", "--json"],
    &["remove", "orders"],
    &["remove", "orders", "--json"],
    &["suspend", "orders"],
    &["resume", "orders"],
    &["plan"],
    &["plan", "--json"],
];
