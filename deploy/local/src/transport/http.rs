//! HTTP: every AWS service on one port, and `/_localcloud/` for inspection.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::access::guarded;
use crate::engine::Engine;

/// Bounds memory. S3 accepts larger objects.
const LARGEST_BODY: usize = 512 * 1024 * 1024;

pub(crate) fn router(engine: Arc<Engine>) -> Router {
    let routes = Router::new()
        .route("/_localcloud/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/_localcloud/calls", get(calls))
        .route("/_localcloud/reset-calls", post(reset_calls))
        .fallback(answer)
        .with_state(engine);
    guarded(routes)
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn calls(State(engine): State<Arc<Engine>>, Query(Since { since }): Query<Since>) -> Json<Value> {
    Json(json!({"calls": engine.calls().since(since)}))
}

async fn reset_calls(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.calls().reset();
    Json(json!({}))
}

async fn answer(State(engine): State<Arc<Engine>>, request: Request) -> Response {
    let received = Instant::now();
    let (parts, body) = request.into_parts();
    match to_bytes(body, LARGEST_BODY).await {
        Ok(body) => match engine.exchange(&http::Request::from_parts(parts, body), received).await {
            Ok(response) => response.map(Body::from),
            // A handler cannot reset the connection; an aborted body is the closest.
            Err(broken) => Body::from_stream(futures::stream::iter([Err::<Bytes, _>(broken)])).into_response(),
        },
        Err(error) => (http::StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    }
}
