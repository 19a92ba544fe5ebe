//! Events posted to a webhook, in the JSON that Slack's incoming webhooks take and others read.
//!
//! Guarantees: whoever records an event never waits for this; an event is tried a few times and then given up, so that a receiver
//! that is away holds up nothing and fills no memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::Recorder;
use super::events::{Event, Severity};
use crate::api::hooks::sign;

/// Tries for one event, and the pause after the first; doubled after each.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Notify {
    /// Read for each event, so that they can be exchanged.
    pub url_file: PathBuf,
    pub secret_file: Option<PathBuf>,
    pub severity: Severity,
}

impl Notify {
    /// Posts what happens from now on, one event after another, until it is dropped.
    pub async fn run(self, recorder: Arc<Recorder>) {
        let mut events = recorder.events.subscribe();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().expect("a plain client");
        let count = |outcome: &str, number: u64| {
            recorder.metrics.deliveries.with_label_values(&[outcome]).inc_by(number);
        };
        loop {
            match events.recv().await {
                Ok(event) if event.severity < self.severity => {}
                Ok(event) => count(if self.deliver(&client, &event).await { "delivered" } else { "failed" }, 1),
                Err(RecvError::Lagged(missed)) => count("dropped", missed),
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn deliver(&self, client: &reqwest::Client, event: &Event) -> bool {
        let body = message(event).to_string();
        let mut pause = FIRST_PAUSE;
        for tried in 1..=TRIES {
            match self.post(client, body.clone()).await {
                Ok(()) => return true,
                Err(why) => tracing::warn!(event = event.number, tried, %why, "an event was not delivered"),
            }
            if tried < TRIES {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        false
    }

    /// Errors are without the URL, which is a secret of its own.
    async fn post(&self, client: &reqwest::Client, body: String) -> Result<(), String> {
        let read = async |path: &PathBuf| {
            let text = tokio::fs::read_to_string(path).await;
            text.map(|text| text.trim().to_owned()).map_err(|error| format!("{}: {error}", path.display()))
        };
        let mut request = client.post(read(&self.url_file).await?).header("content-type", "application/json");
        if let Some(path) = &self.secret_file {
            request = request.header("x-codeloc-signature-256", sign(body.as_bytes(), &read(path).await?));
        }
        let answer = request.body(body).send().await.map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("it was answered with {}", answer.status())) }
    }
}

/// Text for people, and the event itself for programs.
fn message(event: &Event) -> Value {
    let sign = if event.severity == Severity::Warning { ":warning:" } else { ":information_source:" };
    let of = event.location.as_deref().map_or_else(String::new, |name| format!(" *{name}*"));
    // What Slack would take for a link or a mention comes from commits and configs.
    let safe = event.message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": format!("{sign}{of} {:?}: {safe}", event.reason), "event": event })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use axum::http::{HeaderMap, StatusCode};

    use super::*;
    use crate::runtime::Clock;
    use crate::status::events::{EventReason, NewEvent};

    /// A receiver that answers with these statuses first, and then well.
    async fn receiver(
        first: Vec<StatusCode>,
    ) -> (String, tokio::sync::mpsc::UnboundedReceiver<(Option<String>, String)>) {
        let (sender, received) = tokio::sync::mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(VecDeque::from(first)));
        let app = axum::Router::new().route(
            "/hook",
            axum::routing::post(move |headers: HeaderMap, body: String| async move {
                let signature = headers.get("x-codeloc-signature-256");
                let signature = signature.map(|value| value.to_str().unwrap().to_owned());
                let status = statuses.lock().unwrap().pop_front().unwrap_or(StatusCode::OK);
                sender.send((signature, body)).unwrap();
                status
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, received)
    }

    #[tokio::test]
    async fn a_warning_is_posted_signed_and_again_after_a_failure_and_what_is_normal_is_not() {
        let (url, mut received) = receiver(vec![StatusCode::INTERNAL_SERVER_ERROR]).await;
        let folder = tempfile::tempdir().unwrap();
        let (url_file, secret_file) = (folder.path().join("url"), folder.path().join("secret"));
        std::fs::write(&url_file, format!("{url}\n")).unwrap();
        std::fs::write(&secret_file, "hush\n").unwrap();
        let recorder = Arc::new(Recorder::new(Clock::of_this_machine()));
        let notify = Notify { url_file, secret_file: Some(secret_file), severity: Severity::Warning };
        let task = tokio::spawn(notify.run(recorder.clone()));
        // It listens from its first step on.
        while recorder.events.listeners() == 0 {
            tokio::task::yield_now().await;
        }
        recorder.record(NewEvent::of("orders", EventReason::Healthy, "well"));
        recorder.record(NewEvent::of("orders", EventReason::Degraded, "no <module> & more"));
        for _ in 0..2 {
            let (signature, body) = received.recv().await.unwrap();
            assert_eq!(signature.unwrap(), sign(body.as_bytes(), "hush"));
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["text"], ":warning: *orders* Degraded: no &lt;module&gt; &amp; more");
            assert_eq!(body["event"]["reason"], "Degraded");
        }
        let delivered = || recorder.metrics.deliveries.with_label_values(&["delivered"]).get();
        while delivered() == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
    }
}
