//! [`Builder`]: the port through which the controller finds and builds images.

use std::future::Future;

use codeloc_core::ids::{Commit, Digest};
use codeloc_core::image::Image;
use codeloc_crds::{Architecture, CodePointer, LocationName};

use crate::error::BuildError;
use crate::progress::OnProgress;

/// Everything of a location that decides the content of its image. With the same base image, equal requests give the same digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub location: LocationName,
    /// As the config writes it. [`Git`](codeloc_git::Git) applies its URL rewrites when it fetches.
    pub git_url: String,
    pub commit: Commit,
    pub subdirectory: Option<String>,
    pub code: CodePointer,
    pub dependencies: Option<String>,
    /// Builds the image from this Dockerfile. Then `code`, `dependencies` and `python` do not change the image.
    pub dockerfile: Option<String>,
    /// Commands that prepare files of the code, in an isolated build.
    pub commands: Vec<String>,
    /// The minor version in the config, such as `3.12`.
    pub python: Option<String>,
    pub architecture: Architecture,
    /// Where to push: `host[:port]/path` without a tag.
    pub target: String,
}

/// Port: finds and builds images.
pub trait Builder: Send + Sync + 'static {
    /// The image of a request that was built earlier. Only reads the registry.
    ///
    /// `deployed` is the reference of the image that the location runs. It counts if it was built for this request, although the tag of
    /// the base image has moved since.
    fn find(
        &self,
        request: &Request,
        deployed: Option<&str>,
    ) -> impl Future<Output = Result<Option<Image>, BuildError>> + Send;
    /// Builds and pushes the image. The build may wait for others; it starts with its first report of progress.
    fn build(
        &self,
        request: &Request,
        progress: &OnProgress<'_>,
    ) -> impl Future<Output = Result<Image, BuildError>> + Send;
    /// The digest behind `NAME:TAG` or `NAME@DIGEST`; `None` if the registry has no such image.
    fn digest(&self, reference: &str) -> impl Future<Output = Result<Option<Digest>, BuildError>> + Send;
    /// Makes the next call read the tag of the base image again.
    fn refresh(&self);
}
