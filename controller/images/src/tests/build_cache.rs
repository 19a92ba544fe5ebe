//! What a builder knows again when its disk is gone.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use codeloc_core::lock::lock;
use futures::future::BoxFuture;

use super::{
    BuildError, CODE, Repository, TestRegistry, Workshop, digest,
    python::{python, python_minor, uv, wheels},
};
use crate::{BuildCache, Request};

#[derive(Clone, Default)]
struct MemoryBuildCache {
    texts: Arc<Mutex<BTreeMap<String, String>>>,
    away: bool,
}

impl MemoryBuildCache {
    fn there<T>(&self, value: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> Result<T, BuildError> {
        if self.away {
            return Err(BuildError::Transient("the shelf is away".to_owned()));
        }
        Ok(value(&mut lock(&self.texts)))
    }
}

impl BuildCache for MemoryBuildCache {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, BuildError>> {
        Box::pin(std::future::ready(self.there(|texts| texts.get(name).cloned())))
    }

    fn write_first<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<String, BuildError>> {
        let written = self.there(|texts| texts.entry(name.to_owned()).or_insert(text).clone());
        Box::pin(std::future::ready(written))
    }

    fn write<'a>(&'a self, name: &'a str, text: String) -> BoxFuture<'a, Result<(), BuildError>> {
        let written = self.there(|texts| texts.insert(name.to_owned(), text));
        Box::pin(std::future::ready(written.map(|_| ())))
    }
}

/// A builder with an empty disk, as after each start on Fargate.
fn started_anew(wheels: &Path, build_cache: &MemoryBuildCache) -> Option<Workshop> {
    let uv = uv()?;
    let mut workshop = Workshop::with(|settings| {
        settings.uv = uv;
        settings.python = Some(python());
        settings.find_links = Some(wheels.to_path_buf());
    });
    workshop.builder = workshop.builder.with_build_cache(build_cache.clone());
    Some(workshop)
}

fn committed(registry: &TestRegistry, repository: &Repository, code: &str) -> Request {
    let files = [("requirements.txt", "needy\n"), ("pipeline/x.py", code)];
    let mut request = repository.request(registry, &repository.commit(&[CODE.as_slice(), &files].concat()));
    request.python = python_minor();
    request
}

#[tokio::test]
async fn a_builder_that_lost_its_disk_neither_resolves_nor_installs_nor_uploads_packages_again() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache::default();
    let Some(first) = started_anew(wheels.path(), &build_cache) else { return };
    let image = first.build(&committed(&registry, &repository, "1")).await.unwrap();
    let packages = registry.manifest("codeloc/demo", digest(&image))["layers"][0].clone();
    registry.uploads();

    let second = started_anew(wheels.path(), &build_cache).unwrap();
    let image = second.build(&committed(&registry, &repository, "2")).await.unwrap();
    assert_eq!(second.progress(), ["fetching", "packing", "uploading"]);
    assert_eq!(registry.manifest("codeloc/demo", digest(&image))["layers"][0], packages);
    // The code layer and the config.
    assert_eq!(registry.uploads(), ["blob codeloc/demo", "blob codeloc/demo", "manifest codeloc/demo"]);

    // Another location with the same packages has them from the first one's repository.
    let third = started_anew(wheels.path(), &build_cache).unwrap();
    let mut elsewhere = committed(&registry, &repository, "3");
    elsewhere.target = format!("{}/codeloc/other", registry.host);
    let image = third.build(&elsewhere).await.unwrap();
    assert_eq!(third.progress(), ["fetching", "packing", "uploading"]);
    assert_eq!(registry.manifest("codeloc/other", digest(&image))["layers"][0], packages);
    let mounted = ["mount codeloc/other", "blob codeloc/other", "blob codeloc/other", "manifest codeloc/other"];
    assert_eq!(registry.uploads(), mounted);
}

#[tokio::test]
async fn equal_requirements_keep_their_versions_when_the_index_moved_on_and_the_disk_is_gone() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache::default();
    let newest = wheels.path().join("tiny-2.0-py3-none-any.whl");
    let aside = wheels.path().join("tiny-2.0.aside");
    std::fs::rename(&newest, &aside).unwrap();
    let Some(first) = started_anew(wheels.path(), &build_cache) else { return };
    let request = committed(&registry, &repository, "1");
    let before = first.build(&request).await.unwrap();
    std::fs::rename(&aside, &newest).unwrap();

    // Also in a registry that lost everything: the packages are installed again, and they are the same.
    let other = TestRegistry::start().await;
    let second = started_anew(wheels.path(), &build_cache).unwrap();
    let request = Request { target: format!("{}/codeloc/demo", other.host), ..request };
    let after = second.build(&request).await.unwrap();
    assert_eq!(second.progress(), ["fetching", "installing 2 packages", "packing", "packing", "uploading"]);
    assert_eq!(digest(&after), digest(&before));
}

#[tokio::test]
async fn a_layer_that_the_registry_no_longer_has_is_made_again() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache::default();
    let Some(first) = started_anew(wheels.path(), &build_cache) else { return };
    let image = first.build(&committed(&registry, &repository, "1")).await.unwrap();
    let packages = registry.manifest("codeloc/demo", digest(&image))["layers"][0].clone();
    registry.forget_blob("codeloc/demo", packages["digest"].as_str().unwrap());

    let second = started_anew(wheels.path(), &build_cache).unwrap();
    let image = second.build(&committed(&registry, &repository, "2")).await.unwrap();
    assert!(second.progress().contains(&"installing 2 packages".to_owned()));
    assert_eq!(registry.manifest("codeloc/demo", digest(&image))["layers"][0], packages);
}

#[tokio::test]
async fn a_shelf_that_is_away_is_waited_for() {
    let (registry, wheels, repository) = (TestRegistry::start().await, wheels(), Repository::new());
    let build_cache = MemoryBuildCache { away: true, ..MemoryBuildCache::default() };
    let Some(workshop) = started_anew(wheels.path(), &build_cache) else { return };
    match workshop.build(&committed(&registry, &repository, "1")).await {
        Err(BuildError::Transient(text)) => assert_eq!(text, "the shelf is away"),
        other => panic!("{other:?}"),
    }
}
