//! What a build learns and must know again when its disk is gone: locks, and which layer came of which lock. Small texts, by name.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{BuildError, layer::Layer};

/// Port: a place for small texts that outlives the work folder and is shared by all controllers of a deployment.
pub trait BuildCache: Send + Sync + 'static {
    /// The text of this name, if there is one.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>>;
    /// Puts a text where there is none; gives the one that stands, which may be another one that was written first.
    fn write_first<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>>;
    /// Puts a text, whatever was there.
    fn write<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<(), BuildError>>;
}

/// For platforms whose work folder lives as long as they do.
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

/// A dependency layer that a registry was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub layer: Layer,
    /// The repository path that has it, for mounting.
    pub repository: String,
}

pub(super) fn lock_name(key: &str) -> String {
    format!("locks/{key}.txt")
}

/// Of one registry: another one has nothing of it.
pub(super) fn layer_name(registry: &str, key: &str) -> String {
    format!("layers/{registry}/{key}.json")
}
