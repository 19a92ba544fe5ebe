//! A client for one repository of a registry, with the OCI protocol.
//!
//! Guarantees: a blob is uploaded only if the registry lacks it, in one request of known length (ECR answers chunks with 201
//! and drops all but the first); a manifest counts as pushed only if the registry confirms its digest. It uses plain HTTP for
//! loopback addresses and HTTPS for all others.

use std::{net::IpAddr, path::Path, time::Duration};

use bytes::Bytes;
use codeloc_core::ids::Digest;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciEnvelope, OciErrorCode},
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};
use tokio::io::AsyncReadExt;

use crate::credentials::{Login, RegistryCredentials};
use crate::digest::sha256;
use crate::disk::disk_error;
use crate::error::BuildError;

const CHUNK: usize = 1 << 18;
/// Bytes per second. A slower upload is aborted.
const MIN_UPLOAD_RATE: u64 = 256 << 10;

/// The manifest of an image, its digest in the registry, and its config.
pub(super) struct Pulled {
    pub digest: Digest,
    pub manifest: OciImageManifest,
    pub config: Vec<u8>,
}

/// Some registries give different tokens for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A client for one repository. Each build opens a new one, because a client keeps an expired password.
pub(super) struct Registry {
    client: Client,
    /// Without a read timeout: a registry sends nothing while it receives an upload.
    uploads: Client,
    timeout: Duration,
    host: String,
    path: String,
}

impl Registry {
    /// `target` is `host[:port]/path`. `timeout` limits a read that receives nothing. An upload may take this long plus its time
    /// at [`MIN_UPLOAD_RATE`].
    pub(super) async fn open(
        target: &str,
        access: Access,
        credentials: &impl RegistryCredentials,
        timeout: Duration,
    ) -> Result<Self, BuildError> {
        let parts = target.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
        let Some((host, path)) = parts else {
            return Err(BuildError::terminal(format!(
                "{target} is not an image repository; write it as host[:port]/path"
            )));
        };
        let auth = match credentials.for_registry(host).await? {
            Some(Login { user, password }) => RegistryAuth::Basic(user, password),
            None => RegistryAuth::Anonymous,
        };
        let reads = client(host, &auth, Some(timeout)).await?;
        let uploads = client(host, &auth, None).await?;
        let registry = Self { client: reads, uploads, timeout, host: host.to_owned(), path: path.to_owned() };
        // Logs in at once, so that a refused password has a clear error.
        let operation = match access {
            Access::Read => RegistryOperation::Pull,
            Access::Write => RegistryOperation::Push,
        };
        let login = registry.client.auth(&registry.tagged("latest"), &auth, operation).await;
        login.map_err(|error| registry.failed("log in to", error))?;
        Ok(registry)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.host.clone(), self.path.clone(), tag.to_owned())
    }

    fn by_digest(&self, digest: &str) -> Reference {
        Reference::with_digest(self.host.clone(), self.path.clone(), digest.to_owned())
    }

    /// The image with this tag or digest.
    fn image(&self, reference: &str) -> Reference {
        if reference.starts_with("sha256:") { self.by_digest(reference) } else { self.tagged(reference) }
    }

    /// The digest behind a tag or digest, or `None` if the registry does not have it.
    pub(super) async fn digest_of(&self, reference: &str) -> Result<Option<Digest>, BuildError> {
        match self.client.fetch_manifest_digest(&self.image(reference), &RegistryAuth::Anonymous).await {
            Ok(digest) => Ok(Some(Digest::from(digest))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed("look up the image in", error)),
        }
    }

    /// Reads the manifest and config behind a digest or tag. In an index, it chooses the image for linux on `architecture`.
    pub(super) async fn pull(&self, reference: &str, architecture: &str) -> Result<Pulled, BuildError> {
        let image = self.image(reference);
        let read = async |image: &Reference| self.client.pull_manifest(image, &RegistryAuth::Anonymous).await;
        let (mut manifest, mut digest) = read(&image).await.map_err(|error| self.failed("read the image in", error))?;
        if let OciManifest::ImageIndex(index) = &manifest {
            let fits = |platform: &oci_client::manifest::Platform| {
                platform.os.to_string() == "linux" && platform.architecture.to_string() == architecture
            };
            let Some(entry) = index.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(fits)) else {
                return Err(BuildError::terminal(format!(
                    "{}/{}:{reference} has no image for linux/{architecture}; use another image or architecture",
                    self.host, self.path
                )));
            };
            let image = self.by_digest(&entry.digest);
            (manifest, digest) = read(&image).await.map_err(|error| self.failed("read the image in", error))?;
        }
        let OciManifest::Image(manifest) = manifest else {
            return Err(BuildError::terminal(format!(
                "{}/{}:{reference} is an index of indexes, which codeloc does not support; use an image in it",
                self.host, self.path
            )));
        };
        let mut config = Vec::new();
        let pulled = self.client.pull_blob(&image, &manifest.config, &mut config).await;
        pulled.map_err(|error| self.failed("read the image config in", error))?;
        Ok(Pulled { digest: Digest::from(digest), manifest, config })
    }

    pub(super) async fn has_blob(&self, digest: &Digest) -> Result<bool, BuildError> {
        let image = self.tagged("latest");
        self.client.blob_exists(&image, digest).await.map_err(|error| self.failed("look up a layer in", error))
    }

    /// Mounts a blob from another repository of the same registry. `false` if the registry does not mount it.
    pub(super) async fn mount(&self, digest: &Digest, from: &str) -> bool {
        let source = Reference::with_tag(self.host.clone(), from.to_owned(), "latest".to_owned());
        self.client.mount_blob(&self.tagged("latest"), &source, digest).await.is_ok()
    }

    /// Uploads a file without loading it into memory.
    pub(super) async fn push_file(
        &self,
        digest: &Digest,
        size: u64,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), BuildError> {
        let opened = tokio::fs::File::open(file).await.map_err(|error| disk_error(file, error))?;
        let (sent, mut received) = tokio::sync::watch::channel(0_u64);
        let stream = futures::stream::try_unfold((opened, sent), |(mut file, sent)| async move {
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
            sent.send_modify(|bytes| *bytes += read as u64);
            Ok((read > 0).then(|| (Bytes::from(chunk), (file, sent))))
        });
        let mut pushing = std::pin::pin!(self.push_stream("push a layer to", stream, digest, size));
        let mut reported = 0;
        loop {
            tokio::select! {
                ended = &mut pushing => return ended,
                Ok(()) = received.changed() => {
                    let mebibytes = *received.borrow_and_update() >> 20;
                    if mebibytes > reported {
                        reported = mebibytes;
                        progress(mebibytes);
                    }
                }
            }
        }
    }

    /// Uploads a small blob, unless the registry has it.
    pub(super) async fn push_bytes(&self, bytes: Vec<u8>, digest: &Digest) -> Result<(), BuildError> {
        if self.has_blob(digest).await? {
            return Ok(());
        }
        let size = bytes.len() as u64;
        let stream = futures::stream::iter([Ok(Bytes::from(bytes))]);
        self.push_stream("push the image config to", stream, digest, size).await
    }

    /// Uploads in one request. Even small blobs are streams: the other functions of the client panic if a Location is not a
    /// URL.
    async fn push_stream(
        &self,
        purpose: &str,
        stream: impl futures::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static,
        digest: &Digest,
        size: u64,
    ) -> Result<(), BuildError> {
        let time_limit = self.timeout + Duration::from_secs(size / MIN_UPLOAD_RATE);
        let reference = self.tagged("latest");
        let push = self.uploads.push_blob_stream(&reference, stream, digest, Some(size));
        let error = match tokio::time::timeout(time_limit, push).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(BuildError::transient(format!(
                    "cannot {purpose} {}/{}: the upload of {size} bytes took longer than {} s",
                    self.host,
                    self.path,
                    time_limit.as_secs()
                )));
            }
        };
        // The registry may have the blob, although its answer has no Location or was lost.
        if matches!(self.has_blob(digest).await, Ok(true)) { Ok(()) } else { Err(self.failed(purpose, error)) }
    }

    /// Downloads a blob into a file and checks its digest.
    pub(super) async fn pull_file(&self, blob: &OciDescriptor, file: &Path) -> Result<(), BuildError> {
        let mut opened = tokio::fs::File::create(file).await.map_err(|error| disk_error(file, error))?;
        let pulled = self.client.pull_blob(&self.tagged("latest"), blob, &mut opened).await;
        pulled.map_err(|error| self.failed("read a layer from", error))?;
        opened.sync_all().await.map_err(|error| disk_error(file, error))
    }

    /// Pushes a manifest with a tag. Returns its digest when the registry confirms it.
    pub(super) async fn push_manifest(&self, tag: &str, manifest: Vec<u8>) -> Result<Digest, BuildError> {
        let digest = sha256(&manifest);
        let media_type = reqwest::header::HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        let pushed = self.client.push_manifest_raw(&self.tagged(tag), manifest, media_type).await;
        // Only the tag counts: the answer may be lost, and an immutable tag is refused if another process pushed the same
        // image a moment ago.
        match (self.digest_of(tag).await, pushed) {
            (Ok(Some(found)), _) if found == digest => Ok(digest),
            (Ok(Some(found)), _) => Err(BuildError::transient(format!(
                "{}/{}:{tag} should be {digest}, but the registry has {found}; delete the tag if nothing uses it",
                self.host, self.path
            ))),
            (_, Err(error)) => Err(self.failed("push the image to", error)),
            (Ok(None), Ok(_)) => Err(BuildError::transient(format!(
                "{}/{}:{tag} should be {digest}, but the registry does not have the tag",
                self.host, self.path
            ))),
            (Err(error), Ok(_)) => Err(error),
        }
    }

    fn failed(&self, purpose: &str, error: OciDistributionError) -> BuildError {
        BuildError::transient(format!("cannot {purpose} {}/{}", self.host, self.path))
            .caused_by(RegistryError::from(error))
    }
}

/// An error of a registry, without its URL, which may contain an upload token.
#[derive(Debug, thiserror::Error)]
enum RegistryError {
    #[error("the registry has no such repository, or does not show it yet")]
    UnknownRepository,
    #[error("the registry refuses the credentials")]
    Unauthorized,
    #[error("the registry answered with HTTP {code}: {message}")]
    Status { code: u16, message: String },
    #[error("{0}")]
    Refused(OciEnvelope),
    #[error(transparent)]
    Request(reqwest::Error),
    #[error(transparent)]
    Other(OciDistributionError),
}

impl From<OciDistributionError> for RegistryError {
    fn from(error: OciDistributionError) -> Self {
        match error {
            OciDistributionError::ServerError { message, .. } if message.contains("NAME_UNKNOWN") => {
                Self::UnknownRepository
            }
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|one| one.code == OciErrorCode::NameUnknown) =>
            {
                Self::UnknownRepository
            }
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::ServerError { code: 401, .. } => {
                Self::Unauthorized
            }
            OciDistributionError::ServerError { code, message, .. } => {
                Self::Status { code, message: message.trim().to_owned() }
            }
            OciDistributionError::RegistryError { envelope, .. } => Self::Refused(envelope),
            OciDistributionError::RequestError(error) => match error.status() {
                Some(reqwest::StatusCode::UNAUTHORIZED) => Self::Unauthorized,
                Some(status) => Self::Status {
                    code: status.as_u16(),
                    message: status.canonical_reason().unwrap_or_default().to_owned(),
                },
                None => Self::Request(error.without_url()),
            },
            other => Self::Other(other),
        }
    }
}

async fn client(host: &str, auth: &RegistryAuth, read_timeout: Option<Duration>) -> Result<Client, BuildError> {
    let config = ClientConfig {
        protocol: if is_loopback(host) { ClientProtocol::Http } else { ClientProtocol::Https },
        use_monolithic_push: true,
        platform_resolver: None,
        read_timeout,
        connect_timeout: Some(Duration::from_secs(10)),
        user_agent: concat!("codeloc/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    let client = Client::try_from(config).map_err(|error| {
        BuildError::transient("cannot create a registry client").caused_by(RegistryError::from(error))
    })?;
    client.store_auth_if_needed(host, auth).await;
    Ok(client)
}

fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RegistryError { envelope, .. } => {
            let absent = [OciErrorCode::ManifestUnknown, OciErrorCode::NotFound, OciErrorCode::NameUnknown];
            envelope.errors.iter().any(|one| absent.contains(&one.code))
        }
        _ => false,
    }
}

/// Whether `host[:port]` is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_use_plain_http() {
        for host in ["127.0.0.1:5000", "localhost:4566", "127.0.0.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "111122223333.dkr.ecr.eu-central-1.amazonaws.com",
            "10.0.0.1:5000",
            "localhost.example",
            "127.0.0.1.example:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
