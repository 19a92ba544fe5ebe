//! Errors of the registry.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("authentication is required: log in as AWS with the token of GetAuthorizationToken")]
    Unauthorized,
    #[error("{0:?} is not a valid repository name: use lower-case letters, digits and ._- between slashes")]
    NameInvalid(String),
    #[error("the repository {0:?} does not exist in this registry: create it first")]
    NameUnknown(String),
    #[error("{0}")]
    ManifestInvalid(String),
    #[error(
        "The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten because the tag is immutable."
    )]
    TagImmutable { repository: String, tag: String },
    #[error("the repository {repository:?} has no manifest {reference}")]
    ManifestUnknown { repository: String, reference: String },
    #[error("the manifest names {digest}, which is not in the repository {repository:?}: push it first")]
    ReferenceUnknown { repository: String, digest: String },
    #[error("the repository {repository:?} has no blob {digest}")]
    BlobUnknown { repository: String, digest: String },
    #[error("the upload {0:?} does not exist, or an earlier request of it failed: start the upload again")]
    UploadUnknown(String),
    #[error("the upload is invalid: {0}")]
    UploadInvalid(String),
    #[error("the digest is {stated:?}, but the content has the digest {found}")]
    DigestInvalid { stated: String, found: String },
    #[error("{0}")]
    RangeInvalid(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("cannot use {path}: {source}")]
    Storage { path: PathBuf, source: io::Error },
}

impl RegistryError {
    pub(super) fn storage(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Storage { path, source }
    }
}
