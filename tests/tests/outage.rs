//! Outages of AWS, the lease or the webserver: codeloc reports them within 15 seconds and until they end.

use std::time::Duration;

use codeloc::daemon::{Cause, Fault as DaemonFault};
use codeloc_core::status::{Health, Sync};
use codeloc_tests::{TestDeployment, commit_id, config};
use localcloud::Rules;
use localcloud::fault_injection::{Fault, Faults, Rule};

const NOTICED: Duration = Duration::from_secs(15);

fn causes(reported: &[DaemonFault]) -> Vec<Cause> {
    reported.iter().map(|fault| fault.cause).collect()
}

fn is_unready(reported: &[DaemonFault]) -> bool {
    reported.iter().any(|fault| fault.cause.is_unready())
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// One location in sync, without faults.
async fn in_sync() -> TestDeployment {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(causes(&deployment.faults_of("codeloc")), []);
    deployment
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_aws_is_reported_and_nothing_is_observed() {
    let hang = Fault::Hang { applied: false };
    let ways = [
        (Fault::ServerError, 60),
        (Fault::Unavailable, 60),
        (Fault::Throttle, 60),
        (Fault::ResetBefore, 60),
        (Fault::ResetBefore, 600),
        (hang, 15),
        (hang, 60),
        (hang, 600),
    ];
    for (way, lease_seconds) in ways {
        let mut deployment = TestDeployment::new().await;
        deployment.settings.reconcile.lease_seconds = lease_seconds;
        deployment.commit("orders", config("orders"));
        deployment.start().await;
        deployment.wait_until_healthy(&["orders"]).await;
        deployment.idle().await;
        let reported = || deployment.faults_of("codeloc");
        assert_eq!(causes(&reported()), [], "{way:?}");

        deployment.cloud.set_faults(Rule::always(way).of("codeloc"));
        let converged = deployment.status("orders").expect("a status").converged;
        tokio::time::sleep(NOTICED).await;
        assert_eq!(causes(&reported()), [Cause::Aws], "{way:?} {lease_seconds}");
        assert!(is_unready(&reported()));
        let text = reported()[0].to_string();
        assert!(text.contains(", since 2") && text.contains("; codeloc changes nothing"), "{text}");
        let shown = deployment.shown("orders").expect("a status");
        assert_eq!((shown.sync, shown.health), (Sync::Unknown, Health::Unknown), "{way:?}");
        assert!(shown.message.starts_with("last observed "), "{}", shown.message);

        deployment.branches.push("orders", 2);
        deployment.idle().await;
        let status = deployment.status("orders").expect("a status");
        assert_eq!(status.converged, converged, "{way:?}: observed during the outage");
        assert_eq!(causes(&reported()), [Cause::Aws], "{way:?}");

        deployment.cloud.set_faults(Faults::none());
        deployment.wait_until("no fault", |this| this.faults_of("codeloc").is_empty()).await;
        let rolled_out = |this: &TestDeployment| {
            let shown = this.shown("orders").expect("a status");
            shown.commit == Some(commit_id(2)) && (shown.sync, shown.health) == (Sync::Synced, Health::Healthy)
        };
        deployment.wait_until("rolled out", rolled_out).await;
        assert!(deployment.status("orders").expect("a status").converged > converged);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_interruption_is_not_reported() {
    let deployment = in_sync().await;
    for _ in 0..20 {
        deployment.cloud.set_faults(Rule::always(Fault::ServerError).of("codeloc"));
        seconds(1).await;
        deployment.cloud.set_faults(Faults::none());
        for _ in 0..70 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(causes(&deployment.faults_of("codeloc")), []);
            assert_eq!(deployment.shown("orders").expect("a status").sync, Sync::Synced);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_is_reported() {
    let deployment = in_sync().await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["PutObject", "GetObject"]));
    tokio::time::sleep(NOTICED).await;
    let reported = deployment.faults_of("codeloc");
    assert_eq!(causes(&reported), [Cause::Aws]);
    assert!(
        reported[0].to_string().starts_with("codeloc cannot read or renew the lease (s3:PutObject"),
        "{}",
        reported[0]
    );
    deployment.cloud.set_faults(Faults::none());
    deployment.wait_until("no fault", |this| this.faults_of("codeloc").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn the_former_lease_holder_reports_that_it_lost_the_lease() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.start_as("a").await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.start_as("b").await;
    deployment.idle().await;
    // A daemon that starts as standby reports no fault.
    assert_eq!(causes(&deployment.faults_of("b")), []);
    deployment.cloud.set_faults(Rule::always(Fault::ResetBefore).of("a"));
    deployment.idle().await;
    assert_eq!(causes(&deployment.faults_of("a")), [Cause::Aws]);
    deployment.cloud.set_faults(Faults::none());
    deployment.idle().await;
    let reported = deployment.faults_of("a");
    assert_eq!(causes(&reported), [Cause::Lease]);
    assert!(reported[0].to_string().starts_with("another process took the lease: b/"), "{}", reported[0]);
    assert!(!is_unready(&reported), "a standby is ready");
    deployment.kill_one("b").await;
    deployment.wait_until("lease acquired again", |this| this.faults_of("a").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_webserver_is_reported_and_delays_no_rollout() {
    let deployment = in_sync().await;
    deployment.webserver.hang(true);
    tokio::time::sleep(NOTICED).await;
    let reported = deployment.faults_of("codeloc");
    assert_eq!(causes(&reported), [Cause::Webserver]);
    assert!(!is_unready(&reported), "locations are deployed without the webserver");
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 2);
    // The rollout waits for AWS only.
    seconds(2).await;
    let updated = deployment.mutating_calls().iter().any(|call| call.operation == "UpdateService");
    assert!(updated, "{:#?}", deployment.mutating_calls());
    deployment.webserver.hang(false);
    deployment.wait_until("no fault", |this| this.faults_of("codeloc").is_empty()).await;
    deployment.wait_until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn new_locations_are_published_while_the_webserver_hangs() {
    let mut deployment = in_sync().await;
    deployment.webserver.hang(true);
    tokio::time::sleep(NOTICED).await;
    let names = ["billing", "stock", "returns"];
    for name in names {
        deployment.commit(name, config(name));
    }
    deployment.wait_until("published", |this| names.iter().all(|name| this.serves(name))).await;
    deployment.idle().await;
    deployment.webserver.hang(false);
    deployment.wait_until_healthy(&names).await;
}

#[tokio::test(start_paused = true)]
async fn failing_sweeps_are_reported_until_one_succeeds() {
    let deployment = in_sync().await;
    let read = "application-autoscaling:DescribeScalableTargets";
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.insert(read.to_owned()));
    deployment.wait_until("reported", |this| causes(&this.faults_of("codeloc")) == [Cause::Sweep]).await;
    let reported = deployment.faults_of("codeloc");
    assert!(is_unready(&reported) && reported[0].to_string().contains("DescribeScalableTargets"), "{}", reported[0]);
    assert_eq!(deployment.shown("orders").expect("a status").sync, Sync::Unknown);
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.clear());
    deployment.wait_until("no fault", |this| this.faults_of("codeloc").is_empty()).await;
    deployment
        .wait_until("in sync again", |this| this.shown("orders").is_some_and(|status| status.sync == Sync::Synced))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_without_aws_reports_it() {
    let denied = "application-autoscaling:DescribeScalableTargets".to_owned();
    let mut deployment = TestDeployment::with(Rules { denied: [denied].into(), ..Rules::default() }).await;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    assert_eq!(causes(&deployment.faults_of("codeloc")), [Cause::Start]);
    tokio::time::sleep(NOTICED).await;
    assert_eq!(causes(&deployment.faults_of("codeloc")), [Cause::Sweep]);
}
