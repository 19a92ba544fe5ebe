//! Limits on concurrency, size and duration of requests.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::access::{Access, is_for_loopback};
use super::problem::Problem;
use super::timeouts::within;
use super::{App, HEALTHY, HOOKS, READY};

/// In bytes: as large as the largest config.
pub(super) const MAX_BODY: usize = 256 * 1024;
/// Requests at the same time.
const REQUESTS: usize = 64;
/// Webhooks whose bodies are read at the same time, in addition: a client without the secret can block only these.
const HOOK_BODIES: usize = 8;
/// Streams of events and logs at the same time; a stream has no time limit.
const STREAMS: usize = 32;
/// Writes at the same time, including those whose client left.
const WRITES: usize = 64;
/// For one request, including its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// For a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// For the body of a webhook, which a git host sends at once.
const HOOK_BODY_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Limits {
    requests: Semaphore,
    hooks: Semaphore,
    streams: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(REQUESTS, HOOK_BODIES)
    }
}

impl Limits {
    pub fn new(requests: usize, hooks: usize) -> Self {
        Self {
            requests: Semaphore::new(requests),
            hooks: Semaphore::new(hooks),
            streams: Arc::new(Semaphore::new(STREAMS)),
            writes: Arc::new(Semaphore::new(WRITES)),
        }
    }

    /// Hold the permit until the stream ends.
    pub fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{STREAMS} streams are open; close one, or retry later"),
            )
        };
        self.streams.clone().try_acquire_owned().map_err(busy)
    }

    /// Hold the permit until the write ends.
    pub fn write(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "codeloc performs too many writes; retry later");
        self.writes.clone().try_acquire_owned().map_err(busy)
    }

    /// Hold the permit while the body of a webhook is read.
    pub fn hook(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let busy = |_| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "codeloc reads too many webhooks at the same time; send this one again",
            )
        };
        self.hooks.try_acquire().map_err(busy)
    }
}

/// Counts requests and refuses those above the limits.
pub(super) async fn enforce(State(app): State<App>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = answer(&app, &route, request, next).await;
    // A client can send any method; the label has few values.
    let method = if response.status() == StatusCode::METHOD_NOT_ALLOWED { "other" } else { method.as_str() };
    let method = if route == "other" { "other" } else { method };
    app.control.recorder().metrics.count_request(method, &route, response.status().as_str());
    response
}

async fn answer(app: &App, route: &str, request: Request, next: Next) -> Response {
    let busy = |why: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if matches!(*app.access, Access::Loopback) && !is_for_loopback(&request) {
        let why =
            "without api.tokens_file, codeloc answers only at 127.0.0.1, [::1] and localhost; use one of these hosts";
        return Problem::new(StatusCode::FORBIDDEN, why).into_response();
    }
    // Probes cost nothing, and webhooks have their own limit.
    let mut permit = None;
    if ![HEALTHY, READY, HOOKS].contains(&route) {
        permit = app.limits.requests.try_acquire().ok();
        if permit.is_none() {
            return busy("too many requests; retry later");
        }
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let body_timeout = if route == HOOKS { HOOK_BODY_TIMEOUT } else { BODY_TIMEOUT };
    let request = request.map(|body| within(body_timeout, body));
    let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    drop(permit);
    response.unwrap_or_else(|_| {
        busy(if is_read {
            "codeloc did not complete the request in time; retry later"
        } else {
            "codeloc did not complete the request in time, and continues with a write; read the config before you send the \
             request again, or send it with the Idempotency-Key of the first one"
        })
    })
}
