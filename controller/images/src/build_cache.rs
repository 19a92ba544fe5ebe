//! Small texts that builds reuse after their disk is lost: locks, and the layer of each lock.

use std::path::Path;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::layer::Layer;

/// Port: stores small texts and archives by name. It outlives the work folder, and all controllers of a deployment share it.
pub trait BuildCache: Send + Sync + 'static {
    /// The text with this name.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>>;
    /// Writes a text unless one exists. Returns the stored text, which another controller may have written first.
    fn write_first<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>>;
    /// Writes a text and replaces an existing one.
    fn write<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<(), BuildError>>;
    /// Writes the archive with this name to a path. False if there is none.
    fn read_file<'a>(&'a self, name: &'a str, to: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>>;
    /// Stores an archive unless one exists. False if another controller has written one first.
    fn write_file_first<'a>(&'a self, name: &'a str, from: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>>;
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

    fn read_file<'a>(&'a self, _: &'a str, _: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    fn write_file_first<'a>(&'a self, _: &'a str, _: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>> {
        Box::pin(std::future::ready(Ok(true)))
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
