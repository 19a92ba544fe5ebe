//! Images of Dockerfiles, as far as this process has to do with them.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, Mutex},
};

use codeloc_core::lock::lock;
use futures::future::BoxFuture;
use serde_json::json;

use super::{BuildError, CODE, LoadTarget, Repository, TestRegistry, Workshop, digest};
use crate::{Builder, DockerfileBuilder, Order, Progress, Request};

/// Pushes what it is told to, and remembers what it was given.
#[derive(Clone)]
struct Elsewhere {
    registry: TestRegistry,
    pushes: bool,
    answer: Result<(), &'static str>,
    orders: Arc<Mutex<Vec<Ordered>>>,
}

struct Ordered {
    /// By path.
    files: BTreeMap<String, String>,
    said: String,
}

impl DockerfileBuilder for Elsewhere {
    fn build<'a>(&'a self, order: &'a Order, progress: &'a Progress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async move {
            progress("elsewhere".to_owned());
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
            let said = format!("{} {} {}", order.dockerfile, order.architecture, order.image);
            lock(&self.orders).push(Ordered { files, said });
            if self.pushes {
                let tag = order.image.rsplit_once(':').unwrap().1;
                self.registry.put_manifest("codeloc/demo", tag, &json!({"schemaVersion": 2, "layers": []}));
            }
            self.answer.map_err(|text| BuildError::Terminal(text.to_owned()))
        })
    }
}

struct Set {
    elsewhere: Elsewhere,
    workshop: Workshop,
    request: Request,
    _repository: Repository,
}

async fn set(pushes: bool, answer: Result<(), &'static str>) -> Set {
    let (registry, repository) = (TestRegistry::start().await, Repository::new());
    let files = [("docker/Dockerfile", "FROM scratch\n")];
    let mut request = repository.request(&registry, &repository.commit(&[CODE.as_slice(), &files].concat()));
    request.dockerfile = Some("./docker/Dockerfile".to_owned());
    let elsewhere = Elsewhere { registry, pushes, answer, orders: Arc::default() };
    let mut workshop = Workshop::new();
    workshop.builder = workshop.builder.with_dockerfiles(elsewhere.clone());
    Set { elsewhere, workshop, request, _repository: repository }
}

#[tokio::test]
async fn a_dockerfile_is_built_elsewhere_from_the_files_of_the_commit_and_once() {
    let Set { elsewhere, workshop, request, _repository } = set(true, Ok(())).await;
    let image = workshop.build(&request).await.unwrap();
    assert_eq!(image.load.target, LoadTarget::File("/opt/codeloc/code/pipeline/definitions.py".to_owned()));
    assert!(digest(&image).starts_with("sha256:"));
    assert_eq!(workshop.progress(), ["fetching", "packing", "elsewhere"]);
    {
        let orders = lock(&elsewhere.orders);
        let Ordered { files, said } = &orders[0];
        assert_eq!(files["docker/Dockerfile"], "FROM scratch\n");
        assert_eq!(files["pipeline/definitions.py"], "from . import x\n");
        assert!(said.starts_with(&format!("docker/Dockerfile arm64 {}:commit-", request.target)), "{said}");
    }
    assert_eq!(workshop.builder.find(&request).await.unwrap(), Some(image.clone()));
    assert_eq!(workshop.build(&request).await.unwrap(), image);
    assert_eq!(lock(&elsewhere.orders).len(), 1);
}

#[tokio::test]
async fn what_its_builder_says_of_a_dockerfile_is_told_and_no_image_is_named() {
    let Set { workshop, request, _repository, .. } = set(false, Err("Dockerfile:2 does not build")).await;
    assert_eq!(workshop.refusal(&request).await, "Dockerfile:2 does not build");
    let Set { workshop, request, _repository, .. } = set(false, Ok(())).await;
    match workshop.build(&request).await {
        Err(BuildError::Transient(text)) => assert!(text.contains("was built, and the registry has no"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_whose_builder_was_lost_after_its_push_counts() {
    let Set { workshop, request, _repository, .. } = set(true, Err("the answer was lost")).await;
    workshop.build(&request).await.unwrap();
}

#[tokio::test]
async fn without_a_builder_or_without_the_file_a_dockerfile_is_refused() {
    let Set { elsewhere, workshop, mut request, _repository } = set(true, Ok(())).await;
    request.dockerfile = Some("Dockerfile".to_owned());
    assert_eq!(workshop.refusal(&request).await, "the commit has no file Dockerfile (`dockerfile`)");
    assert!(lock(&elsewhere.orders).is_empty());
    let text = Workshop::new().refusal(&request).await;
    assert_eq!(text, "Dockerfiles are not built here: set `build.codebuild_project` or `build.buildah`");
}
