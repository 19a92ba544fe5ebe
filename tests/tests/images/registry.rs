//! A registry that does not answer.

use std::time::Duration;

use codeloc::settings::Severity;
use codeloc::status::events::{Event, EventReason};
use codeloc_tests::TestDeployment;

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_registry_is_two_warnings() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.builds.set_unavailable(true);
    let recorder = deployment.recorder().unwrap();
    let mut posted = recorder.events.subscribe();
    deployment.branches.push("orders", 2);
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;

    let is_warning = |event: &Event| event.severity == Severity::Warning;
    let warnings = recorder.events.list(is_warning);
    let reasons: Vec<EventReason> = warnings.iter().map(|event| event.reason).collect();
    assert!(reasons.contains(&EventReason::ImageFailed) && reasons.contains(&EventReason::Degraded), "{warnings:#?}");
    assert_eq!(reasons.len(), 2, "{warnings:#?}");
    // codeloc has retried after 20 s, and then less and less often, up to every 5 minutes.
    let retried = |event: &&Event| event.reason == EventReason::ImageFailed && event.count >= 12;
    assert_eq!(warnings.iter().filter(retried).count(), 1, "{warnings:#?}");
    let posts = std::iter::from_fn(|| posted.try_recv().ok()).filter(is_warning).count();
    assert_eq!(posts, 2);

    deployment.builds.set_unavailable(false);
    deployment.wait_until_commit("orders", 2).await;
}
