//! A commit becomes an image: git objects to a code layer, a lock to a dependency layer, both pushed over the OCI
//! protocol. No Docker daemon, and nothing of the repository is executed.

mod build_cache;
mod caches;
mod checkout;
mod dependencies;
mod disk;
mod dockerfile;
mod image;
mod layer;
mod listing;
mod load;
mod oci;
mod packages;
mod registry;
mod release;
mod requirements;
mod settings;
mod uv;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;

use codeloc_core::image::Image;
use codeloc_crds::{Architecture, CodePointer, LocationName};
use codeloc_git::program::ProgramError;

pub use build_cache::{BuildCache, NoBuildCache};
pub use checkout::{LARGEST_TEXT, too_large};
pub use dependencies::FILES as DEPENDENCY_FILES;
pub use disk::on_disk;
pub use dockerfile::{Buildah, DockerfileBuilder, Order};
pub use image::{ENVIRONMENT_FOLDER, LAYER_ANNOTATION};
pub use load::{declared_module, same_code};
pub use oci::{OciBuilder, Progress};
pub use registry::{Anonymous, RegistryCredentials};
pub use settings::{BaseImage, BuildSettings, Compression, Limits, Platform};

/// Everything that decides an image. Equal requests give the same digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub location: LocationName,
    /// As the config has it; [`Git`](codeloc_git::Git) rewrites it where it fetches.
    pub git_url: String,
    /// 40 hexadecimal digits.
    pub commit: String,
    pub subdirectory: Option<String>,
    pub code: CodePointer,
    pub dependencies: Option<String>,
    /// Makes the image, in place of everything here but the commit.
    pub dockerfile: Option<String>,
    /// `3.12`.
    pub python: String,
    pub architecture: Architecture,
    /// Where to push: `host[:port]/path`, no tag.
    pub target: String,
}

/// What a build would do with the dependencies of a repository, of which these are the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// The file that they are taken from, where it lists any.
    pub file: Option<String>,
    /// Why they would be refused, by file and line.
    pub refused: Option<String>,
}

pub fn dependencies_of(texts: &BTreeMap<String, String>) -> Dependencies {
    let input = dependencies::input(None, texts);
    let lists_none = matches!(&input, Ok(dependencies::Input::Requirements(requirements)) if requirements.is_empty());
    let file = dependencies::FILES.into_iter().find(|file| texts.contains_key(*file)).filter(|_| !lists_none);
    Dependencies { file: file.map(str::to_owned), refused: input.err().map(|error| error.to_string()) }
}

/// Port: the one thing that makes images.
pub trait Builder: Send + Sync + 'static {
    /// The image of this request if it was pushed before, found by reading the registry alone.
    fn find(&self, request: &Request) -> impl Future<Output = Result<Option<Image>, BuildError>> + Send;
    /// Builds and pushes; `progress` takes short texts for the status page (`resolving 133 packages`).
    fn build(
        &self,
        request: &Request,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> impl Future<Output = Result<Image, BuildError>> + Send;
    /// The digest behind `NAME:TAG`, an image built elsewhere; nothing where the registry has no such tag.
    fn digest(&self, tag: &str) -> impl Future<Output = Result<Option<String>, BuildError>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Try again later: network, registry, git host.
    #[error("{0}")]
    Transient(String),
    /// The commit cannot become an image; only a new commit or config can help.
    #[error("{0}")]
    Terminal(String),
}

impl From<ProgramError> for BuildError {
    fn from(error: ProgramError) -> Self {
        Self::Transient(error.to_string())
    }
}
