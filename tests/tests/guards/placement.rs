//! Settings that name another cluster than the one in which the locations are.

use codeloc_core::status::Reason;
use codeloc_tests::TestDeployment;

use super::{message_contains, snapshot, wait_until_held};

#[tokio::test(start_paused = true)]
async fn a_location_in_another_cluster_is_left_unchanged() {
    let mut deployment = TestDeployment::converged(&["orders", "stock"]).await;
    deployment.clients().ecs.create_cluster().cluster_name("other").send().await.unwrap();
    let before = snapshot(&deployment).await;
    deployment.kill().await;
    deployment.cloud.reset_calls();
    deployment.settings.aws.cluster = "other".to_owned();
    deployment.branches.push("orders", 2);
    deployment.start().await;
    wait_until_held(&deployment, &["orders", "stock"], Reason::Moved).await;
    let place = "the location is in the cluster dagster and the namespace dagster.internal, and the settings name the cluster other";
    assert!(message_contains(&deployment, "orders", place), "{:?}", deployment.status("orders"));
    deployment.confirm(&["stock"]);
    deployment.remove("stock");
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());

    deployment.kill().await;
    deployment.settings.aws.cluster = "dagster".to_owned();
    assert_eq!(snapshot(&deployment).await, before);
    deployment.start().await;
    deployment.wait_until_commit("orders", 2).await;
    deployment.wait_until("stock is deleted", |this| this.status("stock").is_none()).await;
}
