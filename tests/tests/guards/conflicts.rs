//! Configs that affect other locations: shared S3 prefixes and huge files.

use codeloc_tests::{TestDeployment, config};

use super::{message_contains, owned};

#[tokio::test(start_paused = true)]
async fn a_config_with_the_prefix_of_another_blocks_only_itself() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.commit("aaa", format!("{}s3_prefix: repos/orders\n", config("aaa")));
    deployment.wait_until("refused", |this| message_contains(this, "aaa", "belongs to the location `orders`")).await;
    deployment.branches.push("orders", 2);
    deployment.wait_until_commit("orders", 2).await;
    assert_eq!(owned(&deployment).await, ["orders"]);
}

#[tokio::test(start_paused = true)]
async fn a_shared_prefix_stays_with_the_location_that_runs() {
    let with_folder = |name: &str| format!("{}s3_prefix: teams/a\n", config(name));
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", with_folder("orders"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;

    // A name that sorts first does not take the prefix, also after a restart.
    deployment.commit("aaa", with_folder("aaa"));
    deployment.wait_until("refused", |this| message_contains(this, "aaa", "overlaps `teams/a` of `orders`")).await;
    deployment.kill().await;
    deployment.start().await;
    deployment
        .wait_until("refused again", |this| message_contains(this, "aaa", "overlaps `teams/a` of `orders`"))
        .await;
    deployment.branches.push("orders", 2);
    deployment.wait_until_commit("orders", 2).await;
    assert_eq!(owned(&deployment).await, ["orders"]);

    // The prefix is free when its location does not use it any more.
    deployment.commit("orders", config("orders"));
    deployment.wait_until_healthy(&["aaa", "orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn two_new_locations_with_one_prefix_are_both_refused() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    for name in ["aaa", "bbb"] {
        deployment.commit(name, format!("{}s3_prefix: teams/a/{name}\n", config(name)));
    }
    deployment.wait_until_healthy(&["aaa", "bbb"]).await;
    deployment.cloud.reset_calls();
    for name in ["ccc", "ddd"] {
        deployment.configs.insert(name.to_owned(), format!("{}s3_prefix: teams/b\n", config(name)));
    }
    deployment.publish();
    deployment
        .wait_until("refused", |this| {
            ["ccc", "ddd"].iter().all(|name| message_contains(this, name, "overlaps `teams/b`"))
        })
        .await;
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_huge_config_does_not_delay_other_locations() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.commit("long", format!("{}: x\n{}", "k".repeat(70_000), config("long")));
    let keys: String = (0..4000).map(|number| format!("unknown{number}: x\n")).collect::<Vec<_>>().concat();
    deployment.commit("many", config("many") + &keys);
    deployment.commit("new", config("new"));
    deployment.wait_until_healthy(&["new", "orders"]).await;
    assert!(message_contains(&deployment, "many", "and 3999 more problems"));
    assert!(message_contains(&deployment, "long", "repos/long/config.yml:1:"));
}
