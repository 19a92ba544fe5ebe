//! How much is served at once, how large, and for how long.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::access::{Access, is_for_loopback};
use super::problem::Problem;
use super::timeouts::within;
use super::{App, HEALTHY, HOOKS, READY};

/// In bytes: that of the largest config.
pub(super) const LARGEST_BODY: usize = 256 * 1024;
/// Requests that are answered at once.
const REQUESTS: usize = 64;
/// Hooks whose bodies are read at once, beside those: a client without the secret can block no more than these.
const READ_HOOKS: usize = 8;
/// Streams of events and logs at once; each may last for ever.
const STREAMS: usize = 32;
/// For one request, its body included.
const LONGEST: Duration = Duration::from_secs(60);
/// For a body.
const LONGEST_BODY: Duration = Duration::from_secs(20);
/// For the body of a hook, which a git host sends at once.
const LONGEST_HOOK: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Limits {
    requests: Semaphore,
    hooks: Semaphore,
    streams: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(REQUESTS, READ_HOOKS)
    }
}

impl Limits {
    pub fn of(requests: usize, hooks: usize) -> Self {
        Self {
            requests: Semaphore::new(requests),
            hooks: Semaphore::new(hooks),
            streams: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// To be held for as long as a stream lasts.
    pub fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{STREAMS} streams are open already"));
        self.streams.clone().try_acquire_owned().map_err(busy)
    }

    /// To be held while the body of a hook is read.
    pub fn hook(&self) -> Result<SemaphorePermit<'_>, Problem> {
        let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many hooks at once; send this one again");
        self.hooks.try_acquire().map_err(busy)
    }
}

/// Counts a request, and refuses what is too much.
pub(super) async fn bound(State(app): State<App>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = answer(&app, &route, request, next).await;
    // A method can be any word; those that are served are few.
    let method = if response.status() == StatusCode::METHOD_NOT_ALLOWED { "other" } else { method.as_str() };
    let method = if route == "other" { "other" } else { method };
    app.control.recorder().metrics.http.with_label_values(&[method, &route, response.status().as_str()]).inc();
    response
}

async fn answer(app: &App, route: &str, request: Request, next: Next) -> Response {
    let busy = |why: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if matches!(*app.access, Access::Everybody) && !is_for_loopback(&request) {
        let why = "without api.tokens_file only requests whose Host is 127.0.0.1, [::1] or localhost are answered";
        return Problem::new(StatusCode::FORBIDDEN, why).into_response();
    }
    // The probes read nothing and cost nothing, and hooks have a bound of their own.
    let mut permit = None;
    if ![HEALTHY, READY, HOOKS].contains(&route) {
        permit = app.limits.requests.try_acquire().ok();
        if permit.is_none() {
            return busy("too many requests at once");
        }
    }
    let longest = if route == HOOKS { LONGEST_HOOK } else { LONGEST_BODY };
    let request = request.map(|body| within(longest, body));
    let response = tokio::time::timeout(LONGEST, next.run(request)).await;
    drop(permit);
    response.unwrap_or_else(|_| busy("this took too long and was given up"))
}
