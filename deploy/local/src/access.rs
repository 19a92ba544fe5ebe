//! HTTP access for programs of this machine only.
//!
//! localcloud does not authenticate callers, and a task can be any command, so a web page must not reach it. A browser reveals
//! a page by its `Origin`, or by a `Host` that the owner of the page resolves to this machine.
//! codeloc's API has the same rules (`controller/src/api/access.rs`); tests/fixtures/hosts.txt tests both.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};

/// Restricts routes to programs of this machine.
pub(crate) fn guarded(routes: Router) -> Router {
    routes.layer(middleware::from_fn(admit))
}

async fn admit(request: Request, next: Next) -> Response {
    let why = if is_for_loopback(&request) {
        foreign_page(request.headers(), request.method() == Method::GET)
    } else {
        Some("its Host must be 127.0.0.1, [::1] or localhost")
    };
    match why {
        None => next.run(request).await,
        Some(why) => {
            tracing::warn!(host = ?request.headers().get(header::HOST), why, "localcloud refused a request");
            (StatusCode::FORBIDDEN, format!("localcloud refuses this request: {why}\n")).into_response()
        }
    }
}

/// Whether a request has exactly one `Host`, and both the `Host` and the target name loopback.
fn is_for_loopback(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let target = request.uri().authority();
    host.to_str().is_ok_and(names_loopback) && target.is_none_or(|target| names_loopback(target.as_str()))
}

/// Whether the whole text is `HOST` or `HOST:PORT` with a loopback address or `localhost`.
fn names_loopback(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_loopback = address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
        return is_loopback && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_loopback = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    (is_loopback || name.eq_ignore_ascii_case("localhost")) && port.is_none_or(is_port)
}

/// The reason to refuse a request of a browser: localcloud serves no pages, so a page of another site sent it.
fn foreign_page(headers: &HeaderMap, reads: bool) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        if origin.map(|(_, host)| host) != text(header::HOST) {
            return Some("its Origin is another site");
        }
    }
    let site = text(HeaderName::from_static("sec-fetch-site"));
    // Dagster's page links to logs in S3. A navigation shows the answer to the user, not to the page.
    let follows = reads && text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate");
    (matches!(site, Some("cross-site" | "same-site")) && !follows).then_some("a page of another site sent it")
}
