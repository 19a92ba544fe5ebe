//! Reading the logs of tasks from CloudWatch Logs.

use std::sync::Arc;

use aws_sdk_cloudwatchlogs::types::InputLogEvent;
use codeloc_aws::fence::Fence;
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_aws::{Cache, Clients, Session, logs};
use codeloc_core::deployment::Deployment;
use codeloc_core::priority::Priority;
use codeloc_tests::TestDeployment;

const GROUP: &str = "/codeloc/locations/orders";
/// 2026-01-01T00:00:00Z in milliseconds.
const START: i64 = 1_767_225_600_000;

/// A log group, and what a session needs to read it.
struct Log {
    clients: Clients,
    deployment: Deployment,
    cache: Cache,
    limits: RateLimiter,
    fence: Fence,
    _cloud: TestDeployment,
}

impl Log {
    async fn new() -> Self {
        let cloud = TestDeployment::new().await;
        let clients = Clients::new(&cloud.sdk(), &Arc::default());
        let region = Some("eu-central-1");
        let deployment =
            codeloc::daemon::find_deployment(&cloud.settings, &clients, region).await.expect("the deployment");
        clients.logs.create_log_group().log_group_name(GROUP).send().await.expect("a log group");
        let limits = RateLimiter::none();
        Self { clients, deployment, cache: Cache::default(), limits, fence: Fence::open(), _cloud: cloud }
    }

    fn session(&self) -> Session<'_> {
        Session {
            clients: &self.clients,
            deployment: &self.deployment,
            cache: &self.cache,
            limits: &self.limits,
            fence: &self.fence,
            epoch: self.fence.epoch(),
            priority: Priority::Garbage,
        }
    }

    async fn create_stream(&self, stream: &str) {
        self.clients
            .logs
            .create_log_stream()
            .log_group_name(GROUP)
            .log_stream_name(stream)
            .send()
            .await
            .expect("a log stream");
    }

    /// Adds lines with these times, in milliseconds after [`START`].
    async fn put(&self, stream: &str, times: impl IntoIterator<Item = i64>) {
        let event = |at| {
            InputLogEvent::builder().timestamp(START + at).message(format!("{stream} {at}")).build().expect("an event")
        };
        let events: Vec<_> = times.into_iter().map(event).collect();
        let put = self.clients.logs.put_log_events().log_group_name(GROUP).log_stream_name(stream);
        put.set_log_events(Some(events)).send().await.expect("lines");
    }

    async fn newest(&self, lines: u16, after: Option<i64>) -> Vec<String> {
        let lines = logs::newest(self.session(), GROUP, lines, after.map(|after| START + after)).await.expect("lines");
        lines.into_iter().map(|line| line.text).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_lines_come_from_all_streams() {
    let log = Log::new().await;
    for task in 0..12 {
        log.create_stream(&format!("r1/{task:02}")).await;
        log.put(&format!("r1/{task:02}"), [1, 100 + task]).await;
    }
    let expected: Vec<String> = (0..12).map(|task| format!("r1/{task:02} {}", 100 + task)).collect();
    assert_eq!(log.newest(12, None).await, expected);
    assert_eq!(log.newest(100, Some(109)).await, expected[10..]);
    assert_eq!(log.newest(100, None).await.len(), 24);
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_log_have_an_id_for_each_line() {
    let log = Log::new().await;
    for stream in ["r1/a", "r1/b"] {
        log.create_stream(stream).await;
        // Both tasks write at the same times.
        log.put(stream, 0..1500).await;
    }
    let mut lines = vec![];
    let mut token = None;
    let mut pages = 0;
    loop {
        let page = logs::since(log.session(), GROUP, START + 1, token).await.unwrap();
        lines.extend(page.lines);
        token = page.next;
        pages += 1;
        if token.is_none() {
            break;
        }
    }
    assert_eq!((lines.len(), pages), (2998, 2));
    assert!(lines.is_sorted_by_key(|line| line.at));
    let ids: std::collections::BTreeSet<_> = lines.iter().map(|line| &line.id).collect();
    assert_eq!(ids.len(), lines.len());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_exist_has_no_lines() {
    let log = Log::new().await;
    assert_eq!(logs::newest(log.session(), "/codeloc/none", 10, None).await.unwrap(), []);
    assert_eq!(logs::since(log.session(), "/codeloc/none", 0, None).await.unwrap(), logs::LogPage::default());
    assert_eq!(logs::tail(log.session(), "/codeloc/none", "r1", 10).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_tail_is_of_the_task_that_started_last() {
    let log = Log::new().await;
    // More streams than one page has. The names of the tasks say nothing about their order.
    for task in 0..60 {
        log.create_stream(&format!("r1/{task:02}")).await;
    }
    log.put("r1/00", [500]).await;
    log.put("r1/59", [400, 401]).await;
    log.create_stream("r2/00").await;
    log.put("r2/00", [900]).await;
    assert_eq!(logs::tail(log.session(), GROUP, "r1", 1).await.unwrap(), ["r1/59 401"]);
}
