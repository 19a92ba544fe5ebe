//! An OCI image layout in a folder, which a builder fills with the registry protocol on loopback.
//!
//! Source: the OCI distribution specification (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>) and the image layout
//! specification (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use codeloc_core::lock::lock;
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A manifest lists a few layers.
const LARGEST_MANIFEST: usize = 4 << 20;

/// An image layout that a builder can push to.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    /// The entries of `index.json`, by tag.
    manifests: Mutex<Vec<(String, Value)>>,
}

/// A layout that accepts pushes until this is dropped.
#[derive(Debug)]
pub struct Served {
    pub address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Layout {
    /// Creates the folder, or continues the layout in it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("blobs/sha256"))?;
        std::fs::write(folder.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        Ok(Self { folder: folder.to_owned(), manifests: Mutex::default() })
    }

    /// Serves the layout as a registry on loopback.
    pub async fn serve(self: &Arc<Self>) -> io::Result<Served> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(answer).with_state(Arc::clone(self));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the local registry has ended");
            }
        });
        Ok(Served { address, server })
    }

    /// The file of a blob. Its name is a digest.
    pub fn blob(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let is_digest = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| self.folder.join("blobs/sha256").join(hex))
    }

    /// A JSON document in a blob.
    pub fn document(&self, digest: &str) -> io::Result<Value> {
        let path = self.blob(digest).ok_or(io::ErrorKind::InvalidInput)?;
        serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
    }

    async fn upload(&self, digest: &str, body: Body) -> io::Result<bool> {
        let Some(path) = self.blob(digest) else { return Ok(false) };
        let file = tempfile::NamedTempFile::new_in(self.folder.join("blobs"))?;
        let (mut written, mut hash) = (tokio::fs::File::from_std(file.reopen()?), Sha256::new());
        let mut stream = body.into_data_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(io::Error::other)?;
            hash.update(&chunk);
            written.write_all(&chunk).await?;
        }
        written.flush().await?;
        if format!("sha256:{}", hex::encode(hash.finalize())) != digest {
            return Ok(false);
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(true)
    }

    async fn put_manifest(&self, tag: &str, body: Body) -> io::Result<String> {
        let bytes = axum::body::to_bytes(body, LARGEST_MANIFEST).await.map_err(io::Error::other)?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        std::fs::write(self.blob(&digest).ok_or(io::ErrorKind::InvalidInput)?, &bytes)?;
        let entry = json!({
            "mediaType": MANIFEST,
            "digest": digest,
            "size": bytes.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        });
        let mut manifests = lock(&self.manifests);
        manifests.retain(|(known, _)| known != tag);
        manifests.push((tag.to_owned(), entry));
        let entries: Vec<&Value> = manifests.iter().map(|(_, entry)| entry).collect();
        let index = json!({"schemaVersion": 2, "manifests": entries});
        std::fs::write(self.folder.join("index.json"), index.to_string())?;
        Ok(digest)
    }

    /// The digest of a manifest by tag or digest.
    fn manifest(&self, reference: &str) -> Option<String> {
        if reference.starts_with("sha256:") {
            return Some(reference.to_owned());
        }
        let manifests = lock(&self.manifests);
        let (_, entry) = manifests.iter().find(|(tag, _)| tag == reference)?;
        Some(entry["digest"].as_str()?.to_owned())
    }
}

async fn answer(State(layout): State<Arc<Layout>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let answered = respond(&layout, &method, &uri, request.into_body()).await;
    answered.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
}

async fn respond(layout: &Layout, method: &Method, uri: &Uri, body: Body) -> io::Result<Response> {
    let path = uri.path();
    if let Some((_, reference)) = path.rsplit_once("/manifests/") {
        if method == Method::PUT {
            let digest = layout.put_manifest(reference, body).await?;
            let headers = [(header::LOCATION.as_str(), path.to_owned()), ("docker-content-digest", digest)];
            return Ok((StatusCode::CREATED, headers).into_response());
        }
        let Some(digest) = layout.manifest(reference) else { return Ok(StatusCode::NOT_FOUND.into_response()) };
        return blob(layout, method, &digest, MANIFEST).await;
    }
    if path.ends_with("/blobs/uploads/") {
        let headers = [(header::LOCATION, format!("{path}1"))];
        return Ok((StatusCode::ACCEPTED, headers).into_response());
    }
    if path.contains("/blobs/uploads/") {
        let digest = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("digest="));
        let digest = digest.unwrap_or_default().replace("%3A", ":");
        if !layout.upload(&digest, body).await? {
            return Ok((StatusCode::BAD_REQUEST, "the digest does not fit the content").into_response());
        }
        return Ok((StatusCode::CREATED, [(header::LOCATION, path.to_owned())]).into_response());
    }
    match path.rsplit_once("/blobs/") {
        Some((_, digest)) => blob(layout, method, digest, "application/octet-stream").await,
        // The check of the version, which needs no login.
        None => Ok(StatusCode::OK.into_response()),
    }
}

async fn blob(layout: &Layout, method: &Method, digest: &str, media_type: &str) -> io::Result<Response> {
    let Some(path) = layout.blob(digest).filter(|path| path.is_file()) else {
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let size = tokio::fs::metadata(&path).await?.len();
    let headers = [
        (header::CONTENT_TYPE.as_str(), media_type.to_owned()),
        (header::CONTENT_LENGTH.as_str(), size.to_string()),
        ("docker-content-digest", digest.to_owned()),
    ];
    // Only manifests and configs are read back.
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(tokio::fs::read(&path).await?) };
    Ok((StatusCode::OK, headers, body).into_response())
}
