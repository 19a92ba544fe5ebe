//! The HTTP API `/v2/`: the OCI distribution specification 1.1, with the stricter answers of ECR.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::any;
use base64::Engine;
use futures::StreamExt;
use http::header::{ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LINK, LOCATION, RANGE};
use http::header::{HeaderMap, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::RegistryError;
use super::manifest::{Descriptor, Document};
use super::upload::Upload;
use super::{Manifest, Registry};
use crate::access::guarded;
use crate::lock::lock;

/// The specification requires registries to accept manifests of 4 MiB; ECR accepts no larger ones.
const MANIFEST_BYTES: usize = 4 << 20;
const DIGEST: &str = "docker-content-digest";
const UPLOAD_ID: &str = "docker-upload-uuid";

type Answer = Result<Response, RegistryError>;

/// The routes under `/v2/`.
pub fn router(registry: Arc<Registry>) -> Router {
    let routes = Router::new()
        .route("/v2", any(serve))
        .route("/v2/", any(serve))
        .route("/v2/{*rest}", any(serve))
        .with_state(registry);
    guarded(routes)
}

/// The target of a path under `/v2/`. Repository names have slashes, so the path is parsed from its end.
enum Target<'a> {
    Registry,
    Blob { name: &'a str, digest: &'a str },
    Uploads { name: &'a str },
    Upload { name: &'a str, id: &'a str },
    Manifest { name: &'a str, reference: &'a str },
    Tags { name: &'a str },
    Referrers { name: &'a str, digest: &'a str },
}

impl<'a> Target<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?.trim_start_matches('/');
        if rest.is_empty() {
            return Some(Self::Registry);
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
            return Some(Self::Uploads { name });
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Self::Tags { name });
        }
        let (front, last) = rest.rsplit_once('/')?;
        if let Some(name) = front.strip_suffix("/blobs/uploads") {
            Some(Self::Upload { name, id: last })
        } else if let Some(name) = front.strip_suffix("/blobs") {
            Some(Self::Blob { name, digest: last })
        } else if let Some(name) = front.strip_suffix("/manifests") {
            Some(Self::Manifest { name, reference: last })
        } else {
            front.strip_suffix("/referrers").map(|name| Self::Referrers { name, digest: last })
        }
    }
}

struct Call {
    method: Method,
    headers: HeaderMap,
    query: BTreeMap<String, String>,
    body: Body,
}

impl Call {
    fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

async fn serve(State(registry): State<Arc<Registry>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    let method = parts.method.to_string();
    let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri).map(|query| query.0).unwrap_or_default();
    let call = Call { method: parts.method, headers: parts.headers, query, body };
    let response = match answer(&registry, &path, call).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    };
    registry.record(super::Request { method, path, status: response.status().as_u16() });
    response
}

async fn answer(registry: &Registry, path: &str, call: Call) -> Answer {
    authorize(registry, &call)?;
    let target = Target::parse(path)
        .ok_or_else(|| RegistryError::Unsupported(format!("{path} is not a path of the registry API")))?;
    let method = call.method.clone();
    match (method.as_str(), target) {
        ("GET" | "HEAD", Target::Registry) => {
            Ok(reply(StatusCode::OK).header("docker-distribution-api-version", "registry/2.0").json(&json!({})))
        }
        ("GET" | "HEAD", Target::Blob { name, digest }) => {
            let range = call.header(RANGE).map(str::to_owned);
            blob(registry, name, digest, method == Method::HEAD, range).await
        }
        ("DELETE", Target::Blob { name, digest }) => {
            registry.unlink_blob(name, digest)?;
            Ok(reply(StatusCode::ACCEPTED).empty())
        }
        ("POST", Target::Uploads { name }) => start(registry, name, call).await,
        ("GET", Target::Upload { name, id }) => {
            let upload = take(registry, name, id)?;
            let response = progress(StatusCode::NO_CONTENT, &upload);
            put_back(registry, upload);
            Ok(response)
        }
        ("PATCH", Target::Upload { name, id }) => {
            let upload = receive(registry, take(registry, name, id)?, call).await?;
            let response = progress(StatusCode::ACCEPTED, &upload);
            put_back(registry, upload);
            Ok(response)
        }
        ("PUT", Target::Upload { name, id }) => {
            let digest = call.parameter("digest").unwrap_or_default().to_owned();
            let upload = receive(registry, take(registry, name, id)?, call).await?;
            registry.finish(upload, &digest).await?;
            Ok(blob_created(name, &digest))
        }
        ("DELETE", Target::Upload { name, id }) => {
            drop(take(registry, name, id)?);
            Ok(reply(StatusCode::NO_CONTENT).empty())
        }
        ("GET" | "HEAD", Target::Manifest { name, reference }) => {
            let manifest = find(registry, name, reference)?;
            let body = if method == Method::HEAD { Body::empty() } else { Body::from(manifest.bytes.clone()) };
            Ok(reply(StatusCode::OK)
                .header(CONTENT_TYPE.as_str(), &manifest.media_type)
                .header(CONTENT_LENGTH.as_str(), &manifest.bytes.len().to_string())
                .header(DIGEST, &manifest.digest)
                .body(body))
        }
        ("PUT", Target::Manifest { name, reference }) => put_manifest(registry, name, reference, call).await,
        ("DELETE", Target::Manifest { name, reference }) => {
            registry.require(name)?;
            let deleted = if reference.contains(':') {
                registry.delete_image(name, reference)?
            } else {
                registry.untag(name, reference)?
            };
            if deleted { Ok(reply(StatusCode::ACCEPTED).empty()) } else { Err(unknown(name, reference)) }
        }
        ("GET", Target::Tags { name }) => tags(registry, name, &call),
        ("GET", Target::Referrers { name, digest }) => referrers(registry, name, digest),
        (method, _) => Err(RegistryError::Unsupported(format!("{path} does not support {method}"))),
    }
}

fn authorize(registry: &Registry, call: &Call) -> Result<(), RegistryError> {
    let Some(token) = lock(&registry.token).clone() else {
        return Ok(());
    };
    let given = call
        .header(AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Basic "))
        .and_then(|encoded| base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok());
    if given == Some(format!("AWS:{token}").into_bytes()) { Ok(()) } else { Err(RegistryError::Unauthorized) }
}

async fn blob(registry: &Registry, name: &str, digest: &str, only_head: bool, range: Option<String>) -> Answer {
    let path = registry.blob_of(name, digest)?;
    let size = tokio::fs::metadata(&path).await.map_err(RegistryError::storage(&path))?.len();
    let whole = reply(StatusCode::OK)
        .header(CONTENT_TYPE.as_str(), "application/octet-stream")
        .header(ACCEPT_RANGES.as_str(), "bytes")
        .header(DIGEST, digest);
    if only_head {
        return Ok(whole.header(CONTENT_LENGTH.as_str(), &size.to_string()).empty());
    }
    match range.map(|range| byte_range(&range, size)) {
        None => Ok(whole.header(CONTENT_LENGTH.as_str(), &size.to_string()).body(part(&path, 0, size).await?)),
        Some(Some((first, last))) => {
            let length = last - first + 1;
            let body = part(&path, first, length).await?;
            Ok(whole
                .status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_LENGTH.as_str(), &length.to_string())
                .header(CONTENT_RANGE.as_str(), &format!("bytes {first}-{last}/{size}"))
                .body(body))
        }
        Some(None) => Err(RegistryError::RangeInvalid(format!("the blob has {size} bytes"))),
    }
}

async fn part(path: &Path, first: u64, length: u64) -> Result<Body, RegistryError> {
    let mut file = tokio::fs::File::open(path).await.map_err(RegistryError::storage(path))?;
    file.seek(SeekFrom::Start(first)).await.map_err(RegistryError::storage(path))?;
    Ok(Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 << 10)))
}

/// The first and last byte of a `Range` header with one range; `None` if it is outside the content.
fn byte_range(header: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1)?;
    let (first, last) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse::<u64>().ok()?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}

/// POST: mounts a blob of another repository, stores a whole blob, or starts an upload.
async fn start(registry: &Registry, name: &str, call: Call) -> Answer {
    registry.require(name)?;
    if let (Some(digest), Some(from)) = (call.parameter("mount"), call.parameter("from"))
        && registry.mount(name, from, digest)?
    {
        return Ok(blob_created(name, digest));
    }
    let upload = Upload::new(name, &registry.folder.join("uploads"))?;
    if let Some(digest) = call.parameter("digest").map(str::to_owned) {
        let upload = receive(registry, upload, call).await?;
        registry.finish(upload, &digest).await?;
        return Ok(blob_created(name, &digest));
    }
    let response = progress(StatusCode::ACCEPTED, &upload);
    put_back(registry, upload);
    Ok(response)
}

/// Removes an upload from the table during a request. An aborted request drops it with its file, so that file and
/// digest never differ.
fn take(registry: &Registry, name: &str, id: &str) -> Result<Upload, RegistryError> {
    registry.require(name)?;
    let mut uploads = lock(&registry.uploads);
    if uploads.get(id).is_some_and(|upload| upload.repository == name)
        && let Some(upload) = uploads.remove(id)
    {
        return Ok(upload);
    }
    Err(RegistryError::UploadUnknown(id.to_owned()))
}

fn put_back(registry: &Registry, upload: Upload) {
    lock(&registry.uploads).insert(upload.id.clone(), upload);
}

/// Appends the body. A chunk at another offset than the end of the upload is refused; the upload stays valid.
async fn receive(registry: &Registry, mut upload: Upload, call: Call) -> Result<Upload, RegistryError> {
    let stated = match call.header(CONTENT_RANGE).map(|value| value.trim_start_matches("bytes ").to_owned()) {
        None => None,
        Some(text) => {
            let range = text
                .split_once('-')
                .and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
            match range {
                Some((first, last)) if first == upload.size && first <= last => Some(last),
                _ => {
                    let message = format!("the chunk is {text}, but the upload continues at {}", upload.size);
                    put_back(registry, upload);
                    return Err(RegistryError::RangeInvalid(message));
                }
            }
        }
    };
    let mut body = call.body.into_data_stream();
    while let Some(piece) = body.next().await {
        upload.append(&piece.map_err(|error| RegistryError::UploadInvalid(error.to_string()))?).await?;
    }
    match stated {
        Some(last) if last.checked_add(1) != Some(upload.size) => Err(RegistryError::UploadInvalid(format!(
            "the chunk ends at {}, but its Content-Range ends at {last}",
            upload.size
        ))),
        _ => Ok(upload),
    }
}

fn progress(status: StatusCode, upload: &Upload) -> Response {
    reply(status)
        .header(LOCATION.as_str(), &format!("/v2/{}/blobs/uploads/{}", upload.repository, upload.id))
        .header(RANGE.as_str(), &format!("0-{}", upload.size.saturating_sub(1)))
        .header(UPLOAD_ID, &upload.id)
        .empty()
}

fn blob_created(name: &str, digest: &str) -> Response {
    reply(StatusCode::CREATED)
        .header(LOCATION.as_str(), &format!("/v2/{name}/blobs/{digest}"))
        .header(DIGEST, digest)
        .empty()
}

fn unknown(name: &str, reference: &str) -> RegistryError {
    RegistryError::ManifestUnknown { repository: name.to_owned(), reference: reference.to_owned() }
}

fn find(registry: &Registry, name: &str, reference: &str) -> Result<Manifest, RegistryError> {
    registry.require(name)?;
    registry.manifest(name, reference).ok_or_else(|| unknown(name, reference))
}

async fn put_manifest(registry: &Registry, name: &str, reference: &str, call: Call) -> Answer {
    registry.require(name)?;
    let content_type = call.header(CONTENT_TYPE).map(str::to_owned);
    let bytes = to_bytes(call.body, MANIFEST_BYTES)
        .await
        .map_err(|error| RegistryError::ManifestInvalid(format!("cannot read a manifest of at most 4 MiB: {error}")))?;
    let (digest, subject) = registry.put_manifest(name, reference, content_type.as_deref(), &bytes)?;
    let mut response = reply(StatusCode::CREATED)
        .header(LOCATION.as_str(), &format!("/v2/{name}/manifests/{digest}"))
        .header(DIGEST, &digest);
    if let Some(subject) = subject {
        response = response.header("oci-subject", &subject);
    }
    Ok(response.empty())
}

fn tags(registry: &Registry, name: &str, call: &Call) -> Answer {
    let mut tags = registry.tags(name)?;
    if let Some(last) = call.parameter("last") {
        tags.retain(|tag| tag.as_str() > last);
    }
    let mut response = reply(StatusCode::OK);
    if let Some(count) = call.parameter("n").and_then(|count| count.parse::<usize>().ok())
        && count < tags.len()
    {
        tags.truncate(count);
        if let Some(last) = tags.last() {
            response =
                response.header(LINK.as_str(), &format!("</v2/{name}/tags/list?n={count}&last={last}>; rel=\"next\""));
        }
    }
    Ok(response.json(&json!({ "name": name, "tags": tags })))
}

fn referrers(registry: &Registry, name: &str, digest: &str) -> Answer {
    let mut manifests = Vec::new();
    for own in registry.referrers(name, digest)? {
        let manifest = find(registry, name, &own)?;
        let (document, _) =
            Document::parse(&manifest.bytes, Some(&manifest.media_type)).map_err(RegistryError::ManifestInvalid)?;
        manifests.push(Descriptor {
            media_type: manifest.media_type,
            digest: manifest.digest,
            size: manifest.bytes.len() as u64,
            artifact_type: document.artifact_type.or(document.config.map(|config| config.media_type)),
            annotations: document.annotations,
            platform: None,
            urls: Vec::new(),
        });
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    Ok(reply(StatusCode::OK).header(CONTENT_TYPE.as_str(), media_type).body(Body::from(index.to_string())))
}

/// Error codes of the specification, and ECR's `TAG_INVALID`.
fn refusal(error: &RegistryError) -> Response {
    let (status, code) = match error {
        RegistryError::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        RegistryError::NameInvalid(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        RegistryError::NameUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        RegistryError::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        RegistryError::TagImmutable { .. } => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
        RegistryError::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        RegistryError::ReferenceUnknown { .. } => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        RegistryError::BlobUnknown { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        RegistryError::UploadUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        RegistryError::UploadInvalid(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        RegistryError::DigestInvalid { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        RegistryError::RangeInvalid(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        RegistryError::Unsupported(_) => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        RegistryError::Storage { .. } => {
            tracing::error!(%error, "cannot read or write the registry's folder");
            (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN")
        }
    };
    let mut response = reply(status);
    if status == StatusCode::UNAUTHORIZED {
        response =
            response.header(WWW_AUTHENTICATE.as_str(), "Basic realm=\"localcloud\",service=\"ecr.amazonaws.com\"");
    }
    response.json(&json!({ "errors": [{ "code": code, "message": error.to_string() }] }))
}

/// A response under construction.
struct Reply(Response);

fn reply(status: StatusCode) -> Reply {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    Reply(response)
}

impl Reply {
    fn status(mut self, status: StatusCode) -> Self {
        *self.0.status_mut() = status;
        self
    }

    /// Values that are not valid in a header are omitted; digests, names and numbers are always valid.
    fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = value.parse() {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    fn body(mut self, body: Body) -> Response {
        *self.0.body_mut() = body;
        self.0
    }

    fn empty(self) -> Response {
        self.0
    }

    fn json(self, value: &serde_json::Value) -> Response {
        let body = Body::from(value.to_string());
        if self.0.headers().contains_key(CONTENT_TYPE) {
            return self.body(body);
        }
        self.header(CONTENT_TYPE.as_str(), "application/json").body(body)
    }
}
