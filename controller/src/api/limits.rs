//! How much is served at once, how large, and for how long.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::App;
use super::access::{Access, is_for_loopback};
use super::problem::Problem;

/// In bytes: that of the largest config.
pub(super) const LARGEST_BODY: usize = 256 * 1024;
/// Requests that are answered at once.
const REQUESTS: usize = 64;
/// Streams of events and logs at once; each may last for ever.
const STREAMS: usize = 32;
/// For one request, its body included.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Limits {
    requests: Semaphore,
    streams: std::sync::Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: Semaphore::new(REQUESTS), streams: std::sync::Arc::new(Semaphore::new(STREAMS)) }
    }
}

impl Limits {
    /// To be held for as long as a stream lasts.
    pub fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{STREAMS} streams are open already"));
        self.streams.clone().try_acquire_owned().map_err(busy)
    }
}

/// Counts a request, and refuses what is too much.
pub(super) async fn bound(State(app): State<App>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = answer(&app, request, next).await;
    // A method can be any word; those that are served are few.
    let method = if response.status() == StatusCode::METHOD_NOT_ALLOWED { "other" } else { method.as_str() };
    let method = if route == "other" { "other" } else { method };
    app.control.journal().metrics.http.with_label_values(&[method, &route, response.status().as_str()]).inc();
    response
}

async fn answer(app: &App, request: Request, next: Next) -> Response {
    let busy = |why: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if matches!(*app.access, Access::Everybody) && !is_for_loopback(&request) {
        let why = "without api.tokens_file only requests whose Host is 127.0.0.1, [::1] or localhost are answered";
        return Problem::new(StatusCode::FORBIDDEN, why).into_response();
    }
    let Ok(_permit) = app.limits.requests.try_acquire() else {
        return busy("too many requests at once");
    };
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => busy("this took too long and was given up"),
    }
}
