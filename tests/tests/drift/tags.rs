//! Tags of the config that change their keys.

use codeloc_core::resources::Kind;
use codeloc_core::tags::Tags;
use codeloc_tests::{TestDeployment, config};

use super::NAME;

/// AWS allows this number of tags on a resource.
const LIMIT: usize = 50;

/// A config with as many tags as it may have, with these keys.
fn tagged(prefix: &str) -> String {
    let tags: Vec<String> = (0..codeloc_crds::MAX_TAGS).map(|number| format!("{prefix}-{number}: v")).collect();
    format!("{}tags: {{{}}}\n", config(NAME), tags.join(", "))
}

/// The tags of every resource that a diff compares.
async fn tags(deployment: &TestDeployment) -> Vec<(Kind, Tags)> {
    let observed = deployment.observed().await.remove(NAME).unwrap();
    observed.owned().map(|(kind, _, tags)| (kind, tags.clone())).collect()
}

fn with_prefix(tags: &Tags, prefix: &str) -> usize {
    tags.keys().filter(|key| key.starts_with(prefix)).count()
}

#[tokio::test(start_paused = true)]
async fn renamed_tags_replace_the_old_ones_everywhere() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit(NAME, tagged("old"));
    deployment.start().await;
    deployment.wait_until_healthy(&[NAME]).await;
    let logs = deployment.clients().logs;
    let group = "arn:aws:logs:eu-central-1:123456789012:log-group:/codeloc/locations/orders";
    logs.tag_resource().resource_arn(group).tags("audit", "yes").send().await.unwrap();
    assert!(tags(&deployment).await.iter().all(|(_, tags)| with_prefix(tags, "old-") == codeloc_crds::MAX_TAGS));

    deployment.commit(NAME, tagged("new"));
    deployment.wait_until("noticed", |this| !this.healthy(NAME)).await;
    deployment.wait_until_healthy(&[NAME]).await;
    let found = tags(&deployment).await;
    assert_eq!(found.len(), 7, "{found:?}");
    for (kind, tags) in &found {
        assert_eq!(with_prefix(tags, "new-"), codeloc_crds::MAX_TAGS, "{kind:?}");
        assert_eq!(with_prefix(tags, "old-"), 0, "{kind:?}");
        assert!(tags.len() <= LIMIT, "{kind:?}: {}", tags.len());
        assert_eq!(tags.contains_key("audit"), *kind == Kind::LogGroup, "{kind:?}");
    }

    // Without tags in the config, only codeloc's own and those of others remain.
    deployment.commit(NAME, config(NAME));
    deployment.wait_until("noticed", |this| !this.healthy(NAME)).await;
    deployment.wait_until_healthy(&[NAME]).await;
    for (kind, tags) in tags(&deployment).await {
        assert!(tags.keys().all(|key| key.starts_with("codeloc:") || key == "audit"), "{kind:?}: {tags:?}");
        assert!(!tags.contains_key(codeloc_core::tags::CONFIG_TAGS), "{kind:?}");
    }
    deployment.cloud.reset_calls();
    deployment.idle().await;
    assert_eq!(deployment.mutating_operations(), Vec::<String>::new());
}
