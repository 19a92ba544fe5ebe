//! Images of Dockerfiles. A Dockerfile runs what it likes, so it is built outside of this process, by something that has none of its
//! credentials.

mod buildah;

use std::path::PathBuf;

use futures::future::BoxFuture;

use super::{BuildError, oci::Progress};

pub use buildah::Buildah;

/// One image to build and to push.
pub struct Order {
    /// The files of the commit, as a tar stream through gzip.
    pub context: PathBuf,
    /// Relative to the context's root.
    pub dockerfile: String,
    /// Where to push: `host[:port]/path:tag`.
    pub image: String,
    /// `arm64` or `amd64`.
    pub architecture: &'static str,
    /// Seconds since 1970.
    pub commit_time: i64,
    /// User name and password of the registry, for the push alone.
    pub credentials: Option<(String, String)>,
}

impl Order {
    /// `host[:port]` of the registry.
    pub fn host(&self) -> &str {
        self.image.split_once('/').map_or("", |(host, _)| host)
    }
}

/// Port: something that builds Dockerfiles elsewhere.
pub trait DockerfileBuilder: Send + Sync + 'static {
    /// Builds and pushes. Errors are [`BuildError::Terminal`] where the Dockerfile is to blame.
    fn build<'a>(&'a self, order: &'a Order, progress: &'a Progress<'a>) -> BoxFuture<'a, Result<(), BuildError>>;
}
