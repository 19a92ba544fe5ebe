//! Small texts that builds reuse after their disk is lost: locks, and the layer of each lock.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::layer::Layer;

/// Port: stores small texts by name. It outlives the work folder, and all controllers of a deployment share it.
pub trait BuildCache: Send + Sync + 'static {
    /// The text with this name.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>>;
    /// Writes a text unless one exists. Returns the stored text, which another controller may have written first.
    fn write_first<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>>;
    /// Writes a text and replaces an existing one.
    fn write<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<(), BuildError>>;
}

/// Stores nothing, for platforms whose work folder is permanent.
#[derive(Clone, Copy, Debug)]
pub struct NoBuildCache;

impl BuildCache for NoBuildCache {
    fn read<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn write_first<'a>(&'a self, _: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>> {
        Box::pin(std::future::ready(Ok(text)))
    }

    fn write<'a>(&'a self, _: &'a str, _: String) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A dependency layer in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PushedLayer {
    pub layer: Layer,
    /// The path of the repository that has the layer; another repository can mount it from there.
    pub repository: String,
}

pub(super) fn lock_name(key: &str) -> String {
    format!("locks/{key}.txt")
}

/// The name contains the registry, because another registry does not have the layer.
pub(super) fn layer_name(registry: &str, key: &str) -> String {
    format!("layers/{registry}/{key}.json")
}
