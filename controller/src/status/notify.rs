//! Posts events to a webhook, in the JSON of Slack's incoming webhooks.
//!
//! Guarantees: recording an event never waits for the webhook; an event gets a bounded number of attempts, so that an unreachable
//! receiver blocks nothing and fills no memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::Recorder;
use super::events::Event;
use super::metrics::DeliveryOutcome;
use crate::runtime::signing::sign;
use crate::settings::Severity;

const ATTEMPTS: u32 = 5;
/// Pause after the first attempt; it doubles after each one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Notify {
    /// Both files are read for each event, so that you can replace the secrets without a restart.
    pub url_file: PathBuf,
    pub secret_file: Option<PathBuf>,
    pub severity: Severity,
}

impl Notify {
    /// Posts events from now on, one after another, until it is dropped.
    pub async fn run(self, recorder: Arc<Recorder>) {
        let mut events = recorder.events.subscribe();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().expect("a plain client");
        let count = |outcome, number| recorder.metrics.count_deliveries(outcome, number);
        loop {
            match events.recv().await {
                Ok(event) if event.severity < self.severity => {}
                Ok(event) if self.deliver(&client, &event).await => count(DeliveryOutcome::Delivered, 1),
                Ok(_) => count(DeliveryOutcome::Failed, 1),
                Err(RecvError::Lagged(missed)) => count(DeliveryOutcome::Dropped, missed),
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn deliver(&self, client: &reqwest::Client, event: &Event) -> bool {
        let body = message(event).to_string();
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.post(client, body.clone()).await {
                Ok(()) => return true,
                Err(why) => {
                    let event = event.id;
                    tracing::warn!(%event, attempt, %why, "cannot deliver an event to the URL in notify.url_file");
                }
            }
            if attempt < ATTEMPTS {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        false
    }

    /// Errors leave out the URL, which is a secret.
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
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(format!("the receiver answered with HTTP {}", answer.status()))
        }
    }
}

/// Text for people, and the event itself for programs.
fn message(event: &Event) -> Value {
    let icon = if event.severity == Severity::Warning { ":warning:" } else { ":information_source:" };
    let location = event.location.as_deref().map_or_else(String::new, |name| format!(" *{name}*"));
    // Commits and configs must not add links or mentions to a Slack message.
    let safe = event.message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": format!("{icon}{location} {}: {safe}", event.reason.label()), "event": event })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use axum::http::{HeaderMap, StatusCode};

    use super::*;
    use crate::fixtures::location_name;
    use crate::runtime::Clock;
    use crate::status::events::{EventReason, NewEvent};
    use crate::status::metrics::Scrape;

    /// A receiver that answers with these statuses first, and then with 200.
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
    async fn warnings_are_posted_signed_and_retried() {
        let (url, mut received) = receiver(vec![StatusCode::INTERNAL_SERVER_ERROR]).await;
        let folder = tempfile::tempdir().unwrap();
        let (url_file, secret_file) = (folder.path().join("url"), folder.path().join("secret"));
        std::fs::write(&url_file, format!("{url}\n")).unwrap();
        std::fs::write(&secret_file, "hush\n").unwrap();
        let recorder = Arc::new(Recorder::new(Clock::of_this_machine()));
        let notify = Notify { url_file, secret_file: Some(secret_file), severity: Severity::Warning };
        let task = tokio::spawn(notify.run(recorder.clone()));
        while recorder.events.subscribers() == 0 {
            tokio::task::yield_now().await;
        }
        recorder.record(NewEvent::of(&location_name("orders"), EventReason::Healthy, "well"));
        recorder.record(NewEvent::of(&location_name("orders"), EventReason::Degraded, "no <module> & more"));
        for _ in 0..2 {
            let (signature, body) = received.recv().await.unwrap();
            assert_eq!(signature.unwrap(), sign(body.as_bytes(), "hush"));
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["text"], ":warning: *orders* Degraded: no &lt;module&gt; &amp; more");
            assert_eq!(body["event"]["reason"], "Degraded");
        }
        let delivered = r#"codeloc_event_deliveries_total{outcome="delivered"} 1"#;
        while !recorder.metrics.render(&Scrape::default()).contains(delivered) {
            tokio::task::yield_now().await;
        }
        task.abort();
    }
}
