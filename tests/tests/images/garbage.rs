//! Which images go out of ECR and which stay, in virtual time: days of a location that was rolled out many times.

use std::collections::BTreeSet;
use std::time::Duration;

use codeloc_crds::Mode;
use codeloc_tests::TestDeployment;
use localcloud::fault_injection::{Fault, Rule};
use localcloud::model::images::{Image, Images};
use localcloud::model::time::Time;

const REPOSITORY: &str = "codeloc/orders";
/// The first looks are over a day after the first hour.
const A_DAY: Duration = Duration::from_hours(25);

fn digest(number: u32) -> String {
    format!("sha256:{number:064x}")
}

/// Puts an image there that was pushed so long ago.
fn push(deployment: &TestDeployment, number: u32, age: Duration, parts: &[u32]) {
    let now = deployment.cloud.now().millis();
    let pushed_at = Time::from_millis(now - u64::try_from(age.as_millis()).expect("an age in milliseconds"));
    let kind = if parts.is_empty() { "manifest" } else { "index" };
    let media_type = format!("application/vnd.oci.image.{kind}.v1+json");
    let parts = parts.iter().map(|part| digest(*part)).collect();
    let image = Image { digest: digest(number), tags: vec![], size_bytes: 1, pushed_at, media_type, parts };
    deployment.images.put(REPOSITORY, image);
}

/// By number.
fn left(deployment: &TestDeployment) -> Vec<u32> {
    let images = deployment.images.images(REPOSITORY).into_iter();
    let mut left: Vec<u32> =
        images.map(|image| u32::from_str_radix(&image.digest[60..], 16).expect("hexadecimal digits")).collect();
    left.sort_unstable();
    left
}

fn count(deployment: &TestDeployment, operation: &str) -> usize {
    deployment.cloud.calls().iter().filter(|call| call.operation == operation).count()
}

const OLD: Duration = Duration::from_hours(30 * 24);

/// `orders` after its first eight commits, the images of which are old, as are those of nobody up to number 230; one is young.
async fn after_eight_commits(mode: Mode) -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.commit("orders", codeloc_tests::config("orders"));
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    deployment.webserver.run(true);
    for commit in 2..=8 {
        deployment.branches.push("orders", commit);
        deployment.until("noticed", |this| !this.healthy("orders")).await;
        deployment.until_healthy(&["orders"]).await;
    }
    deployment.idle().await;
    for number in 1..=230 {
        push(&deployment, number, OLD, &[]);
    }
    push(&deployment, 500, Duration::from_hours(1), &[]);
    if mode != Mode::Enforce {
        deployment.kill().await;
        deployment.settings.mode = mode;
        deployment.start().await;
    }
    deployment.cloud.reset_calls();
    deployment
}

#[tokio::test(start_paused = true)]
async fn old_images_go_but_for_those_that_run_that_are_a_way_back_or_that_a_run_may_need() {
    let deployment = after_eight_commits(Mode::Enforce).await;
    tokio::time::sleep(A_DAY).await;
    // The third to the seventh commit are the ways back, the first two may be needed by a run that is queued.
    assert_eq!(left(&deployment), [1, 2, 3, 4, 5, 6, 7, 8, 500]);
    assert_eq!(count(&deployment, "BatchDeleteImage"), 3, "222 images, a hundred a call");
    let mutating: BTreeSet<String> = deployment.mutating_calls().into_iter().map(|call| call.operation).collect();
    assert_eq!(mutating, BTreeSet::from(["BatchDeleteImage".to_owned()]));
    assert!(deployment.healthy("orders"));

    deployment.webserver.run(false);
    tokio::time::sleep(A_DAY).await;
    assert_eq!(left(&deployment), [3, 4, 5, 6, 7, 8, 500]);
    tokio::time::sleep(Duration::from_hours(7 * 24)).await;
    assert_eq!(left(&deployment), [3, 4, 5, 6, 7, 8]);
    deployment.cloud.reset_calls();
    // A way back needs no build.
    deployment.branches.push("orders", 5);
    let back = |this: &TestDeployment| {
        let said = this.code_server.of_location("orders");
        this.healthy("orders") && said.len() == 1 && said[0].image.ends_with(&digest(5))
    };
    deployment.until("back", back).await;
}

#[tokio::test(start_paused = true)]
async fn an_index_keeps_what_it_names_and_goes_before_it() {
    let deployment = after_eight_commits(Mode::Enforce).await;
    push(&deployment, 8, OLD, &[100, 101]);
    push(&deployment, 600, OLD, &[102, 103]);
    tokio::time::sleep(A_DAY).await;
    assert_eq!(left(&deployment), [1, 2, 3, 4, 5, 6, 7, 8, 100, 101, 500]);
}

#[tokio::test(start_paused = true)]
async fn no_image_is_looked_at_where_nothing_may_be_changed() {
    for mode in [Mode::Detect, Mode::Suspended] {
        let deployment = after_eight_commits(mode).await;
        tokio::time::sleep(A_DAY).await;
        assert_eq!((count(&deployment, "DescribeImages"), left(&deployment).len()), (0, 231), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn images_that_cannot_be_read_stay_and_the_location_is_well() {
    let deployment = after_eight_commits(Mode::Enforce).await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).of("codeloc").on(&["DescribeImages"]));
    tokio::time::sleep(A_DAY).await;
    assert!(count(&deployment, "DescribeImages") > 0);
    assert!(deployment.healthy("orders"), "{:#?}", deployment.status("orders"));
    assert_eq!(left(&deployment).len(), 231);
}
