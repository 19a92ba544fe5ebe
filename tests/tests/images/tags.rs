//! Images by tag: moved tags under each policy, restarts, and a registry that does not answer.

use codeloc_core::status::{ConditionKind, Health, Reason};
use codeloc_tests::{TestDeployment, config};

const V1: &str = "registry.test/team/orders:1";
const V2: &str = "registry.test/team/orders:2";

fn tagged(tag: &str, more: &str) -> String {
    format!("{}image: {tag}\n{more}", config("orders"))
}

const FOLLOW: &str = "image_policy: follow\n";

fn image(number: u32) -> String {
    format!("registry.test/team/orders@sha256:{number:064x}")
}

/// Whether the location is healthy and runs only this image.
fn runs(deployment: &TestDeployment, number: u32) -> bool {
    let servers = deployment.code_server.servers_of("orders");
    deployment.healthy("orders") && servers.len() == 1 && servers[0].image == image(number)
}

fn condition(deployment: &TestDeployment, kind: ConditionKind) -> (Reason, String) {
    let status = deployment.status("orders").expect("a status");
    let dated = status.conditions.iter().find(|dated| dated.condition.kind == kind).expect("the condition");
    (dated.condition.reason, dated.condition.message.clone())
}

/// `orders` with image 1.
async fn running(more: &str) -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.builds.tag(V1, 1);
    deployment.commit("orders", tagged(V1, more));
    deployment.start().await;
    deployment.wait_until("it runs", |this| runs(this, 1)).await;
    deployment.idle().await;
    deployment.cloud.reset_calls();
    deployment
}

#[tokio::test(start_paused = true)]
async fn a_pinned_tag_that_moves_changes_nothing() {
    let mut deployment = running("").await;
    deployment.builds.tag(V1, 2);
    deployment.idle().await;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
    // Another change of the config keeps the image.
    deployment.commit("orders", tagged(V1, "resources: {cpu: 256, memory: 1024}\n"));
    deployment
        .wait_until("a new revision", |this| this.mutating_operations().contains(&"UpdateService".to_owned()))
        .await;
    deployment.wait_until("it runs", |this| runs(this, 1)).await;

    deployment.builds.tag(V2, 3);
    deployment.commit("orders", tagged(V2, ""));
    deployment.wait_until("it runs", |this| runs(this, 3)).await;
    // codeloc resolves the first tag again when the config names it again.
    deployment.commit("orders", tagged(V1, ""));
    deployment.wait_until("it runs", |this| runs(this, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_followed_tag_that_moves_is_rolled_out_once() {
    let mut deployment = running(FOLLOW).await;
    deployment.builds.tag(V1, 2);
    deployment.wait_until("it runs", |this| runs(this, 2)).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    deployment.kill().await;
    deployment.builds.tag(V1, 3);
    deployment.start().await;
    deployment.wait_until("it runs", |this| runs(this, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn the_running_image_stays_while_the_registry_does_not_answer() {
    for more in ["", FOLLOW] {
        let mut deployment = running(more).await;
        deployment.builds.set_unavailable(true);
        deployment.idle().await;
        deployment.kill().await;
        deployment.start().await;
        deployment.wait_until("it runs", |this| runs(this, 1)).await;
        deployment.idle().await;
        assert!(runs(&deployment, 1), "{:#?}", deployment.status("orders"));
        assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
        let (reason, message) = condition(&deployment, ConditionKind::SourceResolved);
        assert_eq!((reason, message.contains("does not answer")), (Reason::UpToDate, more == FOLLOW), "{message}");
        // codeloc reports that it cannot resolve the other tag, and the running image stays.
        deployment.commit("orders", tagged(V2, more));
        deployment.wait_until("reported", |this| this.status("orders").unwrap().health == Health::Degraded).await;
        let (reason, message) = condition(&deployment, ConditionKind::SourceResolved);
        assert_eq!((reason, message.as_str()), (Reason::Unresolved, "the registry does not answer"));
        deployment.builds.set_unavailable(false);
        let absent = |this: &TestDeployment| condition(this, ConditionKind::SourceResolved).1.contains("has no image");
        deployment.wait_until("reported", absent).await;
        assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
        deployment.builds.tag(V2, 2);
        deployment.wait_until("it runs", |this| runs(this, 2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_tag_of_the_same_image_changes_only_tags() {
    let mut deployment = running("").await;
    deployment.builds.tag(V2, 1);
    deployment.commit("orders", tagged(V2, ""));
    deployment.wait_until("recorded", |this| !this.mutating_operations().is_empty()).await;
    deployment.builds.tag(V2, 2);
    deployment.idle().await;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), ["TagResource"]);
    assert!(runs(&deployment, 1));
    // A digest in the config removes the recorded tag.
    deployment.commit("orders", format!("{}image: {}\n", config("orders"), image(1)));
    deployment.wait_until("record removed", |this| this.mutating_operations().len() == 2).await;
    deployment.commit("orders", tagged(V2, ""));
    deployment.wait_until("it runs", |this| runs(this, 2)).await;
}
