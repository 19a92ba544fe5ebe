//! An OCI distribution registry on disk.
//!
//! Guarantees: data of a successful answer is on disk (written, synced, renamed) and survives a restart. A blob is stored only
//! under its digest. A manifest is accepted only if the repository has everything that it names. Uploads take bounded memory.
//! A tag of an immutable repository never moves. No other process can write to the folder. As in ECR, a repository must exist
//! before a push.
//!
//! On disk, `blobs/sha256/HEX` holds every blob and manifest once, `repositories/NAME.json` (slashes as `%2F`) lists the content of
//! a repository, and `uploads/` is cleared at start.

mod error;
mod http;
mod images;
mod manifest;
mod upload;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lock::lock;
pub use error::RegistryError;
pub use http::router;
pub use manifest::{Descriptor, Document, Platform};
use upload::Upload;

/// The number of requests in [`Registry::requests`], to bound memory.
const REQUESTS_KEPT: usize = 10_000;
/// ECR's limit for the name of a repository.
const NAME_LENGTH: std::ops::RangeInclusive<usize> = 2..=256;

pub struct Registry {
    folder: PathBuf,
    repositories: Mutex<BTreeMap<String, Repository>>,
    uploads: Mutex<HashMap<String, Upload>>,
    token: Mutex<Option<String>>,
    requests: Mutex<VecDeque<Request>>,
}

/// One repository, as in its file.
#[derive(Clone, Default, Deserialize, Serialize)]
struct Repository {
    manifests: BTreeMap<String, Stored>,
    tags: BTreeMap<String, String>,
    /// Blobs uploaded to or mounted into this repository. Other blobs are not visible in it.
    blobs: BTreeSet<String>,
    /// Tags cannot move to another image.
    #[serde(default)]
    immutable: bool,
}

#[derive(Clone, Deserialize, Serialize)]
struct Stored {
    media_type: String,
    size_bytes: u64,
    pushed_at: SystemTime,
    /// Config and layers, or the manifests of an index.
    references: BTreeSet<String>,
    #[serde(default)]
    subject: Option<String>,
}

/// An image as `DescribeImages` returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDetail {
    pub digest: String,
    pub tags: Vec<String>,
    /// Config and layers, compressed.
    pub size_bytes: u64,
    pub pushed_at: SystemTime,
    pub media_type: String,
    /// The digests of the manifests in an index.
    pub parts: Vec<String>,
}

/// A manifest, with exactly the pushed bytes.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: String,
    pub media_type: String,
    pub bytes: Bytes,
}

/// A request that the registry answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub status: u16,
}

impl Registry {
    /// Opens the registry in `folder`, or creates an empty one.
    pub fn new(folder: PathBuf) -> Result<Arc<Self>, RegistryError> {
        let uploads = folder.join("uploads");
        match fs::remove_dir_all(&uploads) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RegistryError::storage(&uploads)(error));
            }
            _ => {}
        }
        let kept = folder.join("repositories");
        for each in [&uploads, &kept, &folder.join("blobs/sha256")] {
            fs::create_dir_all(each).map_err(RegistryError::storage(each))?;
        }
        let mut repositories = BTreeMap::new();
        for entry in fs::read_dir(&kept).map_err(RegistryError::storage(&kept))? {
            let path = entry.map_err(RegistryError::storage(&kept))?.path();
            let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else {
                continue;
            };
            let text = fs::read(&path).map_err(RegistryError::storage(&path))?;
            let repository =
                serde_json::from_slice(&text).map_err(|error| RegistryError::storage(&path)(error.into()))?;
            repositories.insert(stem.replace("%2F", "/"), repository);
        }
        Ok(Arc::new(Self {
            folder,
            repositories: Mutex::new(repositories),
            uploads: Mutex::default(),
            token: Mutex::default(),
            requests: Mutex::default(),
        }))
    }

    /// Creates an empty repository; false if it exists.
    pub fn create(&self, name: &str) -> Result<bool, RegistryError> {
        if !is_name(name) {
            return Err(RegistryError::NameInvalid(name.to_owned()));
        }
        let mut repositories = lock(&self.repositories);
        if repositories.contains_key(name) {
            return Ok(false);
        }
        self.write(name, &Repository::default())?;
        repositories.insert(name.to_owned(), Repository::default());
        Ok(true)
    }

    /// Deletes a repository with all its images; false if it does not exist.
    pub fn delete(&self, name: &str) -> Result<bool, RegistryError> {
        let mut repositories = lock(&self.repositories);
        if !repositories.contains_key(name) {
            return Ok(false);
        }
        let path = self.repository_path(name);
        fs::remove_file(&path).map_err(RegistryError::storage(&path))?;
        if let Some(repository) = repositories.remove(name) {
            let gone = repository.blobs.into_iter().chain(repository.manifests.into_keys());
            self.sweep(&repositories, gone);
        }
        Ok(true)
    }

    pub fn exists(&self, name: &str) -> bool {
        lock(&self.repositories).contains_key(name)
    }

    /// The images of a repository, oldest first; empty if it does not exist.
    pub fn images(&self, name: &str) -> Vec<ImageDetail> {
        let repositories = lock(&self.repositories);
        let Some(repository) = repositories.get(name) else {
            return Vec::new();
        };
        let mut images: Vec<ImageDetail> = repository
            .manifests
            .iter()
            .map(|(digest, stored)| ImageDetail {
                digest: digest.clone(),
                tags: repository.tags_of(digest),
                size_bytes: stored.size_bytes,
                pushed_at: stored.pushed_at,
                media_type: stored.media_type.clone(),
                parts: {
                    let manifests = stored.references.iter().filter(|one| repository.manifests.contains_key(*one));
                    manifests.cloned().collect()
                },
            })
            .collect();
        images.sort_by_key(|image| image.pushed_at);
        images
    }

    /// Deletes an image, its tags and its unused blobs; false if the image does not exist.
    pub fn delete_image(&self, name: &str, digest: &str) -> Result<bool, RegistryError> {
        let mut repositories = lock(&self.repositories);
        let Some(repository) = repositories.get(name) else {
            return Ok(false);
        };
        let mut next = repository.clone();
        let Some(gone) = next.manifests.remove(digest) else {
            return Ok(false);
        };
        next.tags.retain(|_, tagged| tagged != digest);
        let unused: Vec<String> = gone
            .references
            .into_iter()
            .filter(|blob| next.manifests.values().all(|other| !other.references.contains(blob)))
            .collect();
        for blob in &unused {
            next.blobs.remove(blob);
        }
        self.write(name, &next)?;
        repositories.insert(name.to_owned(), next);
        self.sweep(&repositories, unused.into_iter().chain([digest.to_owned()]));
        Ok(true)
    }

    /// Removes a tag and keeps its image; false if no image has the tag.
    pub fn untag(&self, name: &str, tag: &str) -> Result<bool, RegistryError> {
        self.change(name, |repository| Ok(repository.tags.remove(tag).is_some()))
    }

    /// Sets whether tags of this repository can move.
    pub fn set_immutable(&self, name: &str, immutable: bool) -> Result<(), RegistryError> {
        if lock(&self.repositories).get(name).is_some_and(|repository| repository.immutable == immutable) {
            return Ok(());
        }
        self.change(name, |repository| {
            repository.immutable = immutable;
            Ok(())
        })
    }

    /// The manifest with this digest or tag.
    pub fn manifest(&self, name: &str, reference: &str) -> Option<Manifest> {
        let repositories = lock(&self.repositories);
        let repository = repositories.get(name)?;
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        let stored = repository.manifests.get(digest)?;
        let bytes = fs::read(self.blob(digest)?)
            .inspect_err(|error| tracing::error!(repository = name, digest, %error, "cannot read a manifest"))
            .ok()?;
        Some(Manifest { digest: digest.to_owned(), media_type: stored.media_type.clone(), bytes: bytes.into() })
    }

    /// The file of a blob of any repository.
    pub fn blob(&self, digest: &str) -> Option<PathBuf> {
        let path = self.blob_path(digest)?;
        path.is_file().then_some(path)
    }

    /// Requires `AWS:token` from now on; `None` allows anonymous requests.
    pub fn set_token(&self, token: Option<String>) {
        *lock(&self.token) = token;
    }

    /// The last 10,000 requests, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.requests).iter().cloned().collect()
    }

    fn record(&self, request: Request) {
        let mut requests = lock(&self.requests);
        if requests.len() == REQUESTS_KEPT {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    fn require(&self, name: &str) -> Result<(), RegistryError> {
        if self.exists(name) { Ok(()) } else { Err(RegistryError::NameUnknown(name.to_owned())) }
    }

    /// The file of a blob of this repository.
    fn blob_of(&self, name: &str, digest: &str) -> Result<PathBuf, RegistryError> {
        self.require(name)?;
        let visible = lock(&self.repositories).get(name).is_some_and(|repository| repository.blobs.contains(digest));
        visible
            .then(|| self.blob(digest))
            .flatten()
            .ok_or_else(|| RegistryError::BlobUnknown { repository: name.to_owned(), digest: digest.to_owned() })
    }

    /// Adds a blob of another repository to this one; false if the blob does not exist.
    fn mount(&self, name: &str, from: &str, digest: &str) -> Result<bool, RegistryError> {
        if self.blob_of(from, digest).is_err() {
            return Ok(false);
        }
        self.change(name, |repository| {
            repository.blobs.insert(digest.to_owned());
            Ok(())
        })?;
        Ok(true)
    }

    fn unlink_blob(&self, name: &str, digest: &str) -> Result<(), RegistryError> {
        self.blob_of(name, digest)?;
        self.change(name, |repository| Ok(repository.blobs.remove(digest)))?;
        self.sweep(&lock(&self.repositories), [digest.to_owned()]);
        Ok(())
    }

    /// Stores a finished upload.
    async fn finish(&self, mut upload: Upload, stated: &str) -> Result<(), RegistryError> {
        let found = upload.digest();
        let target = self.blob_path(stated).filter(|_| found == stated);
        let Some(target) = target else {
            return Err(RegistryError::DigestInvalid { stated: stated.to_owned(), found });
        };
        upload.sync().await?;
        self.change(&upload.repository.clone(), |repository| {
            repository.blobs.insert(found);
            upload.persist(&target)
        })
    }

    /// Stores a manifest under a tag or digest; returns its digest and that of its subject.
    fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        content_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<(String, Option<String>), RegistryError> {
        let (document, media_type) = Document::parse(bytes, content_type).map_err(RegistryError::ManifestInvalid)?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        if reference.contains(':') && reference != found {
            return Err(RegistryError::DigestInvalid { stated: reference.to_owned(), found });
        }
        if reference != found && !is_tag(reference) {
            return Err(RegistryError::ManifestInvalid(format!("{reference:?} is neither a tag nor a digest")));
        }
        let path = self.blob_path(&found).ok_or_else(|| missing(name, &found))?;
        let references = document.blobs().chain(&document.manifests).map(|each| each.digest.clone()).collect();
        let subject = document.subject.as_ref().map(|subject| subject.digest.clone());
        let stored = Stored {
            media_type,
            size_bytes: document.size_bytes(),
            pushed_at: SystemTime::now(),
            references,
            subject: subject.clone(),
        };
        self.change(name, |repository| {
            if repository.immutable && repository.tags.get(reference).is_some_and(|tagged| *tagged != found) {
                return Err(RegistryError::TagImmutable { repository: name.to_owned(), tag: reference.to_owned() });
            }
            let unknown = |each: &&Descriptor| !repository.manifests.contains_key(&each.digest);
            let blob = document.blobs().find(|blob| !repository.blobs.contains(&blob.digest));
            if let Some(absent) = blob.or_else(|| document.manifests.iter().find(unknown)) {
                return Err(missing(name, &absent.digest));
            }
            // A second push of an image moves tags and keeps the date.
            repository.manifests.entry(found.clone()).or_insert(stored);
            if reference != found {
                repository.tags.insert(reference.to_owned(), found.clone());
            }
            write_synced(&path, bytes)
        })?;
        Ok((found, subject))
    }

    fn tags(&self, name: &str) -> Result<Vec<String>, RegistryError> {
        let repositories = lock(&self.repositories);
        let repository = repositories.get(name).ok_or_else(|| RegistryError::NameUnknown(name.to_owned()))?;
        Ok(repository.tags.keys().cloned().collect())
    }

    /// Digests of the manifests whose subject is `digest`.
    fn referrers(&self, name: &str, digest: &str) -> Result<Vec<String>, RegistryError> {
        let repositories = lock(&self.repositories);
        let repository = repositories.get(name).ok_or_else(|| RegistryError::NameUnknown(name.to_owned()))?;
        let refers = |stored: &Stored| stored.subject.as_deref() == Some(digest);
        Ok(repository.manifests.iter().filter(|(_, stored)| refers(stored)).map(|(own, _)| own.clone()).collect())
    }

    /// Changes one repository. `change` must write the data that it refers to; then the file of the repository is
    /// written, and only then is the change visible. An error changes nothing.
    fn change<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Repository) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut repositories = lock(&self.repositories);
        let repository = repositories.get_mut(name).ok_or_else(|| RegistryError::NameUnknown(name.to_owned()))?;
        let mut next = repository.clone();
        let outcome = change(&mut next)?;
        self.write(name, &next)?;
        *repository = next;
        Ok(outcome)
    }

    fn write(&self, name: &str, repository: &Repository) -> Result<(), RegistryError> {
        let path = self.repository_path(name);
        let text =
            serde_json::to_vec_pretty(repository).map_err(|error| RegistryError::storage(&path)(error.into()))?;
        write_synced(&path, &text)
    }

    /// Removes the files of `digests` that no repository has.
    fn sweep(&self, repositories: &BTreeMap<String, Repository>, digests: impl IntoIterator<Item = String>) {
        for digest in digests {
            let has = |repository: &Repository| {
                repository.blobs.contains(&digest) || repository.manifests.contains_key(&digest)
            };
            if repositories.values().any(has) {
                continue;
            }
            if let Some(path) = self.blob(&digest)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unused blob");
            }
        }
    }

    fn repository_path(&self, name: &str) -> PathBuf {
        self.folder.join("repositories").join(format!("{}.json", name.replace('/', "%2F")))
    }

    /// The path of a blob; `None` if this is not a sha256 digest.
    fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let valid = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| self.folder.join("blobs/sha256").join(hex))
    }
}

impl Repository {
    fn tags_of(&self, digest: &str) -> Vec<String> {
        self.tags.iter().filter(|(_, tagged)| *tagged == digest).map(|(tag, _)| tag.clone()).collect()
    }
}

fn missing(repository: &str, digest: &str) -> RegistryError {
    RegistryError::ReferenceUnknown { repository: repository.to_owned(), digest: digest.to_owned() }
}

/// Whether a name is valid by the distribution specification and ECR's length limit.
fn is_name(name: &str) -> bool {
    let component = |part: &str| {
        let ends = [part.chars().next(), part.chars().last()];
        ends.iter().all(|end| end.is_some_and(|end| end.is_ascii_lowercase() || end.is_ascii_digit()))
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    NAME_LENGTH.contains(&name.len()) && name.split('/').all(component)
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Writes a temporary file, syncs and renames it, so that the file is never incomplete.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let folder = path.parent().unwrap_or(path);
    let attempt = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(RegistryError::storage(path))
}

#[cfg(test)]
mod tests;
