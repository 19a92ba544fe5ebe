//! `POST /hooks/git`: a push is told by the git host, so that nobody waits for the next look. It carries no data: what was pushed is
//! read from git.
//!
//! Guarantees: a request that is not signed with the shared secret pokes nothing; the secret is compared in constant time; no body
//! is read of a request that brings no signature, and only a few at once of those that do.

use std::path::PathBuf;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::App;
use super::problem::Problem;

/// The file that holds what the git host and we know.
#[derive(Clone, Debug, Default)]
pub struct Secret(Option<PathBuf>);

impl Secret {
    /// Without a file no hook is accepted. It is read for each request, so that the secret can be exchanged.
    pub fn new(path: Option<PathBuf>) -> Result<Self, String> {
        if let Some(path) = &path {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("api.hook_secret_file {} cannot be read: {error}", path.display()))?;
            if text.trim().is_empty() {
                return Err(format!("api.hook_secret_file {} is empty", path.display()));
            }
        }
        Ok(Self(path))
    }

    async fn read(&self) -> Option<String> {
        let text = tokio::fs::read_to_string(self.0.as_ref()?).await.ok()?;
        Some(text.trim().to_owned()).filter(|secret| !secret.is_empty())
    }
}

/// Who sends hooks, and how each proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    GitHub,
    GitLab,
    Bitbucket,
    Generic,
}

impl Sender {
    fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key("x-gitlab-event") {
            Self::GitLab
        } else if headers.contains_key("x-github-event") {
            Self::GitHub
        } else if headers.contains_key("x-event-key") {
            Self::Bitbucket
        } else {
            Self::Generic
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
            Self::Bitbucket => "bitbucket",
            Self::Generic => "generic",
        }
    }

    /// What a request brings to prove that its sender knows the secret, by its headers alone.
    fn proof(self, headers: &HeaderMap) -> Option<Proof> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let signature = |name: &str| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text(name)?.strip_prefix("sha256=")?, &mut bytes).ok()?;
            Some(Proof::Signature(bytes))
        };
        match self {
            Self::GitLab => Some(Proof::Secret(text("x-gitlab-token")?.to_owned())),
            Self::GitHub => signature("x-hub-signature-256"),
            Self::Bitbucket => signature("x-hub-signature"),
            Self::Generic => signature("x-codeloc-signature-256"),
        }
    }
}

#[derive(Debug)]
enum Proof {
    /// The secret itself.
    Secret(String),
    /// The HMAC of the body.
    Signature([u8; 32]),
}

impl Proof {
    /// Whether this is worth reading a body for.
    fn may_hold(&self, secret: &str) -> bool {
        match self {
            Self::Secret(given) => bool::from(given.as_bytes().ct_eq(secret.as_bytes())),
            Self::Signature(_) => true,
        }
    }

    fn holds(&self, body: &[u8], secret: &str) -> bool {
        match self {
            Self::Secret(_) => self.may_hold(secret),
            Self::Signature(given) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
                mac.update(body);
                mac.verify_slice(given).is_ok()
            }
        }
    }
}

/// What a body is signed with, as `sha256=…`; for what we send ourselves.
pub fn sign(body: &[u8], secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

pub(super) async fn git(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let sender = Sender::of(request.headers());
    let recorder = app.control.recorder();
    let count = |outcome: &str| recorder.metrics.hooks.with_label_values(&[sender.name(), outcome]).inc();
    let refuse = |status: StatusCode, why: &str| {
        count("refused");
        Err(Problem::new(status, why))
    };
    if app.hooks.0.is_none() {
        return refuse(StatusCode::FORBIDDEN, "no hooks are accepted: set api.hook_secret_file");
    }
    let forged = || refuse(StatusCode::UNAUTHORIZED, "the signature is missing or not that of the shared secret");
    let Some(proof) = sender.proof(request.headers()) else {
        return forged();
    };
    let reading = app.limits.hook()?;
    let Some(secret) = app.hooks.read().await else {
        return refuse(StatusCode::FORBIDDEN, "no hooks are accepted: api.hook_secret_file cannot be read");
    };
    if !proof.may_hold(&secret) {
        return forged();
    }
    let body = Bytes::from_request(request, &()).await.inspect_err(|_| count("refused"))?;
    drop(reading);
    if !proof.holds(&body, &secret) {
        return forged();
    }
    let payload: Value = serde_json::from_slice(&body).map_err(|error| {
        count("refused");
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON ({error}); choose application/json"))
    })?;
    let triggered = app.control.pushed(&urls(&payload));
    count(if triggered > 0 { "accepted" } else { "ignored" });
    Ok((StatusCode::ACCEPTED, Json(json!({ "triggered": triggered }))).into_response())
}

/// Every URL under which the host says that the repository can be reached.
fn urls(payload: &Value) -> Vec<String> {
    let repository = &payload["repository"];
    let project = &payload["project"];
    let links = repository["links"]["clone"].as_array().into_iter().flatten().map(|link| &link["href"]);
    let named = [
        &repository["clone_url"],
        &repository["ssh_url"],
        &repository["git_url"],
        &repository["html_url"],
        &repository["git_http_url"],
        &repository["git_ssh_url"],
        &repository["url"],
        &repository["links"]["html"]["href"],
        &project["git_http_url"],
        &project["git_ssh_url"],
        &project["web_url"],
        &payload["url"],
    ];
    named.into_iter().chain(links).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The same for every way to write where a repository is: `github.com/user/repo`.
pub fn canonical(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = match rest.find(['/', ':']) {
        // `git@host:path`, but `host:22/path` is a port.
        Some(end) if rest[end..].starts_with(':') && !url.contains("://") => (&rest[..end], &rest[end + 1..]),
        Some(_) => rest.split_once('/').unwrap_or((rest, "")),
        None => (rest, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).to_lowercase();
    let path = path.trim_matches('/');
    format!("{host}/{}", path.strip_suffix(".git").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_repository_is_the_same_to_a_hook() {
        for url in [
            "https://github.com/shop/orders.git",
            "https://token@GitHub.com/shop/orders",
            "git@github.com:shop/orders.git",
            "ssh://git@github.com:22/shop/orders.git",
            "git://github.com/shop/orders.git/",
        ] {
            assert_eq!(canonical(url), "github.com/shop/orders", "{url}");
        }
        assert_eq!(canonical("/srv/git/orders.git"), "/srv/git/orders");
        assert_ne!(canonical("https://github.com/shop/orders-old"), "github.com/shop/orders");
    }

    #[test]
    fn a_body_that_was_changed_is_not_signed() {
        let proof = |signature: &str| {
            let headers = [(axum::http::HeaderName::from_static("x-hub-signature-256"), signature.parse().unwrap())];
            Sender::GitHub.proof(&HeaderMap::from_iter(headers))
        };
        let signed = proof(&sign(b"{}", "secret")).unwrap();
        assert!(signed.holds(b"{}", "secret"));
        assert!(!signed.holds(b"{ }", "secret"));
        assert!(!signed.holds(b"{}", "other"));
        for form in ["", "sha256=", "sha256=00", "sha1=0123", &format!("sha256={}", "0".repeat(66)), &"0".repeat(64)] {
            assert!(proof(form).is_none(), "{form}");
        }
    }

    #[test]
    fn the_urls_of_each_host_are_found() {
        for (payload, url) in [
            (json!({"repository": {"clone_url": "https://github.com/a/b.git"}}), "https://github.com/a/b.git"),
            (json!({"project": {"git_ssh_url": "git@gitlab.com:a/b.git"}}), "git@gitlab.com:a/b.git"),
            (
                json!({"repository": {"links": {"html": {"href": "https://bitbucket.org/a/b"}}}}),
                "https://bitbucket.org/a/b",
            ),
            (json!({"url": "https://git.example.com/a/b"}), "https://git.example.com/a/b"),
        ] {
            assert_eq!(urls(&payload), [url]);
        }
    }
}
