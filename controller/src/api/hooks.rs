//! `POST /hooks/git`: webhooks of git hosts. After a push, codeloc reads the repository at once instead of at the next poll.
//!
//! Guarantees: a request that is not signed with the shared secret triggers nothing; secrets are compared in constant time; the body of
//! a request without a signature is not read, and the number of bodies read at the same time is bounded.

use std::path::PathBuf;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::App;
use super::problem::Problem;
use super::repository_url::RepositoryUrl;
use crate::runtime::signing::{self, Signature};
use crate::status::metrics::{HookOutcome, HookSender};

/// The file with the secret that codeloc and the git host share.
#[derive(Clone, Debug, Default)]
pub struct Secret(Option<PathBuf>);

impl Secret {
    /// Without a file, codeloc refuses every hook. It reads the file for each request, so that you can replace the secret.
    pub fn new(path: Option<PathBuf>) -> Result<Self, String> {
        if let Some(path) = &path {
            let text = std::fs::read_to_string(path).map_err(|error| {
                format!(
                    "cannot read api.hook_secret_file {}: {error}; make it readable for the daemon's user",
                    path.display()
                )
            })?;
            if text.trim().is_empty() {
                return Err(format!("api.hook_secret_file {} is empty; write the secret into it", path.display()));
            }
        }
        Ok(Self(path))
    }

    async fn read(&self) -> Option<String> {
        let text = tokio::fs::read_to_string(self.0.as_ref()?).await.ok()?;
        Some(text.trim().to_owned()).filter(|secret| !secret.is_empty())
    }
}

fn sender(headers: &HeaderMap) -> HookSender {
    if headers.contains_key("x-gitlab-event") {
        HookSender::GitLab
    } else if headers.contains_key("x-github-event") {
        HookSender::GitHub
    } else if headers.contains_key("x-event-key") {
        HookSender::Bitbucket
    } else {
        HookSender::Generic
    }
}

/// How a request proves that its sender knows the secret.
#[derive(Debug)]
enum Proof {
    /// The secret itself.
    Secret(String),
    /// The HMAC of the body.
    Signature(Signature),
}

impl Proof {
    /// The proof in the headers of a request.
    fn find(sender: HookSender, headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let signature = |name: &str| Some(Self::Signature(signing::parse(text(name)?)?));
        match sender {
            HookSender::GitLab => Some(Self::Secret(text("x-gitlab-token")?.to_owned())),
            HookSender::GitHub => signature("x-hub-signature-256"),
            HookSender::Bitbucket => signature("x-hub-signature"),
            HookSender::Generic => signature("x-codeloc-signature-256"),
        }
    }

    /// Whether the proof can hold, before the body is read.
    fn may_hold(&self, secret: &str) -> bool {
        match self {
            Self::Secret(given) => bool::from(given.as_bytes().ct_eq(secret.as_bytes())),
            Self::Signature(_) => true,
        }
    }

    fn holds(&self, body: &[u8], secret: &str) -> bool {
        match self {
            Self::Secret(_) => self.may_hold(secret),
            Self::Signature(signature) => signing::verify(body, secret, signature),
        }
    }
}

pub(super) async fn git(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let sender = sender(request.headers());
    let recorder = app.control.recorder();
    let count = |outcome| recorder.metrics.count_hook(sender, outcome);
    let refuse = |status: StatusCode, why: &str| {
        count(HookOutcome::Refused);
        Err(Problem::new(status, why))
    };
    if app.hooks.0.is_none() {
        return refuse(StatusCode::FORBIDDEN, "webhooks are disabled; set api.hook_secret_file to enable them");
    }
    let forged = || {
        refuse(
            StatusCode::UNAUTHORIZED,
            "the signature is missing or wrong; give the git host the secret in api.hook_secret_file",
        )
    };
    let Some(proof) = Proof::find(sender, request.headers()) else {
        return forged();
    };
    let reading = app.limits.hook()?;
    let Some(secret) = app.hooks.read().await else {
        return refuse(
            StatusCode::FORBIDDEN,
            "webhooks are disabled: codeloc cannot read api.hook_secret_file, or it is empty; make it readable",
        );
    };
    if !proof.may_hold(&secret) {
        return forged();
    }
    let body = Bytes::from_request(request, &()).await.inspect_err(|_| count(HookOutcome::Refused))?;
    drop(reading);
    if !proof.holds(&body, &secret) {
        return forged();
    }
    let payload: Value = serde_json::from_slice(&body).map_err(|error| {
        count(HookOutcome::Refused);
        let detail = format!("the body is not JSON ({error}); set the content type of the webhook to application/json");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;
    let pushed: Vec<RepositoryUrl> = urls(&payload).iter().map(|url| RepositoryUrl::parse(url)).collect();
    let triggered = app.control.pushed(&pushed);
    count(if triggered > 0 { HookOutcome::Accepted } else { HookOutcome::Ignored });
    Ok((StatusCode::ACCEPTED, Json(json!({ "triggered": triggered }))).into_response())
}

/// All URLs of the repository in the payload of a git host.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_only_for_the_signed_body() {
        let proof = |signature: &str| {
            let headers = [(axum::http::HeaderName::from_static("x-hub-signature-256"), signature.parse().unwrap())];
            Proof::find(HookSender::GitHub, &HeaderMap::from_iter(headers))
        };
        let signed = proof(&signing::sign(b"{}", "secret")).unwrap();
        assert!(signed.holds(b"{}", "secret"));
        assert!(!signed.holds(b"{ }", "secret"));
        assert!(!signed.holds(b"{}", "other"));
        for form in ["", "sha256=", "sha256=00", "sha1=0123", &format!("sha256={}", "0".repeat(66)), &"0".repeat(64)] {
            assert!(proof(form).is_none(), "{form}");
        }
    }

    #[test]
    fn urls_are_found_in_the_payload_of_each_git_host() {
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
