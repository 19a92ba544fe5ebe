//! One repository of a registry, over the OCI protocol.
//!
//! Guarantees: blobs go up in one request of known length from a file (ECR answers chunks with 201 and drops the later
//! ones), and only when the registry lacks them; a manifest counts as pushed when the registry names our digest for it.
//! Loopback registries are spoken to in plain HTTP, all others in HTTPS.

use std::{future::Future, net::IpAddr, path::Path, time::Duration};

use bytes::Bytes;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{BuildError, disk::on_disk, layer::Layer};

const CHUNK: usize = 1 << 18;
/// Bytes per second below which an upload is given up.
const SLOWEST_UPLOAD: u64 = 256 << 10;

/// Where a registry's user name and password come from.
pub trait RegistryCredentials: Send + Sync + 'static {
    /// For `host[:port]`; absent where the registry asks for none.
    fn for_registry(&self, host: &str) -> impl Future<Output = Result<Option<(String, String)>, BuildError>> + Send;
}

/// Registries that let everyone in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl RegistryCredentials for Anonymous {
    async fn for_registry(&self, _host: &str) -> Result<Option<(String, String)>, BuildError> {
        Ok(None)
    }
}

/// An image's manifest, the digest it has in the registry, and its config.
pub(super) struct Pulled {
    pub digest: String,
    pub manifest: OciImageManifest,
    pub config: Vec<u8>,
}

/// What a [`Registry`] is opened for; some registries hand out other tokens for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A client for one repository. Made anew per build, since the clients inside never forget an expired password.
pub(super) struct Registry {
    client: Client,
    /// Without a limit on silence, which a registry keeps for as long as it receives.
    uploads: Client,
    timeout: Duration,
    host: String,
    path: String,
}

impl Registry {
    /// `target` is `host[:port]/path`. `timeout` limits a silent read; an upload has that and [`SLOWEST_UPLOAD`].
    pub(super) async fn open(
        target: &str,
        access: Access,
        credentials: &impl RegistryCredentials,
        timeout: Duration,
    ) -> Result<Self, BuildError> {
        let parts = target.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
        let Some((host, path)) = parts else {
            return Err(BuildError::Terminal(format!("{target} is not an image repository: host[:port]/path")));
        };
        let auth = match credentials.for_registry(host).await? {
            Some((user, password)) => RegistryAuth::Basic(user, password),
            None => RegistryAuth::Anonymous,
        };
        let reads = client(host, &auth, Some(timeout)).await?;
        let uploads = client(host, &auth, None).await?;
        let registry = Self { client: reads, uploads, timeout, host: host.to_owned(), path: path.to_owned() };
        // Asks at once, so that a refused password is an error of its own instead of a 401 further on.
        let operation = match access {
            Access::Read => RegistryOperation::Pull,
            Access::Write => RegistryOperation::Push,
        };
        let admitted = registry.client.auth(&registry.tagged("latest"), &auth, operation).await;
        admitted.map_err(|error| registry.failed("log in to", &error))?;
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

    fn digested(&self, digest: &str) -> Reference {
        Reference::with_digest(self.host.clone(), self.path.clone(), digest.to_owned())
    }

    /// The digest behind a tag, if the tag exists.
    pub(super) async fn digest_of(&self, tag: &str) -> Result<Option<String>, BuildError> {
        match self.client.fetch_manifest_digest(&self.tagged(tag), &RegistryAuth::Anonymous).await {
            Ok(digest) => Ok(Some(digest)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed("look for the image in", &error)),
        }
    }

    /// Reads manifest and config behind a digest or tag; out of an index, those of linux on `architecture`.
    pub(super) async fn pull(&self, reference: &str, architecture: &str) -> Result<Pulled, BuildError> {
        let image = if reference.starts_with("sha256:") { self.digested(reference) } else { self.tagged(reference) };
        let read = async |image: &Reference| self.client.pull_manifest(image, &RegistryAuth::Anonymous).await;
        let (mut manifest, mut digest) =
            read(&image).await.map_err(|error| self.failed("read the image in", &error))?;
        if let OciManifest::ImageIndex(index) = &manifest {
            let fits = |platform: &oci_client::manifest::Platform| {
                platform.os.to_string() == "linux" && platform.architecture.to_string() == architecture
            };
            let Some(entry) = index.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(fits)) else {
                return Err(BuildError::Terminal(format!(
                    "{}/{}:{reference} has no image for linux/{architecture}",
                    self.host, self.path
                )));
            };
            let image = self.digested(&entry.digest);
            (manifest, digest) = read(&image).await.map_err(|error| self.failed("read the image in", &error))?;
        }
        let OciManifest::Image(manifest) = manifest else {
            return Err(BuildError::Terminal(format!(
                "{}/{}:{reference} is an index of indexes",
                self.host, self.path
            )));
        };
        let mut config = Vec::new();
        let pulled = self.client.pull_blob(&image, &manifest.config, &mut config).await;
        pulled.map_err(|error| self.failed("read the image's config in", &error))?;
        Ok(Pulled { digest, manifest, config })
    }

    pub(super) async fn has_blob(&self, digest: &str) -> Result<bool, BuildError> {
        let image = self.tagged("latest");
        self.client.blob_exists(&image, digest).await.map_err(|error| self.failed("look for a layer in", &error))
    }

    /// Takes a blob over from another repository of the same registry; `false` where the registry does not do that.
    pub(super) async fn mount(&self, digest: &str, from: &str) -> bool {
        let source = Reference::with_tag(self.host.clone(), from.to_owned(), "latest".to_owned());
        self.client.mount_blob(&self.tagged("latest"), &source, digest).await.is_ok()
    }

    /// Sends a file as it is, without holding it in memory.
    pub(super) async fn push_file(
        &self,
        layer: &Layer,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), BuildError> {
        let opened = tokio::fs::File::open(file).await.map_err(|error| on_disk(file, &error))?;
        let (sent, mut seen) = tokio::sync::watch::channel(0_u64);
        let stream = futures::stream::try_unfold((opened, sent), |(mut file, sent)| async move {
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
            sent.send_modify(|bytes| *bytes += read as u64);
            Ok((read > 0).then(|| (Bytes::from(chunk), (file, sent))))
        });
        let mut pushing = std::pin::pin!(self.push_stream("push a layer to", stream, &layer.digest, layer.size));
        let mut told = 0;
        loop {
            tokio::select! {
                ended = &mut pushing => return ended,
                Ok(()) = seen.changed() => {
                    let mebibytes = *seen.borrow_and_update() >> 20;
                    if mebibytes > told {
                        told = mebibytes;
                        progress(mebibytes);
                    }
                }
            }
        }
    }

    /// Sends a small blob, unless it is there.
    pub(super) async fn push_bytes(&self, bytes: Vec<u8>, digest: &str) -> Result<(), BuildError> {
        if self.has_blob(digest).await? {
            return Ok(());
        }
        let size = bytes.len() as u64;
        let stream = futures::stream::iter([Ok(Bytes::from(bytes))]);
        self.push_stream("push the image's config to", stream, digest, size).await
    }

    /// In one request, as a stream also where the bytes are at hand: the client's other ways panic at a Location that is
    /// no URL.
    async fn push_stream(
        &self,
        purpose: &str,
        stream: impl futures::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static,
        digest: &str,
        size: u64,
    ) -> Result<(), BuildError> {
        let allowed = self.timeout + Duration::from_secs(size / SLOWEST_UPLOAD);
        let reference = self.tagged("latest");
        let push = self.uploads.push_blob_stream(&reference, stream, digest, Some(size));
        let error = match tokio::time::timeout(allowed, push).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(BuildError::Transient(format!(
                    "pushing {size} bytes to {}/{} took longer than {} s",
                    self.host,
                    self.path,
                    allowed.as_secs()
                )));
            }
        };
        // A registry that took it may answer without Location, or its answer may get lost.
        if matches!(self.has_blob(digest).await, Ok(true)) { Ok(()) } else { Err(self.failed(purpose, &error)) }
    }

    /// Receives a blob into a file, checking its digest.
    pub(super) async fn pull_file(&self, blob: &OciDescriptor, file: &Path) -> Result<(), BuildError> {
        let mut opened = tokio::fs::File::create(file).await.map_err(|error| on_disk(file, &error))?;
        let pulled = self.client.pull_blob(&self.tagged("latest"), blob, &mut opened).await;
        pulled.map_err(|error| self.failed("read a layer from", &error))?;
        opened.sync_all().await.map_err(|error| on_disk(file, &error))
    }

    /// Pushes a manifest under a tag and returns its digest, once the registry confirms it.
    pub(super) async fn push_manifest(&self, tag: &str, manifest: Vec<u8>) -> Result<String, BuildError> {
        let digest = sha256(&manifest);
        let media_type = reqwest::header::HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        let pushed = self.client.push_manifest_raw(&self.tagged(tag), manifest, media_type).await;
        // What counts is what the tag says now: an answer may get lost, and a tag that may not move is there already when
        // somebody else pushed the same image a moment before.
        match (self.digest_of(tag).await, pushed) {
            (Ok(Some(found)), _) if found == digest => Ok(digest),
            (Ok(Some(found)), _) => Err(BuildError::Transient(format!(
                "{}/{}:{tag} should be {digest}, the registry has {found}",
                self.host, self.path
            ))),
            (_, Err(error)) => Err(self.failed("push the image to", &error)),
            (Ok(None), Ok(_)) => Err(BuildError::Transient(format!(
                "{}/{}:{tag} should be {digest}, the registry has nothing",
                self.host, self.path
            ))),
            (Err(error), Ok(_)) => Err(error),
        }
    }

    /// The registry's answer without URLs, which may carry upload tokens.
    fn failed(&self, purpose: &str, error: &OciDistributionError) -> BuildError {
        let place = format!("{}/{}", self.host, self.path);
        let unknown = match error {
            OciDistributionError::ServerError { message, .. } => message.contains("NAME_UNKNOWN"),
            OciDistributionError::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|one| one.code == OciErrorCode::NameUnknown)
            }
            _ => false,
        };
        if unknown {
            return BuildError::Transient(format!(
                "cannot {purpose} {place}: the registry has no such repository (yet)"
            ));
        }
        let why = match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::ServerError { code: 401, .. } => {
                "the registry refuses the credentials".to_owned()
            }
            OciDistributionError::ServerError { code, message, .. } => {
                format!("the registry answered {code} {}", message.trim())
            }
            OciDistributionError::RegistryError { envelope, .. } => envelope.to_string(),
            OciDistributionError::RequestError(error) => chain(error),
            other => other.to_string(),
        };
        BuildError::Transient(format!("cannot {purpose} {place}: {why}"))
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
    let client =
        Client::try_from(config).map_err(|error| BuildError::Transient(format!("no registry client: {error}")))?;
    client.store_auth_if_needed(host, auth).await;
    Ok(client)
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An error with its causes and without its URL: reqwest's own text ends at `error sending request`, and at a status it
/// has no cause.
fn chain(error: &reqwest::Error) -> String {
    match error.status() {
        Some(reqwest::StatusCode::UNAUTHORIZED) => return "the registry refuses the credentials".to_owned(),
        Some(status) => return format!("the registry answered {status}"),
        None => {}
    }
    let mut text = "the request failed".to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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

fn is_loopback(host: &str) -> bool {
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
    fn plain_http_is_for_loopback_alone() {
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
