//! The page: one file that reads the API, from where it came and from nowhere else.

use axum::http::header;
use axum::response::{Html, IntoResponse};

/// Scripts and styles are those of the page itself; it talks to this API, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub async fn show() -> impl IntoResponse {
    (
        [(header::CONTENT_SECURITY_POLICY, POLICY), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")],
        Html(include_str!("ui.html")),
    )
}
