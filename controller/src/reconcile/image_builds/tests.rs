use std::collections::{BTreeSet, VecDeque};

use codeloc_core::ids::{Commit, Digest};
use codeloc_core::image::{Load, LoadTarget};
use codeloc_core::priority::Priority;
use codeloc_crds::{Architecture, CodePointer};
use codeloc_images::OnProgress;
use tokio::sync::Semaphore;

use super::*;
use crate::fixtures::location_name;
use crate::runtime::Clock;

const A_MINUTE: Duration = Duration::from_secs(60);

/// Builds one image at a time and takes a minute for each.
struct FakeBuilder {
    slots: Semaphore,
    /// References of the images in the registry.
    registry: Mutex<BTreeSet<String>>,
    /// Errors of the next builds; afterwards, builds succeed.
    failures: Mutex<VecDeque<BuildError>>,
    started: Mutex<Vec<(String, Instant)>>,
    ended: Mutex<Vec<String>>,
    looked_up: Mutex<Vec<String>>,
    refreshed: AtomicBool,
}

impl FakeBuilder {
    fn reference(request: &Request) -> String {
        format!("{}@{}", request.target, request.commit)
    }

    fn started(&self) -> Vec<String> {
        lock(&self.started).iter().map(|(build, _)| build.clone()).collect()
    }

    fn ended(&self) -> Vec<String> {
        lock(&self.ended).clone()
    }
}

impl Builder for FakeBuilder {
    async fn find(&self, request: &Request, _: Option<&str>) -> Result<Option<Image>, BuildError> {
        let reference = Self::reference(request);
        Ok(lock(&self.registry).contains(&reference).then(|| image(&reference)))
    }

    async fn build(&self, request: &Request, progress: &OnProgress<'_>) -> Result<Image, BuildError> {
        let _slot = self.slots.acquire().await.unwrap();
        progress(Progress::FetchingCommit);
        let build = format!("{} {}", request.location, request.commit);
        lock(&self.started).push((build.clone(), Instant::now()));
        tokio::time::sleep(A_MINUTE).await;
        lock(&self.ended).push(build);
        if let Some(error) = lock(&self.failures).pop_front() {
            return Err(error);
        }
        let reference = Self::reference(request);
        lock(&self.registry).insert(reference.clone());
        Ok(image(&reference))
    }

    async fn digest(&self, reference: &str) -> Result<Option<Digest>, BuildError> {
        lock(&self.looked_up).push(reference.to_owned());
        Ok(lock(&self.registry).contains(reference).then(|| Digest::from(reference)))
    }

    fn refresh(&self) {
        self.refreshed.store(true, Ordering::Relaxed);
    }
}

fn image(reference: &str) -> Image {
    let target = LoadTarget::Module("shop".to_owned());
    let load = Load { target, working_directory: String::new() };
    Image { reference: reference.to_owned(), commit: None, load, notes: vec![] }
}

fn wanted(name: &str, commit: &str) -> Wanted {
    let request = Request {
        location: location_name(name),
        git_url: format!("https://git.test/{name}.git"),
        commit: Commit::from(commit),
        subdirectory: None,
        code: CodePointer::Module("shop".to_owned()),
        dependencies: None,
        dockerfile: None,
        commands: vec![],
        python: None,
        architecture: Architecture::Arm64,
        target: format!("registry.test/{name}"),
    };
    Wanted { request, repository_created_ms: Some(1), deployed: None }
}

fn with_dockerfile(name: &str, commit: &str) -> Wanted {
    let mut wanted = wanted(name, commit);
    wanted.request.dockerfile = Some("Dockerfile".to_owned());
    wanted
}

struct Setup {
    builder: Arc<FakeBuilder>,
    builds: ImageBuilds<FakeBuilder>,
    queue: Arc<Queue>,
}

impl Setup {
    fn new(failures: impl IntoIterator<Item = BuildError>) -> Self {
        let builder = Arc::new(FakeBuilder {
            slots: Semaphore::new(1),
            registry: Mutex::default(),
            failures: Mutex::new(failures.into_iter().collect()),
            started: Mutex::default(),
            ended: Mutex::default(),
            looked_up: Mutex::default(),
            refreshed: AtomicBool::new(false),
        });
        let queue = Arc::new(Queue::default());
        let recorder = Arc::new(Recorder::new(Clock::of_this_machine()));
        Self { builds: ImageBuilds::new(builder.clone(), queue.clone(), recorder), builder, queue }
    }

    fn ensure(&self, wanted: &Wanted) -> ImageStatus {
        self.builds.ensure(wanted, Reason::Progress)
    }

    /// The next location in the queue, at most a day from now.
    async fn queued(&self) -> Option<LocationName> {
        let next = self.queue.next(Priority::Garbage);
        let due = tokio::time::timeout(Duration::from_hours(24), next).await.ok()?;
        self.queue.done(&due.name);
        Some(due.name)
    }

    /// The result of the attempt in progress.
    async fn result(&self, wanted: &Wanted) -> ImageStatus {
        self.ensure(wanted);
        assert_eq!(self.queued().await.as_ref(), Some(&wanted.request.location));
        self.ensure(wanted)
    }

    /// The pauses between builds of an image that codeloc repeats by itself.
    async fn pauses(&self, wanted: &Wanted) -> Vec<Duration> {
        while self.ensure(wanted) != ImageStatus::Ready(image(&FakeBuilder::reference(&wanted.request))) {
            if self.queued().await.is_none() {
                break;
            }
        }
        let started = lock(&self.builder.started);
        started.windows(2).map(|two| two[1].1 - (two[0].1 + A_MINUTE)).collect()
    }
}

fn is_ready(status: &ImageStatus) -> bool {
    matches!(status, ImageStatus::Ready(_))
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_replaced_is_never_built() {
    let setup = Setup::new([]);
    for commit in ["1", "2", "3"] {
        setup.ensure(&wanted("orders", commit));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(is_ready(&setup.result(&wanted("orders", "3")).await));
    assert_eq!(setup.builder.started(), ["orders 1", "orders 3"]);
    assert_eq!(setup.builder.ended(), ["orders 1", "orders 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_waits_is_dropped_when_replaced() {
    let setup = Setup::new([]);
    for name in ["first", "orders"] {
        setup.ensure(&wanted(name, "1"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    setup.ensure(&wanted("orders", "2"));
    setup.builds.forget(&location_name("first"));
    assert!(is_ready(&setup.result(&wanted("orders", "2")).await));
    assert_eq!(setup.builder.started(), ["first 1", "orders 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_location_does_not_start_its_build() {
    let setup = Setup::new([]);
    for name in ["first", "orders"] {
        setup.ensure(&wanted(name, "1"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    setup.builds.forget(&location_name("orders"));
    assert!(is_ready(&setup.result(&wanted("first", "1")).await));
    assert_eq!(setup.queued().await, None);
    assert_eq!(setup.builder.started(), ["first 1"]);
    // With the config back, it is built.
    assert!(is_ready(&setup.result(&wanted("orders", "1")).await));
}

#[tokio::test(start_paused = true)]
async fn a_new_commit_ends_the_build_of_a_dockerfile() {
    let setup = Setup::new([]);
    for commit in ["1", "2"] {
        setup.ensure(&with_dockerfile("orders", commit));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(is_ready(&setup.result(&with_dockerfile("orders", "2")).await));
    assert_eq!(setup.builder.ended(), ["orders 2"]);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_commit_is_retried_after_growing_pauses() {
    let setup = Setup::new((0..8).map(|_| BuildError::terminal("no solution found")));
    let minutes: Vec<u64> =
        setup.pauses(&wanted("orders", "1")).await.iter().map(|pause| pause.as_secs() / 60).collect();
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_within_five_minutes() {
    let setup = Setup::new((0..8).map(|_| BuildError::transient("no answer")));
    let seconds: Vec<u64> = setup.pauses(&wanted("orders", "1")).await.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [20, 40, 80, 160, 300, 300, 300, 300]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_dockerfile_is_retried_three_times() {
    let setup = Setup::new((0..8).map(|_| BuildError::dockerfile("exit status 1")));
    let wanted = with_dockerfile("orders", "1");
    let minutes: Vec<u64> = setup.pauses(&wanted).await.iter().map(|pause| pause.as_secs() / 60).collect();
    assert_eq!(minutes, [5, 10, 20]);
    let text = "exit status 1; codeloc does not repeat the build by itself; push another commit, or run `codeloc retry orders`";
    assert_eq!(setup.ensure(&wanted), ImageStatus::Failed(text.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_build_is_not_retried() {
    let setup = Setup::new([BuildError::stopped("stopped")]);
    assert!(setup.pauses(&with_dockerfile("orders", "1")).await.is_empty());
    assert_eq!(setup.builder.started().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_repeats_a_failed_build_at_once() {
    for error in [BuildError::terminal("no"), BuildError::stopped("no"), BuildError::dockerfile("no")] {
        let (setup, wanted) = (Setup::new([error]), wanted("orders", "1"));
        assert!(matches!(setup.result(&wanted).await, ImageStatus::Failed(_)));
        let asked = Instant::now();
        setup.builds.retry_failed(&location_name("orders"));
        assert!(is_ready(&setup.result(&wanted).await));
        assert_eq!(asked.elapsed().as_secs(), A_MINUTE.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_during_a_build_does_not_end_it() {
    let (setup, wanted) = (Setup::new([BuildError::dockerfile("no")]), with_dockerfile("orders", "1"));
    assert!(matches!(setup.result(&wanted).await, ImageStatus::Failed(_)));
    setup.queued().await;
    for _ in 0..3 {
        setup.builds.retry_failed(&location_name("orders"));
        setup.ensure(&wanted);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(is_ready(&setup.result(&wanted).await));
    assert_eq!(setup.builder.started().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_use_up_the_retries_of_a_dockerfile() {
    let outage = (0..4).map(|_| BuildError::transient("the registry does not answer"));
    let setup = Setup::new(outage.chain([BuildError::dockerfile("exit status 1")]));
    let pauses = setup.pauses(&with_dockerfile("orders", "1")).await;
    assert_eq!(pauses.iter().map(Duration::as_secs).collect::<Vec<_>>(), [20, 40, 80, 160, 300]);
}

#[tokio::test(start_paused = true)]
async fn a_sync_does_not_repeat_a_build_that_succeeded() {
    let (setup, wanted) = (Setup::new([]), wanted("orders", "1"));
    assert!(is_ready(&setup.result(&wanted).await));
    setup.builds.retry_failed(&location_name("orders"));
    assert!(is_ready(&setup.ensure(&wanted)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_reads_the_tag_of_the_base_image_again() {
    let (setup, wanted) = (Setup::new([]), wanted("orders", "1"));
    assert!(is_ready(&setup.result(&wanted).await));
    setup.builds.retry(&location_name("orders"));
    assert!(setup.builder.refreshed.load(Ordering::Relaxed));
    assert!(matches!(setup.ensure(&wanted), ImageStatus::Building(_)));
    assert!(is_ready(&setup.result(&wanted).await));
    assert_eq!(setup.builder.started(), ["orders 1"], "the registry has the image");
}

#[tokio::test(start_paused = true)]
async fn a_failure_stays_visible_during_the_next_attempt() {
    let (setup, wanted) = (Setup::new([BuildError::terminal("no")]), wanted("orders", "1"));
    assert!(matches!(setup.result(&wanted).await, ImageStatus::Failed(_)));
    setup.queued().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(setup.ensure(&wanted), ImageStatus::Failed(_)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.builder.started().len(), 2);
    assert!(matches!(setup.ensure(&wanted), ImageStatus::Failed(_)));
    assert!(is_ready(&setup.result(&wanted).await));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_gone_is_built_again() {
    let (setup, wanted) = (Setup::new([]), wanted("orders", "1"));
    assert!(is_ready(&setup.result(&wanted).await));
    lock(&setup.builder.registry).clear();
    setup.builds.look_up_some().await;
    assert_eq!(setup.queued().await, Some(location_name("orders")));
    assert!(is_ready(&setup.result(&wanted).await));
    assert_eq!(setup.builder.started().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_looked_up_before_a_rollout() {
    let (setup, wanted, name) = (Setup::new([]), wanted("orders", "1"), location_name("orders"));
    assert!(is_ready(&setup.result(&wanted).await));
    assert!(setup.builds.is_available(&name, ImageOf::Desired).await);
    assert!(lock(&setup.builder.looked_up).is_empty(), "it was pushed a moment ago");
    tokio::time::advance(RECENT).await;
    assert!(setup.builds.is_available(&name, ImageOf::Desired).await);
    lock(&setup.builder.registry).clear();
    assert!(setup.builds.is_available(&name, ImageOf::Desired).await, "it was seen a moment ago");
    tokio::time::advance(RECENT).await;
    assert!(!setup.builds.is_available(&name, ImageOf::Desired).await);
    assert!(is_ready(&setup.result(&wanted).await));
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_was_created_again_gets_its_image() {
    let (setup, mut wanted) = (Setup::new([]), wanted("orders", "1"));
    assert!(is_ready(&setup.result(&wanted).await));
    lock(&setup.builder.registry).clear();
    wanted.repository_created_ms = Some(2);
    assert!(matches!(setup.ensure(&wanted), ImageStatus::Building(_)));
    assert!(is_ready(&setup.result(&wanted).await));
    assert_eq!(setup.builder.started().len(), 2);
}

fn serving(name: &str, commit: &str) -> Wanted {
    let wanted = wanted(name, commit);
    Wanted { deployed: Some(FakeBuilder::reference(&wanted.request)), ..wanted }
}

#[tokio::test(start_paused = true)]
async fn the_serving_image_is_built_again_only_when_gone() {
    let (setup, serving, name) = (Setup::new([]), serving("orders", "1"), location_name("orders"));
    let keep = || setup.builds.keep(&name, Some(&serving), Reason::Progress);
    lock(&setup.builder.registry).insert(FakeBuilder::reference(&serving.request));
    keep();
    setup.builds.look_up_some().await;
    assert_eq!(lock(&setup.builder.looked_up).len(), 1);
    keep();
    assert_eq!(setup.queued().await, None);
    assert_eq!(setup.builder.started(), Vec::<String>::new());

    lock(&setup.builder.registry).clear();
    tokio::time::advance(RECENT).await;
    assert!(!setup.builds.is_available(&name, ImageOf::Serving).await);
    keep();
    assert_eq!(setup.queued().await, Some(name.clone()));
    assert_eq!(setup.builder.ended(), ["orders 1"]);
    assert!(setup.builds.is_available(&name, ImageOf::Serving).await);
}

#[tokio::test(start_paused = true)]
async fn another_image_does_not_replace_the_serving_one() {
    let (setup, name) = (Setup::new([]), location_name("orders"));
    let serving = Wanted { deployed: Some("registry.test/orders@old".to_owned()), ..wanted("orders", "1") };
    let keep = || setup.builds.keep(&name, Some(&serving), Reason::Progress);
    keep();
    assert!(!setup.builds.is_available(&name, ImageOf::Serving).await);
    keep();
    assert_eq!(setup.queued().await, Some(name.clone()));
    let failed = |slot: &Slot| match &slot.progress {
        ImageStatus::Failed(message) => message.clone(),
        other => panic!("{other:?}"),
    };
    let message = failed(&lock(&setup.builds.shared.slots)[&(name.clone(), ImageOf::Serving)]);
    assert!(message.contains("the registry does not have it"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_serving_image_that_nothing_needs_is_not_built() {
    let (setup, serving, name) = (Setup::new([]), serving("orders", "1"), location_name("orders"));
    setup.builds.keep(&name, Some(&serving), Reason::Progress);
    assert!(!setup.builds.is_available(&name, ImageOf::Serving).await);
    setup.builds.keep(&name, None, Reason::Progress);
    assert_eq!(setup.queued().await, None);
    assert_eq!(setup.builder.started(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_looks_up_a_bounded_number_of_images() {
    let setup = Setup::new([]);
    let all: Vec<Wanted> = (0..300).map(|number| wanted(&format!("location{number}"), "1")).collect();
    lock(&setup.builder.registry).extend(all.iter().map(|wanted| FakeBuilder::reference(&wanted.request)));
    for wanted in &all {
        assert!(is_ready(&setup.result(wanted).await));
    }
    for _ in 0..25 {
        tokio::time::advance(A_MINUTE).await;
        lock(&setup.builder.looked_up).clear();
        setup.builds.look_up_some().await;
        assert_eq!(lock(&setup.builder.looked_up).len(), 12);
    }
    let slots = lock(&setup.builds.shared.slots);
    assert!(
        slots.values().all(|slot| slot.seen.is_some_and(|seen| seen.elapsed() < 25 * A_MINUTE)),
        "each one had its turn"
    );
}
