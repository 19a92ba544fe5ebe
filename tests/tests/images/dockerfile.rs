//! `CodeBuild` with the real SDK: what codeloc sends to a project, and how it reads the answers.

use std::sync::Mutex;
use std::time::Duration;

use codeloc_aws::codebuild::CodeBuild;
use codeloc_images::{BuildError, DockerfileBuilder, Order, Progress};
use codeloc_tests::TestDeployment;
use localcloud::Rules;
use localcloud::model::Cloud;

const PROJECT: &str = "dockerfiles";
const IMAGE: &str = "registry.test/codeloc/orders:commit-0123";

/// Ends each build as the project would.
async fn end_builds(deployment: &TestDeployment, result: Result<(), String>) {
    loop {
        tokio::time::sleep(Duration::from_secs(20)).await;
        deployment.cloud.with_cloud(|cloud| {
            let ids: Vec<String> = cloud.codebuild.builds.keys().cloned().collect();
            for id in ids {
                cloud.codebuild.end(&id, result.clone());
            }
        });
    }
}

fn order(folder: &std::path::Path) -> Order {
    let context = folder.join("context.tar.gz");
    std::fs::write(&context, "the files").expect("a file");
    Order {
        context,
        dockerfile: "docker/Dockerfile".to_owned(),
        image: IMAGE.to_owned(),
        architecture: "arm64",
        commit_time: 0,
        credentials: None,
    }
}

fn contexts(cloud: &Cloud) -> Vec<String> {
    let keys = cloud.s3.buckets.values().flat_map(|bucket| bucket.objects.keys());
    keys.filter(|key| key.contains("/contexts/")).cloned().collect()
}

/// Runs a build that ends with `result`. Returns its outcome, its progress and the deployment.
async fn built(result: Result<(), String>, project: &str) -> (Result<(), BuildError>, Vec<String>, TestDeployment) {
    let deployment = TestDeployment::with(Rules { builds: true, ..Rules::default() }).await;
    deployment.cloud.with_cloud(|cloud| cloud.codebuild.projects.insert(PROJECT.to_owned()));
    let (folder, clients) = (tempfile::tempdir().expect("a folder"), deployment.clients());
    let bucket = deployment.settings.aws.bucket.clone();
    let builder = CodeBuild::new(clients.codebuild, clients.s3, &bucket, "codeloc", project);
    let progress_texts = Mutex::new(vec![]);
    let order = order(folder.path());
    let done = {
        let progress = |step: Progress| progress_texts.lock().expect("one thread").push(step.to_string());
        tokio::select! {
            done = builder.build(&order, &progress) => done,
            () = end_builds(&deployment, result) => unreachable!("it never ends"),
        }
    };
    (done, progress_texts.into_inner().expect("one thread"), deployment)
}

#[tokio::test(start_paused = true)]
async fn codebuild_gets_files_and_names_as_data() {
    let (done, texts, deployment) = built(Ok(()), PROJECT).await;
    done.expect("an image");
    assert_eq!(texts.first().map(String::as_str), Some("CodeBuild: starting"));
    assert!(texts.contains(&"CodeBuild: build".to_owned()), "{texts:?}");
    deployment.cloud.with_cloud(|cloud| {
        let build = cloud.codebuild.builds.values().next().expect("a build");
        let variables = &build.variables;
        assert_eq!(variables["CODELOC_CONTEXT"].rsplit('/').next(), Some("commit-0123.tar.gz"));
        assert_eq!(variables["CODELOC_REGISTRY"], "registry.test");
        assert_eq!(variables["CODELOC_ARCHITECTURE"], "arm64");
        assert_eq!(variables["CODELOC_DOCKERFILE"], "docker/Dockerfile");
        assert_eq!(variables["CODELOC_IMAGE"], IMAGE);
        assert!(variables.values().all(|value| !build.buildspec.contains(value.as_str())), "{}", build.buildspec);
        assert_eq!(contexts(cloud), [""; 0]);
    });
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_is_terminal_and_shows_the_failed_phase() {
    let (done, _, deployment) = built(Err("docker build: exit status 1".to_owned()), PROJECT).await;
    match done {
        Err(error) if !error.is_transient() => {
            let expected = "CodeBuild cannot build docker/Dockerfile: build: docker build: exit status 1";
            assert_eq!(error.to_string(), expected);
        }
        other => panic!("{other:?}"),
    }
    deployment.cloud.with_cloud(|cloud| assert_eq!(contexts(cloud), [""; 0]));
}

#[tokio::test(start_paused = true)]
async fn a_missing_codebuild_project_is_a_transient_error() {
    match built(Ok(()), "absent").await.0 {
        Err(error) if error.is_transient() => {
            assert!(error.to_string().contains("Project cannot be found"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
