//! What is told while AWS, the lease or the webserver is away: within fifteen seconds, and not a moment longer than it lasts.

use std::time::Duration;

use codeloc::daemon::{Cause, Fault as DaemonFault};
use codeloc_core::status::{Health, Sync};
use codeloc_tests::{TestDeployment, config};
use localcloud::Rules;
use localcloud::fault_injection::{Fault, Faults, Rule};

const NOTICED: Duration = Duration::from_secs(15);

fn causes(told: &[DaemonFault]) -> Vec<Cause> {
    told.iter().map(|fault| fault.cause).collect()
}

fn is_unready(told: &[DaemonFault]) -> bool {
    told.iter().any(|fault| fault.cause.is_unready())
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// One location at rest, and nothing to tell.
async fn at_rest() -> TestDeployment {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(causes(&deployment.faults_of("codeloc")), []);
    deployment
}

#[tokio::test(start_paused = true)]
async fn an_aws_that_is_away_is_told_and_nothing_counts_as_observed() {
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
        deployment.until_healthy(&["orders"]).await;
        deployment.idle().await;
        let told = || deployment.faults_of("codeloc");
        assert_eq!(causes(&told()), [], "{way:?}");

        deployment.cloud.set_faults(Rule::always(way).of("codeloc"));
        let converged = deployment.status("orders").expect("a status").converged;
        tokio::time::sleep(NOTICED).await;
        assert_eq!(causes(&told()), [Cause::Aws], "{way:?} {lease_seconds}");
        assert!(is_unready(&told()));
        let text = told()[0].to_string();
        assert!(text.contains(", since 2") && text.contains("; nothing is changed"), "{text}");
        let shown = deployment.shown("orders").expect("a status");
        assert_eq!((shown.sync, shown.health), (Sync::Unknown, Health::Unknown), "{way:?}");
        assert!(shown.message.starts_with("last observed "), "{}", shown.message);

        deployment.branches.push("orders", 2);
        deployment.idle().await;
        let status = deployment.status("orders").expect("a status");
        assert_eq!(status.converged, converged, "{way:?}: nothing was observed");
        assert_eq!(causes(&told()), [Cause::Aws], "{way:?}");

        deployment.cloud.set_faults(Faults::none());
        deployment.until("told no more", |this| this.faults_of("codeloc").is_empty()).await;
        let rolled_out = |this: &TestDeployment| {
            let shown = this.shown("orders").expect("a status");
            shown.commit == Some(format!("{:040x}", 2)) && (shown.sync, shown.health) == (Sync::Synced, Health::Healthy)
        };
        deployment.until("rolled out", rolled_out).await;
        assert!(deployment.status("orders").expect("a status").converged > converged);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_interruption_is_not_worth_telling() {
    let deployment = at_rest().await;
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
async fn a_lease_that_cannot_be_renewed_is_told_although_the_rest_of_aws_answers() {
    let deployment = at_rest().await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["PutObject", "GetObject"]));
    tokio::time::sleep(NOTICED).await;
    let told = deployment.faults_of("codeloc");
    assert_eq!(causes(&told), [Cause::Aws]);
    assert!(told[0].to_string().starts_with("the lease cannot be read or renewed (s3:PutObject"), "{}", told[0]);
    deployment.cloud.set_faults(Faults::none());
    deployment.until("told no more", |this| this.faults_of("codeloc").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_process_took_is_told_by_the_one_that_had_it() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.start_as("a").await;
    deployment.until_healthy(&["orders"]).await;
    deployment.start_as("b").await;
    deployment.idle().await;
    // A standby from the beginning is nothing to tell.
    assert_eq!(causes(&deployment.faults_of("b")), []);
    deployment.cloud.set_faults(Rule::always(Fault::ResetBefore).of("a"));
    deployment.idle().await;
    assert_eq!(causes(&deployment.faults_of("a")), [Cause::Aws]);
    deployment.cloud.set_faults(Faults::none());
    deployment.idle().await;
    let told = deployment.faults_of("a");
    assert_eq!(causes(&told), [Cause::Lease]);
    assert!(told[0].to_string().starts_with("another process took the lease: b/"), "{}", told[0]);
    assert!(!is_unready(&told), "it stands by");
    deployment.kill_one("b").await;
    deployment.until("taken back", |this| this.faults_of("a").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_webserver_that_hangs_is_told_and_holds_up_no_rollout() {
    let deployment = at_rest().await;
    deployment.webserver.hang(true);
    tokio::time::sleep(NOTICED).await;
    let told = deployment.faults_of("codeloc");
    assert_eq!(causes(&told), [Cause::Webserver]);
    assert!(!is_unready(&told), "locations are deployed all the same");
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 2);
    // Nothing but AWS is waited for.
    seconds(2).await;
    let updated = deployment.mutating_calls().iter().any(|call| call.operation == "UpdateService");
    assert!(updated, "{:#?}", deployment.mutating_calls());
    deployment.webserver.hang(false);
    deployment.until("told no more", |this| this.faults_of("codeloc").is_empty()).await;
    deployment.until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn new_locations_are_published_while_the_webserver_hangs_and_loaded_when_it_answers() {
    let mut deployment = at_rest().await;
    deployment.webserver.hang(true);
    tokio::time::sleep(NOTICED).await;
    let names = ["billing", "stock", "returns"];
    for name in names {
        deployment.commit(name, config(name));
    }
    deployment.until("published", |this| names.iter().all(|name| this.serves(name))).await;
    deployment.idle().await;
    deployment.webserver.hang(false);
    deployment.until_healthy(&names).await;
}

#[tokio::test(start_paused = true)]
async fn sweeps_that_fail_are_told_until_one_ends_well() {
    let deployment = at_rest().await;
    let read = "application-autoscaling:DescribeScalableTargets";
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.insert(read.to_owned()));
    deployment.until("told", |this| causes(&this.faults_of("codeloc")) == [Cause::Sweep]).await;
    let told = deployment.faults_of("codeloc");
    assert!(is_unready(&told) && told[0].to_string().contains("DescribeScalableTargets"), "{}", told[0]);
    assert_eq!(deployment.shown("orders").expect("a status").sync, Sync::Unknown);
    deployment.cloud.with_cloud(|cloud| cloud.rules.denied.clear());
    deployment.until("told no more", |this| this.faults_of("codeloc").is_empty()).await;
    deployment.until("seen again", |this| this.shown("orders").is_some_and(|status| status.sync == Sync::Synced)).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_without_aws_says_so() {
    let denied = "application-autoscaling:DescribeScalableTargets".to_owned();
    let mut deployment = TestDeployment::with(Rules { denied: [denied].into(), ..Rules::default() }).await;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    assert_eq!(causes(&deployment.faults_of("codeloc")), [Cause::Start]);
    tokio::time::sleep(NOTICED).await;
    assert_eq!(causes(&deployment.faults_of("codeloc")), [Cause::Sweep]);
}
