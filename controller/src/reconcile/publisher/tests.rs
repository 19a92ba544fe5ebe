use futures::StreamExt;

use super::*;
use crate::fixtures::location_name;
use crate::runtime::Clock;

/// How the fake webserver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behavior {
    Well,
    /// A reload takes this time.
    Slow(Duration),
    /// It accepts requests and never answers: the client gives up after 20 s.
    Hangs,
    Refuses,
}

/// Loads the locations in the file at a reload.
#[derive(Clone)]
struct Fake {
    behavior: watch::Sender<Behavior>,
    publisher: Arc<Publisher>,
    loaded: Arc<std::sync::Mutex<Vec<String>>>,
    reloads: Arc<AtomicU64>,
    /// How long it takes to answer with its locations at the time of the request.
    answers_after: Duration,
    /// Whether it connects to the server of another location for `orders` before a reload.
    stale: bool,
}

impl Fake {
    fn new(folder: &std::path::Path, behavior: Behavior) -> Self {
        Self {
            behavior: watch::Sender::new(behavior),
            publisher: Arc::new(Publisher::new(folder.join("workspace.yaml"))),
            loaded: Arc::default(),
            reloads: Arc::default(),
            answers_after: Duration::ZERO,
            stale: false,
        }
    }

    async fn answer(&self) -> Result<(), WebError> {
        let mut behavior = self.behavior.subscribe();
        let answers = behavior.wait_for(|behavior| *behavior != Behavior::Hangs);
        match tokio::time::timeout(Duration::from_secs(20), answers).await {
            Err(_) => Err(WebError::Unreachable("no answer within 20 s".to_owned())),
            Ok(Ok(behavior)) if *behavior == Behavior::Refuses => Err(WebError::Refused("no".to_owned())),
            Ok(_) => Ok(()),
        }
    }

    fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::SeqCst)
    }
}

impl Webserver for Fake {
    async fn locations(&self) -> Result<BTreeMap<String, WebLocation>, WebError> {
        self.answer().await?;
        let loaded = lock(&self.loaded).clone();
        tokio::time::sleep(self.answers_after).await;
        let server = |name: &String| if self.stale { "billing-1".to_owned() } else { format!("{name}-1") };
        Ok(loaded
            .into_iter()
            .map(|name| (name.clone(), WebLocation::Loaded { server_id: Some(server(&name)) }))
            .collect())
    }

    async fn reload_workspace(&self) -> Result<(), WebError> {
        let entries = self.publisher.read().unwrap();
        self.answer().await?;
        self.reloads.fetch_add(1, Ordering::SeqCst);
        let behavior = *self.behavior.borrow();
        if let Behavior::Slow(time) = behavior {
            tokio::time::sleep(time).await;
        }
        *lock(&self.loaded) = entries.into_keys().collect();
        Ok(())
    }

    async fn reload_location(&self, _name: &str) -> Result<WebLocation, WebError> {
        self.answer().await?;
        let right = !self.stale || self.reloads() > 0;
        Ok(WebLocation::Loaded { server_id: Some(if right { "orders-1" } else { "billing-1" }.to_owned()) })
    }

    async fn has_unfinished_runs(&self, _location: &str) -> Result<bool, WebError> {
        Ok(false)
    }
}

fn recorder() -> Arc<Recorder> {
    Arc::new(Recorder::new(Clock::of_this_machine()))
}

/// With what keeps it, which ends with the test.
fn kept(folder: &std::path::Path, webserver: Fake, recorder: Arc<Recorder>) -> Arc<WorkspacePublisher<Fake>> {
    let publisher = Publisher::new(folder.join("workspace.yaml"));
    let workspace = Arc::new(WorkspacePublisher::open(publisher, Some(webserver), recorder).unwrap());
    let kept = workspace.clone();
    tokio::spawn(async move { kept.keep().await });
    workspace
}

fn publish(name: &str) -> Change {
    Change::Publish { name: location_name(name), host: format!("{name}.test"), port: 4000, from: None }
}

async fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_hours(1);
    while !done() {
        assert!(Instant::now() < deadline, "not within an hour");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_webserver_with_an_old_host_reloads_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut webserver = Fake::new(folder.path(), Behavior::Well);
    webserver.stale = true;
    let workspace = kept(folder.path(), webserver.clone(), recorder());
    let (expected, found) = ("orders-1".into(), "billing-1".to_owned());
    let change = Change::Reload { name: location_name("orders"), expected, found };
    workspace.apply(&change).await.unwrap();
    assert_eq!(webserver.reloads(), 1);
    // One that connects to the right host is not asked to load everything again.
    workspace.apply(&change).await.unwrap();
    assert_eq!(webserver.reloads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_publication_waits_for_a_quick_reload() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = kept(folder.path(), Fake::new(folder.path(), Behavior::Well), recorder());
    workspace.apply(&publish("orders")).await.unwrap();
    let shown = workspace.observed(&location_name("orders")).await.0.web;
    assert_eq!(shown, Some(WebLocation::Loaded { server_id: Some("orders-1".to_owned()) }));
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_reload_is_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let mut webserver = Fake::new(folder.path(), Behavior::Well);
    webserver.answers_after = Duration::from_millis(500);
    let workspace = kept(folder.path(), webserver.clone(), recorder());
    let asked = workspace.clone();
    let asked = tokio::spawn(async move { asked.observed(&location_name("orders")).await.0.web });
    // Its question is on its way.
    tokio::time::sleep(Duration::from_millis(100)).await;
    workspace.apply(&publish("orders")).await.unwrap();
    let loaded = Some(WebLocation::Loaded { server_id: Some("orders-1".to_owned()) });
    assert_eq!(asked.await.unwrap(), loaded);
    assert_eq!(workspace.observed(&location_name("orders")).await.0.web, loaded);
}

#[tokio::test(start_paused = true)]
async fn publications_during_a_slow_reload_share_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Behavior::Slow(Duration::from_secs(15));
    let webserver = Fake::new(folder.path(), slow);
    let workspace = kept(folder.path(), webserver.clone(), recorder());
    let names: Vec<String> = (0..16).map(|number| format!("location{number:02}")).collect();
    // As many at once as there are workers.
    let publications = futures::stream::iter(&names).map(|name| async { workspace.apply(&publish(name)).await });
    publications.buffer_unordered(8).for_each(|published| async { published.unwrap() }).await;
    assert_eq!((webserver.reloads(), workspace.count()), (1, 16), "publications wait for the reload");
    // What is being loaded is neither published nor reloaded once more.
    assert_eq!(workspace.observed(&location_name("location15")).await.0.web, Some(WebLocation::Loading));
    until(|| lock(&webserver.loaded).len() == 16).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(webserver.reloads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_reload_is_reported_and_repeated_later() {
    let folder = tempfile::tempdir().unwrap();
    let webserver = Fake::new(folder.path(), Behavior::Hangs);
    let recorder = recorder();
    let workspace = kept(folder.path(), webserver.clone(), recorder.clone());
    let before = Instant::now();
    for name in ["orders", "billing"] {
        workspace.apply(&publish(name)).await.unwrap();
    }
    assert!(before.elapsed() <= 2 * PATIENCE, "publications wait for the webserver");
    assert_eq!(workspace.count(), 2);
    let failed = || recorder.metrics.reloads.with_label_values(&["failed"]).get();
    until(|| failed() == 1).await;
    let told = recorder.events.list(|event| event.reason == EventReason::ReloadFailed);
    assert!(told[0].message.contains("no answer within 20 s"), "{told:?}");
    // One that is silent is not asked to reload again and again.
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(failed() <= 2, "{} reloads", failed());
    webserver.behavior.send_replace(Behavior::Well);
    until(|| lock(&webserver.loaded).len() == 2).await;
    let shown = workspace.observed(&location_name("orders")).await.0.web;
    assert_eq!(shown, Some(WebLocation::Loaded { server_id: Some("orders-1".to_owned()) }));
}

#[tokio::test(start_paused = true)]
async fn a_refused_reload_is_repeated_and_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let webserver = Fake::new(folder.path(), Behavior::Refuses);
    let recorder = recorder();
    let workspace = kept(folder.path(), webserver.clone(), recorder.clone());
    workspace.apply(&publish("orders")).await.unwrap();
    let failed = || recorder.metrics.reloads.with_label_values(&["failed"]).get();
    until(|| failed() >= 1).await;
    let view = workspace.observed(&location_name("orders")).await.1;
    assert!(matches!(view, View::Unreachable(why) if why.contains("refused the request: no")));
    webserver.behavior.send_replace(Behavior::Well);
    until(|| lock(&webserver.loaded).len() == 1).await;
    assert_eq!(recorder.events.list(|event| event.reason == EventReason::ReloadFailed).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_pass_waits_for_a_webserver_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let webserver = Fake::new(folder.path(), Behavior::Well);
    let workspace = kept(folder.path(), webserver.clone(), recorder());
    workspace.apply(&publish("orders")).await.unwrap();
    webserver.behavior.send_replace(Behavior::Hangs);
    tokio::time::sleep(Duration::from_secs(15)).await;
    for _ in 0..100 {
        let asked = Instant::now();
        let (observed, view) = workspace.observed(&location_name("orders")).await;
        assert_eq!((asked.elapsed(), observed.web), (Duration::ZERO, None));
        assert!(matches!(view, View::Unreachable(_)));
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!(workspace.silence().is_some());
    webserver.behavior.send_replace(Behavior::Well);
    until(|| workspace.silence().is_none()).await;
}
