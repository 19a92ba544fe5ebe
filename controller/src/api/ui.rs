//! The page at `/`: one file that reads the API of the same origin.

use axum::http::header;
use axum::response::{Html, IntoResponse};

/// Only the scripts and styles in the page run. It connects only to this API, and no page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub async fn show() -> impl IntoResponse {
    (
        [(header::CONTENT_SECURITY_POLICY, POLICY), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")],
        Html(include_str!("ui.html")),
    )
}
