//! `CodeBuild` with the real SDK: what codeloc sends to a project, and how it reads the answers.

use std::sync::Mutex;
use std::time::Duration;

use codeloc_aws::codebuild::CodeBuild;
use codeloc_images::{BuildError, DockerfileBuilder, ErrorClass, Order, Progress};
use codeloc_tests::TestDeployment;
use localcloud::Rules;
use localcloud::fault_injection::{Fault, Rule};
use localcloud::model::Cloud;
use localcloud::model::codebuild::{Build, End};

const PROJECT: &str = "dockerfiles";
const IMAGE: &str = "registry.test/codeloc/orders:commit-0123";

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

const LIMIT: Duration = Duration::from_mins(30);

struct Setup {
    deployment: TestDeployment,
    builder: CodeBuild,
    order: Order,
    progress: Mutex<Vec<String>>,
    _folder: tempfile::TempDir,
}

impl Setup {
    async fn new(project: &str) -> Self {
        let deployment = TestDeployment::with(Rules { builds: true, ..Rules::default() }).await;
        deployment.cloud.with_cloud(|cloud| cloud.codebuild.projects.insert(PROJECT.to_owned()));
        let (folder, clients) = (tempfile::tempdir().expect("a folder"), deployment.clients());
        let bucket = deployment.settings.aws.bucket.clone();
        let builder = CodeBuild::new(clients.codebuild, clients.s3, &bucket, "codeloc", project, LIMIT);
        let order = order(folder.path());
        Self { deployment, builder, order, progress: Mutex::default(), _folder: folder }
    }

    async fn build(&self) -> Result<(), BuildError> {
        let progress = |step: Progress| self.progress.lock().expect("one thread").push(step.to_string());
        self.builder.build(&self.order, &progress).await
    }

    /// Changes each build after its first poll.
    async fn change_builds(&self, every: Duration, change: impl Fn(&mut Build)) {
        loop {
            tokio::time::sleep(every).await;
            self.deployment.cloud.with_cloud(|cloud| cloud.codebuild.builds.values_mut().for_each(&change));
        }
    }

    /// The result of a build that `change` ends, once codeloc has seen it running.
    async fn changed(&self, change: impl Fn(&mut Build)) -> Result<(), BuildError> {
        self.changed_every(Duration::from_secs(20), change).await
    }

    async fn changed_every(&self, every: Duration, change: impl Fn(&mut Build)) -> Result<(), BuildError> {
        tokio::select! {
            done = self.build() => done,
            () = self.change_builds(every, change) => unreachable!("it never ends"),
        }
    }

    async fn ended(&self, end: End) -> Result<(), BuildError> {
        self.changed(|build| build.end = build.end.take().or_else(|| Some(end.clone()))).await
    }

    fn ends(&self) -> Vec<Option<End>> {
        self.deployment
            .cloud
            .with_cloud(|cloud| cloud.codebuild.builds.values().map(|build| build.end.clone()).collect())
    }

    fn contexts(&self) -> Vec<String> {
        self.deployment.cloud.with_cloud(|cloud| contexts(cloud))
    }
}

fn expect_class(done: Result<(), BuildError>, class: ErrorClass) -> String {
    let error = done.expect_err("an error");
    assert_eq!(error.class(), class, "{error}");
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn codebuild_gets_files_and_names_as_data() {
    let setup = Setup::new(PROJECT).await;
    setup.ended(End::Succeeded).await.expect("an image");
    let texts = setup.progress.lock().expect("one thread").clone();
    assert_eq!(texts.first().map(String::as_str), Some("CodeBuild: starting"));
    assert!(texts.contains(&"CodeBuild: build".to_owned()), "{texts:?}");
    setup.deployment.cloud.with_cloud(|cloud| {
        let build = cloud.codebuild.builds.values().next().expect("a build");
        let variables = &build.variables;
        assert_eq!(variables["CODELOC_CONTEXT"].rsplit('/').next(), Some("commit-0123.tar.gz"));
        assert_eq!(variables["CODELOC_REGISTRY"], "registry.test");
        assert_eq!(variables["CODELOC_ARCHITECTURE"], "arm64");
        assert_eq!(variables["CODELOC_DOCKERFILE"], "docker/Dockerfile");
        assert_eq!(variables["CODELOC_IMAGE"], IMAGE);
        assert!(variables.values().all(|value| !build.buildspec.contains(value.as_str())), "{}", build.buildspec);
        assert_eq!(build.timeout_minutes, 30);
    });
    assert_eq!(setup.contexts(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_shows_the_failed_phase() {
    let setup = Setup::new(PROJECT).await;
    let done = setup.ended(End::Failed("docker build: exit status 1".to_owned())).await;
    let expected = "CodeBuild cannot build docker/Dockerfile: build: docker build: exit status 1";
    assert_eq!(expect_class(done, ErrorClass::Dockerfile), expected);
    assert_eq!(setup.contexts(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_build_is_no_failure_of_the_dockerfile() {
    let setup = Setup::new(PROJECT).await;
    let text = expect_class(setup.ended(End::Stopped).await, ErrorClass::Stopped);
    assert_eq!(text, "CodeBuild cannot build docker/Dockerfile: stopped");
}

#[tokio::test(start_paused = true)]
async fn codebuild_ends_a_build_at_the_limit_of_codeloc() {
    let setup = Setup::new(PROJECT).await;
    let text = expect_class(setup.build().await, ErrorClass::Dockerfile);
    assert_eq!(text, "CodeBuild cannot build docker/Dockerfile: timed_out");
}

#[tokio::test(start_paused = true)]
async fn codeloc_stops_a_build_that_does_not_end() {
    let setup = Setup::new(PROJECT).await;
    let text = expect_class(setup.changed(|build| build.timeout_minutes = 10_000).await, ErrorClass::Dockerfile);
    let limit = "it takes longer than 30 min (build.dockerfile_minutes)";
    assert_eq!(text, format!("CodeBuild cannot build docker/Dockerfile: {limit}"));
    assert_eq!(setup.ends(), [Some(End::Stopped)]);
}

#[tokio::test(start_paused = true)]
async fn time_in_the_queue_does_not_count() {
    let setup = Setup::new(PROJECT).await;
    let clock = tokio::time::Instant::now();
    // Before codeloc reads the build for the first time.
    let done = setup
        .changed_every(Duration::from_secs(1), |build| {
            build.queued = clock.elapsed() < Duration::from_hours(3);
            build.timeout_minutes = 10_000;
            if clock.elapsed() > Duration::from_hours(3) + LIMIT {
                build.end = Some(End::Succeeded);
            }
        })
        .await;
    done.expect("an image");
}

#[tokio::test(start_paused = true)]
async fn a_retry_starts_another_build() {
    let setup = Setup::new(PROJECT).await;
    expect_class(setup.ended(End::Failed("exit status 1".to_owned())).await, ErrorClass::Dockerfile);
    setup.ended(End::Succeeded).await.expect("an image");
    assert_eq!(setup.ends().len(), 2);
}

/// Waits until the build that codeloc no longer waits for is stopped, and its files are deleted.
async fn wait_until_stopped(setup: &Setup) {
    let cleaned = async {
        while setup.ends() != [Some(End::Stopped)] || !setup.contexts().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), cleaned).await.expect("no build and no files");
}

#[tokio::test(start_paused = true)]
async fn a_build_that_is_starting_is_stopped_as_well() {
    let setup = Setup::new(PROJECT).await;
    let slow = Fault::Delay(Duration::from_secs(20));
    setup.deployment.cloud.set_faults(Rule::at(1, slow).on(&["StartBuild"]));
    let build = tokio::time::timeout(Duration::from_secs(5), setup.build());
    build.await.expect_err("it has not started");
    wait_until_stopped(&setup).await;
}

#[tokio::test(start_paused = true)]
async fn a_build_that_nothing_needs_is_stopped() {
    let setup = Setup::new(PROJECT).await;
    let build = tokio::time::timeout(Duration::from_mins(1), setup.build());
    build.await.expect_err("it does not end");
    wait_until_stopped(&setup).await;
    // A later need of the same image does not find the stopped build.
    setup.ended(End::Succeeded).await.expect("an image");
}

#[tokio::test(start_paused = true)]
async fn a_missing_codebuild_project_is_a_transient_error() {
    let text = expect_class(Setup::new("absent").await.build().await, ErrorClass::Transient);
    assert!(text.contains("Project cannot be found"), "{text}");
}
