//! Images that configs give by tag, in virtual time: what a tag that moves means under each policy, after a restart too, and what a
//! registry that does not answer leaves as it is.

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

/// Whether all that runs is this image, and the location is well.
fn runs(deployment: &TestDeployment, number: u32) -> bool {
    let said = deployment.code_server.of_location("orders");
    deployment.healthy("orders") && said.len() == 1 && said[0].image == image(number)
}

fn operations(deployment: &TestDeployment) -> Vec<String> {
    deployment.mutating_calls().into_iter().map(|call| call.operation).collect()
}

fn condition(deployment: &TestDeployment, kind: ConditionKind) -> (Reason, String) {
    let status = deployment.status("orders").expect("a status");
    let dated = status.conditions.iter().find(|dated| dated.condition.kind == kind).expect("the condition");
    (dated.condition.reason, dated.condition.message.clone())
}

/// `orders` runs image 1, which its tag names.
async fn running(more: &str) -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.builds.tag(V1, 1);
    deployment.commit("orders", tagged(V1, more));
    deployment.start().await;
    deployment.until("it runs", |this| runs(this, 1)).await;
    deployment.idle().await;
    deployment.cloud.reset_calls();
    deployment
}

#[tokio::test(start_paused = true)]
async fn a_pinned_tag_that_moves_changes_nothing_until_the_config_names_another() {
    let mut deployment = running("").await;
    deployment.builds.tag(V1, 2);
    deployment.idle().await;
    deployment.kill().await;
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), Vec::<String>::new());
    // Nor does another change of the config: the new revision runs the same image.
    deployment.commit("orders", tagged(V1, "resources: {cpu: 256, memory: 1024}\n"));
    deployment.until("a new revision", |this| operations(this).contains(&"UpdateService".to_owned())).await;
    deployment.until("it runs", |this| runs(this, 1)).await;

    deployment.builds.tag(V2, 3);
    deployment.commit("orders", tagged(V2, ""));
    deployment.until("it runs", |this| runs(this, 3)).await;
    // Named anew, the first tag is asked for anew.
    deployment.commit("orders", tagged(V1, ""));
    deployment.until("it runs", |this| runs(this, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_followed_tag_that_moves_is_rolled_out_once_whether_the_daemon_runs_or_not() {
    let mut deployment = running(FOLLOW).await;
    deployment.builds.tag(V1, 2);
    deployment.until("it runs", |this| runs(this, 2)).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    deployment.kill().await;
    deployment.builds.tag(V1, 3);
    deployment.start().await;
    deployment.until("it runs", |this| runs(this, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_stays_while_the_registry_is_silent_or_the_tag_is_gone() {
    for more in ["", FOLLOW] {
        let mut deployment = running(more).await;
        deployment.builds.be_silent(true);
        deployment.idle().await;
        deployment.kill().await;
        deployment.start().await;
        deployment.until("it runs", |this| runs(this, 1)).await;
        deployment.idle().await;
        assert!(runs(&deployment, 1), "{:#?}", deployment.status("orders"));
        assert_eq!(operations(&deployment), Vec::<String>::new());
        let (reason, message) = condition(&deployment, ConditionKind::SourceResolved);
        assert_eq!((reason, message.contains("does not answer")), (Reason::UpToDate, more == FOLLOW), "{message}");
        // Another tag cannot be looked up: that is said, and what runs stays.
        deployment.commit("orders", tagged(V2, more));
        deployment.until("said", |this| this.status("orders").unwrap().health == Health::Degraded).await;
        let (reason, message) = condition(&deployment, ConditionKind::SourceResolved);
        assert_eq!((reason, message.as_str()), (Reason::Unresolved, "the registry does not answer"));
        deployment.builds.be_silent(false);
        let absent = |this: &TestDeployment| condition(this, ConditionKind::SourceResolved).1.contains("has no image");
        deployment.until("said", absent).await;
        assert_eq!(operations(&deployment), Vec::<String>::new());
        deployment.builds.tag(V2, 2);
        deployment.until("it runs", |this| runs(this, 2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_tag_of_the_same_image_is_written_down_and_rolls_out_nothing() {
    let mut deployment = running("").await;
    deployment.builds.tag(V2, 1);
    deployment.commit("orders", tagged(V2, ""));
    deployment.until("written down", |this| !operations(this).is_empty()).await;
    deployment.builds.tag(V2, 2);
    deployment.idle().await;
    deployment.kill().await;
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), ["TagResource"]);
    assert!(runs(&deployment, 1));
    // Given by digest in between, the tag is not remembered.
    deployment.commit("orders", format!("{}image: {}\n", config("orders"), image(1)));
    deployment.until("taken back", |this| operations(this).len() == 2).await;
    deployment.commit("orders", tagged(V2, ""));
    deployment.until("it runs", |this| runs(this, 2)).await;
}
