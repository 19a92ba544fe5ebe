//! Images of Dockerfiles with a fake [`DockerfileBuilder`].

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, Mutex},
};

use codeloc_core::lock::lock;
use futures::future::BoxFuture;
use serde_json::json;

use super::{BuildError, CODE, LoadTarget, Repository, TestBuilder, TestRegistry, digest};
use crate::error::expect_transient;
use crate::{Builder, DockerfileBuilder, OnProgress, Order, Progress, Request};

/// Records its orders. Pushes an image if `pushes`, then returns `answer`.
#[derive(Clone)]
struct FakeDockerfileBuilder {
    registry: TestRegistry,
    pushes: bool,
    answer: Result<(), &'static str>,
    orders: Arc<Mutex<Vec<RecordedOrder>>>,
}

struct RecordedOrder {
    /// By path.
    files: BTreeMap<String, String>,
    summary: String,
}

impl DockerfileBuilder for FakeDockerfileBuilder {
    fn build<'a>(&'a self, order: &'a Order, progress: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async move {
            progress(Progress::Dockerfile("fake: building".to_owned()));
            let context = flate2::read::GzDecoder::new(std::fs::File::open(&order.context).unwrap());
            let files = tar::Archive::new(context)
                .entries()
                .unwrap()
                .map(|entry| {
                    let mut entry = entry.unwrap();
                    let mut text = String::new();
                    entry.read_to_string(&mut text).unwrap();
                    (entry.path().unwrap().to_str().unwrap().to_owned(), text)
                })
                .collect();
            let summary = format!("{} {} {}", order.dockerfile, order.architecture, order.image);
            lock(&self.orders).push(RecordedOrder { files, summary });
            if self.pushes {
                let tag = order.image.rsplit_once(':').unwrap().1;
                self.registry.put_manifest("codeloc/demo", tag, &json!({"schemaVersion": 2, "layers": []}));
            }
            self.answer.map_err(BuildError::terminal)
        })
    }
}

struct Setup {
    fake: FakeDockerfileBuilder,
    builder: TestBuilder,
    request: Request,
    _repository: Repository,
}

async fn setup(pushes: bool, answer: Result<(), &'static str>) -> Setup {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let files = [("docker/Dockerfile", "FROM scratch\n")];
    let mut request = repository.request(&registry, &repository.commit(&[CODE.as_slice(), &files].concat()));
    request.dockerfile = Some("./docker/Dockerfile".to_owned());
    let fake = FakeDockerfileBuilder { registry, pushes, answer, orders: Arc::default() };
    let mut builder = TestBuilder::new();
    builder.oci = builder.oci.with_dockerfiles(fake.clone());
    Setup { fake, builder, request, _repository: repository }
}

#[tokio::test]
async fn a_dockerfile_is_built_once_from_the_files_of_the_commit() {
    let Setup { fake, builder, request, _repository } = setup(true, Ok(())).await;
    let image = builder.build(&request).await.unwrap();
    assert_eq!(image.load.target, LoadTarget::File("/opt/codeloc/code/pipeline/definitions.py".to_owned()));
    assert!(digest(&image).starts_with("sha256:"));
    assert_eq!(builder.progress(), ["fetching the commit", "packing the code", "fake: building"]);
    {
        let orders = lock(&fake.orders);
        let RecordedOrder { files, summary } = &orders[0];
        assert_eq!(files["docker/Dockerfile"], "FROM scratch\n");
        assert_eq!(files["pipeline/definitions.py"], "from . import x\n");
        assert!(summary.starts_with(&format!("docker/Dockerfile arm64 {}:commit-", request.target)), "{summary}");
    }
    assert_eq!(builder.oci.find(&request, None).await.unwrap(), Some(image.clone()));
    assert_eq!(builder.build(&request).await.unwrap(), image);
    assert_eq!(lock(&fake.orders).len(), 1);
}

#[tokio::test]
async fn an_error_of_the_dockerfile_builder_is_reported() {
    let Setup { builder, request, _repository, .. } = setup(false, Err("Dockerfile:2 is invalid")).await;
    assert_eq!(builder.refusal(&request).await, "Dockerfile:2 is invalid");
    let Setup { builder, request, _repository, .. } = setup(false, Ok(())).await;
    let text = expect_transient(builder.build(&request).await);
    assert!(
        text.contains("the builder reports that it built ") && text.contains("but the registry does not have"),
        "{text}"
    );
}

#[tokio::test]
async fn a_pushed_image_counts_although_its_builder_failed() {
    let Setup { builder, request, _repository, .. } = setup(true, Err("the answer was lost")).await;
    builder.build(&request).await.unwrap();
}

#[tokio::test]
async fn a_dockerfile_needs_a_builder_and_must_exist() {
    let Setup { fake, builder, mut request, _repository } = setup(true, Ok(())).await;
    request.dockerfile = Some("Dockerfile".to_owned());
    assert_eq!(builder.refusal(&request).await, "the commit has no file Dockerfile (`dockerfile`)");
    assert!(lock(&fake.orders).is_empty());
    let text = TestBuilder::new().refusal(&request).await;
    assert_eq!(text, "no setting chooses a builder of Dockerfiles; set `build.codebuild_project` or `build.buildah`");
}

/// A Dockerfile that never ends.
struct Hanging(Arc<tokio::sync::Notify>);

impl DockerfileBuilder for Hanging {
    fn build<'a>(&'a self, _: &'a Order, _: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_hanging_dockerfile_delays_no_other_build() {
    let (registry, repository, began) = (TestRegistry::start().await, Repository::new(), Arc::default());
    let commit = repository.commit(&[CODE.as_slice(), &[("Dockerfile", "FROM scratch\n")]].concat());
    // One build at a time, and caches that are always full: each build waits until no other one reads them.
    let mut builder = TestBuilder::with(|settings| {
        settings.parallel = 1;
        settings.limits.caches = 1;
    });
    builder.oci = builder.oci.with_dockerfiles(Hanging(Arc::clone(&began)));
    let mut hanging = repository.request(&registry, &commit);
    hanging.dockerfile = Some("Dockerfile".to_owned());
    let other = async {
        began.notified().await;
        builder.build(&repository.request(&registry, &commit)).await
    };
    tokio::select! {
        _ = builder.build(&hanging) => unreachable!("it never ends"),
        built = other => drop(built.unwrap()),
    }
}

#[tokio::test]
async fn a_dockerfile_in_a_linked_folder_is_found() {
    let Setup { fake, builder, mut request, _repository: repository } = setup(true, Ok(())).await;
    std::os::unix::fs::symlink("docker", repository.path("images")).unwrap();
    request.commit = repository.commit(&[]);
    request.dockerfile = Some("images/Dockerfile".to_owned());
    builder.build(&request).await.unwrap();
    assert!(lock(&fake.orders)[0].summary.starts_with("docker/Dockerfile "));
}
