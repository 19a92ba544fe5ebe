//! A registry in memory that is as strict as ECR, records its requests and can inject faults.

mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::Engine;
use codeloc_core::ids::Digest;
use serde_json::Value;

use crate::digest::sha256;
use wire::{CutHandle, CuttableListener};

/// A fault of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Does nothing and answers with this status.
    Status(u16),
    /// Does nothing and cuts the connection.
    CutBefore,
    /// Handles the request and cuts the connection before the answer.
    CutAfter,
    /// The answer has no Location.
    NoLocation,
    /// The answer has this Location.
    Location(&'static str),
    /// Answers a mount with the start of an upload.
    NoMount,
    /// Another client sent the same request a moment ago.
    SameBefore,
    /// Another client pushed another manifest with the same tag a moment ago.
    OtherBefore,
    /// Changes the password before it handles the request.
    NewPassword(&'static str),
    /// Never answers.
    Silence,
}

/// A request that the registry got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// Counted from 1.
    pub number: usize,
    pub method: String,
    pub path: String,
    /// Bytes of its body.
    pub bytes: usize,
}

impl RecordedRequest {
    pub fn is_read(&self) -> bool {
        ["GET", "HEAD"].contains(&self.method.as_str())
    }
}

type FaultRule = Box<dyn Fn(&RecordedRequest) -> Option<Fault> + Send>;

#[derive(Default)]
struct Contents {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest.
    manifests: BTreeMap<(String, String), Vec<u8>>,
    /// If set, no other repositories exist.
    repositories: Option<BTreeSet<String>>,
    password: Option<String>,
    log: Vec<String>,
    requests: Vec<RecordedRequest>,
    fault_rule: Option<FaultRule>,
    /// Refuses to move a tag, as ECR can.
    immutable: bool,
    /// First chunks of uploads.
    chunks: HashMap<String, Vec<u8>>,
}

impl Contents {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(password) = &self.password else {
            return true;
        };
        let basic = format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("AWS:{password}")));
        headers.get(header::AUTHORIZATION).is_some_and(|value| value.to_str().unwrap() == basic)
    }

    fn begin_upload(&mut self, repository: String, query: &BTreeMap<String, String>) -> Response {
        if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
            && let Some(bytes) = self.blobs.get(&(from.clone(), digest.clone())).cloned()
        {
            self.log.push(format!("mount {repository}"));
            self.blobs.insert((repository, digest.clone()), bytes);
            return located(StatusCode::CREATED, "/mounted");
        }
        located(StatusCode::ACCEPTED, &format!("/v2/{repository}/blobs/uploads/1"))
    }

    fn take_manifest(&mut self, repository: String, tag: String, body: Vec<u8>) -> Response {
        let manifest: Value = serde_json::from_slice(&body).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        for blob in layers.chain([&manifest["config"]]) {
            let key = (repository.clone(), blob["digest"].as_str().unwrap().to_owned());
            let size = blob["size"].as_u64().unwrap();
            if self.blobs.get(&key).is_none_or(|bytes| bytes.len() as u64 != size) {
                return refused(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN");
            }
        }
        if self.immutable && self.manifests.contains_key(&(repository.clone(), tag.clone())) {
            return refused(StatusCode::BAD_REQUEST, "TAG_INVALID");
        }
        self.log.push(format!("manifest {repository}"));
        self.manifests.insert((repository.clone(), sha256(&body).to_string()), body.clone());
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
        let service = router.into_make_service_with_connect_info::<CutHandle>();
        tokio::spawn(async move { axum::serve(CuttableListener(listener), service).await.unwrap() });
        Self { host, contents }
    }

    pub fn only_repositories(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.contents.lock().unwrap().repositories = Some(names);
    }

    /// Requires the user `AWS` and this password from now on.
    pub fn require_password(&self, password: &str) {
        self.contents.lock().unwrap().password = Some(password.to_owned());
    }

    /// The uploads since the last call: `blob REPOSITORY`, `mount REPOSITORY`, `manifest REPOSITORY`.
    pub fn uploads(&self) -> Vec<String> {
        std::mem::take(&mut self.contents.lock().unwrap().log)
    }

    /// The requests since the last call, in the order in which their bodies were complete.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        std::mem::take(&mut self.contents.lock().unwrap().requests)
    }

    /// Calls `rule` for each request from now on. Request numbers start again.
    pub fn set_faults(&self, rule: impl Fn(&RecordedRequest) -> Option<Fault> + Send + 'static) {
        let mut contents = self.contents.lock().unwrap();
        contents.requests.clear();
        contents.fault_rule = Some(Box::new(rule));
    }

    pub fn clear_faults(&self) {
        self.contents.lock().unwrap().fault_rule = None;
    }

    /// Refuses to move a tag from now on.
    pub fn make_immutable(&self) {
        self.contents.lock().unwrap().immutable = true;
    }

    pub fn has_blob(&self, repository: &str, digest: &str) -> bool {
        self.contents.lock().unwrap().blobs.contains_key(&(repository.to_owned(), digest.to_owned()))
    }

    pub fn forget_blob(&self, repository: &str, digest: &str) {
        self.contents.lock().unwrap().blobs.remove(&(repository.to_owned(), digest.to_owned()));
    }

    pub fn manifest(&self, repository: &str, reference: &str) -> Value {
        let key = (repository.to_owned(), reference.to_owned());
        serde_json::from_slice(&self.contents.lock().unwrap().manifests[&key]).unwrap()
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        let key = (repository.to_owned(), digest.to_owned());
        self.contents.lock().unwrap().blobs[&key].clone()
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        let key = (repository.to_owned(), digest.to_string());
        self.contents.lock().unwrap().blobs.insert(key, bytes.to_vec());
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> Digest {
        let bytes = manifest.to_string().into_bytes();
        let digest = sha256(&bytes);
        let mut contents = self.contents.lock().unwrap();
        for reference in [tag, &digest] {
            contents.manifests.insert((repository.to_owned(), reference.to_owned()), bytes.clone());
        }
        digest
    }
}

fn status(status: StatusCode) -> Response {
    status.into_response()
}

fn refused(code: StatusCode, error: &str) -> Response {
    (code, format!(r#"{{"errors":[{{"code":"{error}","message":"{error}"}}]}}"#)).into_response()
}

fn located(code: StatusCode, location: &str) -> Response {
    (code, [(header::LOCATION, location.to_owned())]).into_response()
}

async fn answer(
    State(contents): State<Arc<Mutex<Contents>>>,
    ConnectInfo(connection): ConnectInfo<CutHandle>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    // An interrupted request changes nothing.
    let Ok(body) = axum::body::to_bytes(body, 1 << 30).await else { return status(StatusCode::BAD_REQUEST) };
    let fault = {
        let mut contents = contents.lock().unwrap();
        let recorded = RecordedRequest {
            number: contents.requests.len() + 1,
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            bytes: body.len(),
        };
        let fault = contents.fault_rule.as_ref().and_then(|rule| rule(&recorded));
        contents.requests.push(recorded);
        fault
    };
    let handled = || contents.lock().unwrap().handle(&parts, body.to_vec(), fault);
    match fault {
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Status(code)) => {
            let name = if code == 429 { "TOOMANYREQUESTS" } else { "UNKNOWN" };
            refused(StatusCode::from_u16(code).unwrap(), name)
        }
        Some(Fault::CutBefore) => {
            connection.cut();
            status(StatusCode::OK)
        }
        Some(Fault::CutAfter) => {
            let response = handled();
            connection.cut();
            response
        }
        Some(Fault::SameBefore) => {
            handled();
            handled()
        }
        Some(Fault::NoLocation) => {
            let mut response = handled();
            response.headers_mut().remove(header::LOCATION);
            response
        }
        Some(Fault::Location(location)) => {
            let mut response = handled();
            response.headers_mut().insert(header::LOCATION, location.parse().unwrap());
            response
        }
        Some(Fault::NewPassword(password)) => {
            contents.lock().unwrap().password = Some(password.to_owned());
            handled()
        }
        None | Some(Fault::NoMount | Fault::OtherBefore) => handled(),
    }
}

impl Contents {
    fn handle(&mut self, parts: &Parts, body: Vec<u8>, fault: Option<Fault>) -> Response {
        if !self.admits(&parts.headers) {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
            return (StatusCode::UNAUTHORIZED, challenge).into_response();
        }
        let Some(path) = parts.uri.path().strip_prefix("/v2/") else {
            return status(StatusCode::NOT_FOUND);
        };
        let mut query = query_of(parts);
        if path.is_empty() {
            return status(StatusCode::OK);
        }
        let (repository, kind, rest) = ["/blobs/", "/manifests/"]
            .iter()
            .find_map(|kind| {
                path.split_once(kind).map(|(repository, rest)| (repository.to_owned(), *kind, rest.to_owned()))
            })
            .unwrap();
        if self.repositories.as_ref().is_some_and(|known| !known.contains(&repository)) {
            return refused(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
        }
        if fault == Some(Fault::NoMount) {
            query.remove("mount");
        }
        if fault == Some(Fault::OtherBefore) {
            self.manifests.insert((repository.clone(), rest.clone()), b"{\"schemaVersion\":2}".to_vec());
        }
        match (kind, &parts.method) {
            ("/blobs/", &Method::POST) => self.begin_upload(repository, &query),
            // ECR stores the first chunk and acknowledges the others without storing them.
            ("/blobs/", &Method::PATCH) => {
                self.chunks.entry(rest).or_insert(body);
                located(StatusCode::CREATED, parts.uri.path())
            }
            ("/blobs/", &Method::PUT) => {
                let digest = query["digest"].clone();
                let has_length = parts.headers.contains_key(header::CONTENT_LENGTH);
                let bytes = [self.chunks.remove(&rest).unwrap_or_default(), body].concat();
                if !has_length || sha256(&bytes) != digest.as_str() {
                    return refused(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
                }
                self.log.push(format!("blob {repository}"));
                self.blobs.insert((repository, digest), bytes);
                located(StatusCode::CREATED, "/uploaded")
            }
            ("/manifests/", &Method::PUT) => self.take_manifest(repository, rest, body),
            (kind, method) => self.read(kind, method, repository, rest),
        }
    }

    fn read(&self, kind: &str, method: &Method, repository: String, reference: String) -> Response {
        let found = if kind == "/blobs/" { &self.blobs } else { &self.manifests };
        let Some(bytes) = found.get(&(repository, reference)).cloned() else {
            let unknown = if kind == "/blobs/" { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
            return refused(StatusCode::NOT_FOUND, unknown);
        };
        let media_type = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|document| document["mediaType"].as_str().map(str::to_owned))
            .unwrap_or_else(|| "application/octet-stream".to_owned());
        let headers = [("docker-content-digest", sha256(&bytes).to_string()), ("content-type", media_type)];
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(bytes) };
        (StatusCode::OK, headers, body).into_response()
    }
}

fn query_of(parts: &Parts) -> BTreeMap<String, String> {
    let decoded = |value| percent_encoding::percent_decode_str(value).decode_utf8().unwrap().into_owned();
    let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}
