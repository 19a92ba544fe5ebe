//! A registry in memory, strict where ECR is, with a log of the requests it got.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::Engine;
use serde_json::Value;

use super::super::registry::sha256;

#[derive(Default)]
struct Contents {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), Vec<u8>>,
    /// Where set, other repositories are unknown.
    repositories: Option<BTreeSet<String>>,
    password: Option<String>,
    log: Vec<String>,
}

impl Contents {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(password) = &self.password else {
            return true;
        };
        let basic = format!(
            "Basic {}",
            base64::prelude::BASE64_STANDARD.encode(format!("AWS:{password}"))
        );
        headers
            .get(header::AUTHORIZATION)
            .is_some_and(|value| value.to_str().unwrap() == basic)
    }

    fn begin_upload(&mut self, repository: String, query: &BTreeMap<String, String>) -> Response {
        if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
            && let Some(bytes) = self.blobs.get(&(from.clone(), digest.clone())).cloned()
        {
            self.log.push(format!("mount {repository}"));
            self.blobs.insert((repository, digest.clone()), bytes);
            return located(StatusCode::CREATED, "/mounted");
        }
        located(
            StatusCode::ACCEPTED,
            &format!("/v2/{repository}/blobs/uploads/1"),
        )
    }

    fn take_manifest(&mut self, repository: String, tag: String, body: Vec<u8>) -> Response {
        let manifest: Value = serde_json::from_slice(&body).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        for blob in layers.chain([&manifest["config"]]) {
            let key = (
                repository.clone(),
                blob["digest"].as_str().unwrap().to_owned(),
            );
            let size = blob["size"].as_u64().unwrap();
            if self
                .blobs
                .get(&key)
                .is_none_or(|bytes| bytes.len() as u64 != size)
            {
                return refused(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        self.log.push(format!("manifest {repository}"));
        self.manifests
            .insert((repository.clone(), sha256(&body)), body.clone());
        self.manifests.insert((repository, tag), body);
        // ECR sends no Location here either.
        status(StatusCode::CREATED)
    }
}

#[derive(Clone)]
pub struct TestRegistry {
    /// `127.0.0.1:port`
    pub host: String,
    contents: Arc<Mutex<Contents>>,
}

impl TestRegistry {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let contents: Arc<Mutex<Contents>> = Arc::default();
        let router = Router::new().fallback(answer).with_state(contents.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, contents }
    }

    pub fn only_repositories(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.contents.lock().unwrap().repositories = Some(names);
    }

    /// Wants `AWS` and this password from now on.
    pub fn require_password(&self, password: &str) {
        self.contents.lock().unwrap().password = Some(password.to_owned());
    }

    /// The uploads since the last call: `blob REPOSITORY`, `mount REPOSITORY`, `manifest REPOSITORY`.
    pub fn uploads(&self) -> Vec<String> {
        std::mem::take(&mut self.contents.lock().unwrap().log)
    }

    pub fn manifest(&self, repository: &str, reference: &str) -> Value {
        let key = (repository.to_owned(), reference.to_owned());
        serde_json::from_slice(&self.contents.lock().unwrap().manifests[&key]).unwrap()
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        let key = (repository.to_owned(), digest.to_owned());
        self.contents.lock().unwrap().blobs[&key].clone()
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let key = (repository.to_owned(), digest.clone());
        self.contents
            .lock()
            .unwrap()
            .blobs
            .insert(key, bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> String {
        let bytes = manifest.to_string().into_bytes();
        let digest = sha256(&bytes);
        let mut contents = self.contents.lock().unwrap();
        for reference in [tag, &digest] {
            contents
                .manifests
                .insert((repository.to_owned(), reference.to_owned()), bytes.clone());
        }
        digest
    }
}

fn status(status: StatusCode) -> Response {
    status.into_response()
}

fn refused(code: StatusCode, error: &str) -> Response {
    (
        code,
        format!(r#"{{"errors":[{{"code":"{error}","message":"{error}"}}]}}"#),
    )
        .into_response()
}

fn located(code: StatusCode, location: &str) -> Response {
    (code, [(header::LOCATION, location.to_owned())]).into_response()
}

async fn answer(State(contents): State<Arc<Mutex<Contents>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let has_length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let body = axum::body::to_bytes(body, 1 << 30).await.unwrap().to_vec();
    let mut contents = contents.lock().unwrap();
    if !contents.admits(&parts.headers) {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
        return (StatusCode::UNAUTHORIZED, challenge).into_response();
    }
    let Some(path) = parts.uri.path().strip_prefix("/v2/") else {
        return status(StatusCode::NOT_FOUND);
    };
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| {
            (
                name.to_owned(),
                percent_encoding::percent_decode_str(value)
                    .decode_utf8()
                    .unwrap()
                    .into_owned(),
            )
        })
        .collect();
    if path.is_empty() {
        return status(StatusCode::OK);
    }
    let (repository, kind, rest) = ["/blobs/", "/manifests/"]
        .iter()
        .find_map(|kind| {
            path.split_once(kind)
                .map(|(repository, rest)| (repository.to_owned(), *kind, rest.to_owned()))
        })
        .unwrap();
    if contents
        .repositories
        .as_ref()
        .is_some_and(|known| !known.contains(&repository))
    {
        return refused(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    }
    match (kind, &parts.method) {
        ("/blobs/", &Method::POST) => contents.begin_upload(repository, &query),
        ("/blobs/", &Method::PUT) => {
            let digest = query["digest"].clone();
            if !has_length || sha256(&body) != digest {
                return refused(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
            }
            contents.log.push(format!("blob {repository}"));
            contents.blobs.insert((repository, digest), body);
            located(StatusCode::CREATED, "/uploaded")
        }
        ("/manifests/", &Method::PUT) => contents.take_manifest(repository, rest, body),
        (kind, method) => {
            let found = if kind == "/blobs/" {
                &contents.blobs
            } else {
                &contents.manifests
            };
            let Some(bytes) = found.get(&(repository, rest)).cloned() else {
                return refused(
                    StatusCode::NOT_FOUND,
                    if kind == "/blobs/" {
                        "BLOB_UNKNOWN"
                    } else {
                        "MANIFEST_UNKNOWN"
                    },
                );
            };
            let media_type = serde_json::from_slice::<Value>(&bytes)
                .ok()
                .and_then(|document| document["mediaType"].as_str().map(str::to_owned))
                .unwrap_or_else(|| "application/octet-stream".to_owned());
            let headers = [
                ("docker-content-digest", sha256(&bytes)),
                ("content-type", media_type),
            ];
            let body = if method == Method::HEAD {
                Body::empty()
            } else {
                Body::from(bytes)
            };
            (StatusCode::OK, headers, body).into_response()
        }
    }
}
