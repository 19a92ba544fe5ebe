//! Builds an image from a commit: git objects become the code layer, a lock becomes the dependency layer, and both are
//! pushed with the OCI protocol.
//!
//! Guarantees: no Docker daemon is needed, and no code of the repository runs in this process.

mod base;
mod build_cache;
mod builder;
mod caches;
mod checkout;
mod code_layer;
mod credentials;
mod dbt;
mod dependencies;
mod digest;
mod disk;
mod dockerfile;
mod error;
mod image;
mod installed;
mod isolated;
mod key;
mod layer;
mod listing;
mod load;
mod oci;
mod packages;
mod progress;
mod project;
mod registry;
mod release;
mod requirements;
mod scripts;
mod settings;
mod single_flight;
mod survey;
mod uv;

#[cfg(test)]
mod tests;

pub use build_cache::{BuildCache, NoBuildCache};
pub use builder::{Builder, Request};
pub use credentials::{Anonymous, Login, RegistryCredentials};
pub use disk::disk_error;
pub use dockerfile::{Buildah, DockerfileBuilder, Order};
pub use error::{BuildError, ErrorClass};
pub use image::{ENVIRONMENT_FOLDER, LAYER_ANNOTATION};
pub use isolated::{GUEST, IsolatedBuild, IsolatedBuilder, TIMED_OUT};
pub use layer::unpack_layer;
pub use load::same_code;
pub use oci::OciBuilder;
pub use progress::{OnProgress, Progress};
pub use project::DeclaredLocation;
pub use project::declared::is_template;
pub use settings::{BaseImage, BuildSettings, Compression, Limits, PackageIndex, Platform};
pub use survey::{Survey, declared_locations, survey};
