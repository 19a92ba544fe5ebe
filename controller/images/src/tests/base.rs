//! A base image that the setting names by a tag.

use codeloc_core::image::Image;
use serde_json::json;

use super::{BaseImage, CODE, Repository, TestBuilder, TestRegistry, config};
use crate::error::expect_terminal;
use crate::{Builder, Request};

/// Points the tag `base/python:3.12` to another image.
fn push_base(registry: &TestRegistry, version: &str) {
    let document = json!({
        "architecture": "arm64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{version}")]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": registry.put_blob("base/python", document.as_bytes()),
            "size": document.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": registry.put_blob("base/python", version.as_bytes()),
            "size": version.len(),
        }],
    });
    registry.put_manifest("base/python", "3.12", &manifest);
}

/// A new process.
fn builder(registry: &TestRegistry) -> TestBuilder {
    TestBuilder::with(|settings| {
        settings.base_image = BaseImage::Reference(format!("{}/base/python:3.12", registry.host));
    })
}

fn version(registry: &TestRegistry, image: &Image) -> String {
    config(registry, image)["rootfs"]["diff_ids"][0].as_str().unwrap().trim_start_matches("sha256:").to_owned()
}

async fn setup() -> (TestRegistry, Repository, Request, TestBuilder, Image) {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    push_base(&registry, "old");
    let request = repository.request(&registry, &repository.commit(&CODE));
    let builder = builder(&registry);
    let image = builder.build(&request).await.unwrap();
    assert_eq!(version(&registry, &image), "old");
    (registry, repository, request, builder, image)
}

#[tokio::test]
async fn the_next_commit_uses_the_base_image_of_the_tag() {
    let (registry, repository, _, _, _) = setup().await;
    push_base(&registry, "new");
    let commit = repository.commit(&[("pipeline/more.py", "x = 1\n")]);
    let image = builder(&registry).build(&repository.request(&registry, &commit)).await.unwrap();
    assert_eq!(version(&registry, &image), "new");
}

#[tokio::test]
async fn a_restart_keeps_the_image_that_a_location_runs() {
    let (registry, _repository, mut request, _, image) = setup().await;
    push_base(&registry, "new");
    let restarted = builder(&registry);
    let found = restarted.oci.find(&request, Some(&image.reference)).await.unwrap();
    assert_eq!(found, Some(image.clone()));
    assert_eq!(restarted.oci.find(&request, None).await.unwrap(), None);
    // It is not the image of another request.
    request.subdirectory = Some("pipeline".to_owned());
    assert_eq!(restarted.oci.find(&request, Some(&image.reference)).await.unwrap(), None);
}

#[tokio::test]
async fn a_retry_builds_on_the_base_image_of_the_tag() {
    let (registry, _repository, request, builder, image) = setup().await;
    push_base(&registry, "new");
    assert_eq!(builder.oci.find(&request, None).await.unwrap(), Some(image.clone()), "the tag was read a moment ago");
    builder.oci.refresh();
    assert_eq!(builder.oci.find(&request, None).await.unwrap(), None);
    let rebuilt = builder.build(&request).await.unwrap();
    assert_ne!(rebuilt, image);
    assert_eq!(version(&registry, &rebuilt), "new");
}

#[tokio::test]
async fn a_deployed_image_that_is_gone_is_not_found() {
    let (registry, _repository, request, _, image) = setup().await;
    push_base(&registry, "new");
    let gone = format!("{}@sha256:{}", request.target, "0".repeat(64));
    assert_eq!(builder(&registry).oci.find(&request, Some(&gone)).await.unwrap(), None);
    let elsewhere = image.reference.replace("codeloc/demo", "codeloc/other");
    assert_eq!(builder(&registry).oci.find(&request, Some(&elsewhere)).await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_base_image_is_named() {
    let (registry, _repository, request, _, _) = setup().await;
    let builder = TestBuilder::with(|settings| {
        settings.base_image = BaseImage::Reference(format!("{}/base/python:3.99", registry.host));
    });
    let text = expect_terminal(builder.oci.find(&request, None).await);
    assert!(text.ends_with("/base/python:3.99; push it, or set another build.base_image"), "{text}");
}
