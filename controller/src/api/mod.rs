//! The REST API: what `status` prints, and the two probes of whoever runs the daemon. Reads only; loopback unless told
//! otherwise.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

use crate::status::RepositoryStatus;

/// What the API reads from.
pub trait Statuses: Send + Sync + 'static {
    fn all(&self) -> Vec<RepositoryStatus>;
    /// Why the daemon is not ready yet: live state was not read, or the configs cannot be.
    fn not_ready(&self) -> Option<String>;
}

pub fn router(statuses: Arc<dyn Statuses>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/v1/repositories", get(repositories))
        .with_state(statuses)
}

async fn readyz(State(statuses): State<Arc<dyn Statuses>>) -> (StatusCode, String) {
    match statuses.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn repositories(State(statuses): State<Arc<dyn Statuses>>) -> Json<Vec<RepositoryStatus>> {
    Json(statuses.all())
}
