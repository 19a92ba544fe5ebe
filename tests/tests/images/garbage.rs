//! Deletion of images from ECR, for a location with many rollouts.

use std::collections::BTreeSet;
use std::time::Duration;

use codeloc_crds::Mode;
use codeloc_tests::TestDeployment;
use localcloud::fault_injection::{Fault, Rule};
use localcloud::model::images::{Image, Images};
use localcloud::model::time::Time;

const REPOSITORY: &str = "codeloc/orders";
/// codeloc reads the images of a location in its first hour, then once a day.
const A_DAY: Duration = Duration::from_hours(25);

fn digest(number: u32) -> String {
    format!("sha256:{number:064x}")
}

/// Adds an image that was pushed `age` ago.
fn put_image(deployment: &TestDeployment, number: u32, age: Duration, parts: &[u32]) {
    let now = deployment.cloud.now().millis();
    let pushed_at = Time::from_millis(now - u64::try_from(age.as_millis()).expect("an age in milliseconds"));
    let kind = if parts.is_empty() { "manifest" } else { "index" };
    let media_type = format!("application/vnd.oci.image.{kind}.v1+json");
    let parts = parts.iter().map(|part| digest(*part)).collect();
    let image = Image { digest: digest(number), tags: vec![], size_bytes: 1, pushed_at, media_type, parts };
    deployment.images.put(REPOSITORY, image);
}

/// The numbers of the images in ECR.
fn image_numbers(deployment: &TestDeployment) -> Vec<u32> {
    let images = deployment.images.images(REPOSITORY).into_iter();
    let mut numbers: Vec<u32> =
        images.map(|image| u32::from_str_radix(&image.digest[60..], 16).expect("hexadecimal digits")).collect();
    numbers.sort_unstable();
    numbers
}

fn count(deployment: &TestDeployment, operation: &str) -> usize {
    deployment.cloud.calls().iter().filter(|call| call.operation == operation).count()
}

const OLD: Duration = Duration::from_hours(30 * 24);

/// `orders` after eight commits. Images 1 to 230 are old, image 500 is one hour old.
async fn after_eight_commits(mode: Mode) -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.commit("orders", codeloc_tests::config("orders"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.webserver.run(true);
    for commit in 2..=8 {
        deployment.branches.push("orders", commit);
        deployment.wait_until("noticed", |this| !this.healthy("orders")).await;
        deployment.wait_until_healthy(&["orders"]).await;
    }
    deployment.idle().await;
    for number in 1..=230 {
        put_image(&deployment, number, OLD, &[]);
    }
    put_image(&deployment, 500, Duration::from_hours(1), &[]);
    if mode != Mode::Enforce {
        deployment.kill().await;
        deployment.settings.mode = mode;
        deployment.start().await;
    }
    deployment.cloud.reset_calls();
    deployment
}

#[tokio::test(start_paused = true)]
async fn old_images_are_deleted_unless_still_needed() {
    let deployment = after_eight_commits(Mode::Enforce).await;
    tokio::time::sleep(A_DAY).await;
    // Commits 3 to 7 are for rollbacks; a queued run can need commits 1 and 2.
    assert_eq!(image_numbers(&deployment), [1, 2, 3, 4, 5, 6, 7, 8, 500]);
    assert_eq!(count(&deployment, "BatchDeleteImage"), 3, "222 images, a hundred a call");
    let mutating: BTreeSet<String> = deployment.mutating_calls().into_iter().map(|call| call.operation).collect();
    assert_eq!(mutating, BTreeSet::from(["BatchDeleteImage".to_owned()]));
    assert!(deployment.healthy("orders"));

    deployment.webserver.run(false);
    tokio::time::sleep(A_DAY).await;
    assert_eq!(image_numbers(&deployment), [3, 4, 5, 6, 7, 8, 500]);
    tokio::time::sleep(Duration::from_hours(7 * 24)).await;
    assert_eq!(image_numbers(&deployment), [3, 4, 5, 6, 7, 8]);
    deployment.cloud.reset_calls();
    // A rollback needs no build.
    deployment.branches.push("orders", 5);
    let is_rolled_back = |this: &TestDeployment| {
        let servers = this.code_server.servers_of("orders");
        this.healthy("orders") && servers.len() == 1 && servers[0].image.ends_with(&digest(5))
    };
    deployment.wait_until("back", is_rolled_back).await;
}

#[tokio::test(start_paused = true)]
async fn an_index_keeps_its_images_and_is_deleted_first() {
    let deployment = after_eight_commits(Mode::Enforce).await;
    put_image(&deployment, 8, OLD, &[100, 101]);
    put_image(&deployment, 600, OLD, &[102, 103]);
    tokio::time::sleep(A_DAY).await;
    assert_eq!(image_numbers(&deployment), [1, 2, 3, 4, 5, 6, 7, 8, 100, 101, 500]);
}

#[tokio::test(start_paused = true)]
async fn images_are_not_read_in_detect_or_suspended_mode() {
    for mode in [Mode::Detect, Mode::Suspended] {
        let deployment = after_eight_commits(mode).await;
        tokio::time::sleep(A_DAY).await;
        assert_eq!((count(&deployment, "DescribeImages"), image_numbers(&deployment).len()), (0, 231), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_images_are_kept_and_the_location_stays_healthy() {
    let deployment = after_eight_commits(Mode::Enforce).await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).of("codeloc").on(&["DescribeImages"]));
    tokio::time::sleep(A_DAY).await;
    assert!(count(&deployment, "DescribeImages") > 0);
    assert!(deployment.healthy("orders"), "{:#?}", deployment.status("orders"));
    assert_eq!(image_numbers(&deployment).len(), 231);
}
