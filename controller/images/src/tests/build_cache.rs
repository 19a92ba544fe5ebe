//! Builds with an empty disk that reuse the build cache.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use codeloc_core::lock::lock;
use futures::future::BoxFuture;

use super::{
    BuildError, CODE, Repository, TestBuilder, TestRegistry, digest,
    python::{python_minor, use_wheels, uv, wheels},
};
use crate::disk::disk_error;
use crate::error::expect_transient;
use crate::{BuildCache, Request};

#[derive(Clone, Default)]
struct MemoryBuildCache {
    texts: Arc<Mutex<BTreeMap<String, String>>>,
    archives: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    unavailable: bool,
}

impl MemoryBuildCache {
    fn access<T>(&self, use_texts: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> Result<T, BuildError> {
        if self.unavailable {
            return Err(BuildError::transient("the build cache does not answer"));
        }
        Ok(use_texts(&mut lock(&self.texts)))
    }
}

impl BuildCache for MemoryBuildCache {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>> {
        Box::pin(std::future::ready(self.access(|texts| texts.get(name).cloned())))
    }

    fn write_first<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>> {
        let written = self.access(|texts| texts.entry(name.to_owned()).or_insert(text).clone());
        Box::pin(std::future::ready(written))
    }

    fn write<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<(), BuildError>> {
        let written = self.access(|texts| texts.insert(name.to_owned(), text));
        Box::pin(std::future::ready(written.map(|_| ())))
    }

    fn read_file<'a>(&'a self, name: &'a str, to: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>> {
        let archive = lock(&self.archives).get(name).cloned();
        Box::pin(std::future::ready(Ok(archive.is_some_and(|archive| std::fs::write(to, archive).is_ok()))))
    }

    fn write_file_first<'a>(&'a self, name: &'a str, from: &'a Path) -> BoxFuture<'a, Result<bool, BuildError>> {
        let archive = std::fs::read(from).map_err(|error| disk_error(from, error));
        let written = archive.map(|archive| lock(&self.archives).insert(name.to_owned(), archive).is_none());
        Box::pin(std::future::ready(written))
    }
}

/// An empty disk, as after each start on Fargate.
fn builder_with_empty_disk(wheels: &Path, build_cache: &MemoryBuildCache) -> Option<TestBuilder> {
    let uv = uv()?;
    let mut builder = TestBuilder::with(|settings| use_wheels(settings, &uv, wheels));
    builder.oci = builder.oci.with_build_cache(build_cache.clone());
    Some(builder)
}

fn request_with_code(registry: &TestRegistry, repository: &Repository, code: &str) -> Request {
    let files = [("requirements.txt", "needy\n"), ("pipeline/x.py", code)];
    let mut request = repository.request(registry, &repository.commit(&[CODE.as_slice(), &files].concat()));
    request.python = Some(python_minor());
    request
}

#[tokio::test]
async fn a_builder_with_an_empty_disk_reuses_pushed_packages() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache::default();
    let Some(first) = builder_with_empty_disk(wheels.path(), &build_cache) else { return };
    let image = first.build(&request_with_code(&registry, &repository, "1")).await.unwrap();
    let packages = registry.manifest("codeloc/demo", &digest(&image))["layers"][0].clone();
    registry.uploads();

    let second = builder_with_empty_disk(wheels.path(), &build_cache).unwrap();
    let image = second.build(&request_with_code(&registry, &repository, "2")).await.unwrap();
    assert_eq!(second.progress(), ["fetching the commit", "packing the code", "uploading the image"]);
    assert_eq!(registry.manifest("codeloc/demo", &digest(&image))["layers"][0], packages);
    // The code layer and the config.
    assert_eq!(registry.uploads(), ["blob codeloc/demo", "blob codeloc/demo", "manifest codeloc/demo"]);

    // Another location with the same packages mounts them from the repository of the first one.
    let third = builder_with_empty_disk(wheels.path(), &build_cache).unwrap();
    let mut elsewhere = request_with_code(&registry, &repository, "3");
    elsewhere.target = format!("{}/codeloc/other", registry.host);
    let image = third.build(&elsewhere).await.unwrap();
    assert_eq!(third.progress(), ["fetching the commit", "packing the code", "uploading the image"]);
    assert_eq!(registry.manifest("codeloc/other", &digest(&image))["layers"][0], packages);
    let mounted = ["mount codeloc/other", "blob codeloc/other", "blob codeloc/other", "manifest codeloc/other"];
    assert_eq!(registry.uploads(), mounted);
}

#[tokio::test]
async fn a_lock_survives_an_empty_disk_and_a_newer_index() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache::default();
    let newest = wheels.path().join("tiny-2.0-py3-none-any.whl");
    let aside = wheels.path().join("tiny-2.0.aside");
    std::fs::rename(&newest, &aside).unwrap();
    let Some(first) = builder_with_empty_disk(wheels.path(), &build_cache) else { return };
    let request = request_with_code(&registry, &repository, "1");
    let before = first.build(&request).await.unwrap();
    std::fs::rename(&aside, &newest).unwrap();

    // Even with an empty registry: the packages are installed again, in the same versions.
    let other = TestRegistry::start().await;
    let second = builder_with_empty_disk(wheels.path(), &build_cache).unwrap();
    let request = Request { target: format!("{}/codeloc/demo", other.host), ..request };
    let after = second.build(&request).await.unwrap();
    let expected = [
        "fetching the commit",
        "installing 2 packages",
        "packing the packages",
        "packing the code",
        "uploading the image",
    ];
    assert_eq!(second.progress(), expected);
    assert_eq!(digest(&after), digest(&before));
}

#[tokio::test]
async fn a_layer_that_the_registry_lost_is_built_again() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache::default();
    let Some(first) = builder_with_empty_disk(wheels.path(), &build_cache) else { return };
    let image = first.build(&request_with_code(&registry, &repository, "1")).await.unwrap();
    let packages = registry.manifest("codeloc/demo", &digest(&image))["layers"][0].clone();
    registry.forget_blob("codeloc/demo", packages["digest"].as_str().unwrap());

    let second = builder_with_empty_disk(wheels.path(), &build_cache).unwrap();
    let image = second.build(&request_with_code(&registry, &repository, "2")).await.unwrap();
    assert!(second.progress().contains(&"installing 2 packages".to_owned()));
    assert_eq!(registry.manifest("codeloc/demo", &digest(&image))["layers"][0], packages);
}

#[tokio::test]
async fn an_unavailable_build_cache_is_a_transient_error() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache { unavailable: true, ..MemoryBuildCache::default() };
    let Some(builder) = builder_with_empty_disk(wheels.path(), &build_cache) else { return };
    let built = builder.build(&request_with_code(&registry, &repository, "1")).await;
    assert_eq!(expect_transient(built), "the build cache does not answer");
}
