//! Images of Dockerfiles. A Dockerfile can run any program, so another program or service builds it, without the credentials
//! of this process.

mod buildah;

use std::path::PathBuf;

use futures::future::BoxFuture;

use crate::credentials::Login;
use crate::error::BuildError;
use crate::progress::OnProgress;

pub use buildah::Buildah;

/// An image to build and push.
pub struct Order {
    /// The path of a tar.gz file with the files of the commit.
    pub context: PathBuf,
    /// The path of the Dockerfile in the context.
    pub dockerfile: String,
    /// Where to push: `host[:port]/path:tag`.
    pub image: String,
    /// `arm64` or `amd64`.
    pub architecture: &'static str,
    /// Seconds since 1970.
    pub commit_time: i64,
    /// For the push only.
    pub credentials: Option<Login>,
}

impl Order {
    /// `host[:port]` of the registry.
    pub fn host(&self) -> &str {
        self.image.split_once('/').map_or("", |(host, _)| host)
    }
}

/// Port: builds images of Dockerfiles outside this process.
pub trait DockerfileBuilder: Send + Sync + 'static {
    /// Builds and pushes within its own time limit. If the Dockerfile fails, the error has the class
    /// [`Dockerfile`](crate::ErrorClass::Dockerfile). If codeloc drops the future, the builder stops the build.
    fn build<'a>(&'a self, order: &'a Order, progress: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>>;
}
