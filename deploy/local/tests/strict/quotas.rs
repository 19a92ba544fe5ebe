//! Quotas of an account.

use std::time::Duration;

use localcloud::{Quotas, Rules};
use serde_json::json;
use tokio::time::sleep;

use crate::harness::{Harness, capacity, policy, refused, text};

#[tokio::test(start_paused = true)]
async fn the_role_quota_is_refused_until_it_is_lifted() {
    let harness = Harness::new(Rules::default());
    for number in 0..1_000 {
        harness.create_role(&format!("role-{number}")).unwrap();
    }
    assert_eq!(harness.create_role("one-more"), refused("LimitExceeded"));
    assert_eq!(
        harness.create_role("role-7"),
        refused("EntityAlreadyExists"),
        "an existing name is reported before the quota"
    );
    harness.iam("DeleteRole", &[("RoleName", "role-7")]).unwrap();
    harness.create_role("one-more").unwrap();
    assert_eq!(harness.create_role("another"), refused("LimitExceeded"));
    harness.cloud.with_cloud(|cloud| cloud.rules.quotas = Quotas::lifted());
    harness.create_role("another").unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_quota_has_the_error_code_of_its_service() {
    let quotas = Quotas {
        policies_of_role: 1,
        namespaces: 1,
        instances_of_registry: 1,
        services_of_cluster: 2,
        scalable_targets: 1,
        policies_of_target: 1,
        log_groups: 1,
        image_repositories: 1,
        ..Quotas::aws()
    };
    let harness = Harness::new(Rules { quotas, ..Rules::default() });
    harness.prepare("app:1");

    harness.create_role("task").unwrap();
    let attach = |arn: &str| harness.iam("AttachRolePolicy", &[("RoleName", "task"), ("PolicyArn", arn)]);
    attach("arn:aws:iam::aws:policy/One").unwrap();
    attach("arn:aws:iam::aws:policy/One").expect("the policy is already attached");
    assert_eq!(attach("arn:aws:iam::aws:policy/Two"), refused("LimitExceeded"));

    let namespace = |name: &str| harness.discovery("CreatePrivateDnsNamespace", json!({"Name": name, "Vpc": "vpc-1"}));
    namespace("one.internal").unwrap();
    assert_eq!(namespace("two.internal"), refused("ResourceLimitExceeded"), "a namespace in creation counts");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(namespace("two.internal"), refused("ResourceLimitExceeded"));
    let id = text(&harness.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"][0]["Id"]);
    let registry = harness.registry(&id, "one");
    let instance = |id: &str| {
        let attributes = json!({"AWS_INSTANCE_IPV4": "127.1.2.3"});
        harness.discovery(
            "RegisterInstance",
            json!({"ServiceId": registry["Id"], "InstanceId": id, "Attributes": attributes}),
        )
    };
    let elsewhere = json!({"AWS_INSTANCE_IPV4": "10.1.2.3"});
    let elsewhere = json!({"ServiceId": registry["Id"], "InstanceId": "one", "Attributes": elsewhere});
    assert_eq!(
        harness.discovery("RegisterInstance", elsewhere),
        refused("InvalidInput"),
        "the address is not on this machine"
    );
    instance("one").unwrap();
    sleep(Duration::from_secs(1)).await;
    instance("one").expect("a second registration is an update");
    assert_eq!(instance("two"), refused("ResourceLimitExceeded"));

    harness.create_service("one", json!({})).unwrap();
    harness.create_service("two", json!({})).unwrap();
    assert_eq!(harness.create_service("three", json!({})), refused("InvalidParameterException"));
    harness.create_service("two", json!({})).expect("an equal service is not a new one");

    harness.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    harness.scaling("RegisterScalableTarget", "one", capacity()).expect("the target is already registered");
    assert_eq!(harness.scaling("RegisterScalableTarget", "two", capacity()), refused("LimitExceededException"));
    harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).unwrap();
    harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).expect("the policy already exists");
    let second = harness.scaling("PutScalingPolicy", "one", policy("memory", "Memory"));
    assert_eq!(second, refused("LimitExceededException"));

    harness.logs("CreateLogGroup", json!({"logGroupName": "/one"})).unwrap();
    assert_eq!(harness.logs("CreateLogGroup", json!({"logGroupName": "/two"})), refused("LimitExceededException"));
    harness.ecr("CreateRepository", json!({"repositoryName": "one"})).unwrap();
    let second = harness.ecr("CreateRepository", json!({"repositoryName": "two"}));
    assert_eq!(second, refused("LimitExceededException"));
}

#[tokio::test(start_paused = true)]
async fn a_scaling_policy_needs_two_alarms() {
    let harness = Harness::new(Rules { quotas: Quotas { alarms: 3, ..Quotas::aws() }, ..Rules::default() });
    harness.prepare("app:1");
    harness.create_service("one", json!({})).unwrap();
    harness.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).unwrap();
    let second = harness.scaling("PutScalingPolicy", "one", policy("memory", "Memory"));
    assert_eq!(second, refused("LimitExceededException"));
    harness.scaling("DeleteScalingPolicy", "one", json!({"PolicyName": "cpu"})).unwrap();
    harness.scaling("PutScalingPolicy", "one", policy("memory", "Memory")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_in_a_full_namespace_runs_without_registration() {
    let quotas = Quotas { instances_of_namespace: 1, ..Quotas::aws() };
    let harness = Harness::new(Rules { quotas, ..Rules::default() });
    harness.prepare("app:1");
    let namespace = harness.namespace().await;
    let registries = ["one", "two"].map(|name| harness.registry(&namespace, name));
    for (name, registry) in ["one", "two"].into_iter().zip(&registries) {
        let entered = json!({"serviceRegistries": [{"registryArn": registry["Arn"]}]});
        harness.create_service(name, entered).unwrap();
        sleep(Duration::from_secs(20)).await;
    }
    assert_eq!((harness.instances(&registries[0]).len(), harness.instances(&registries[1]).len()), (1, 0));
    let events = harness.service("two")["events"].to_string();
    assert!(events.contains("the quota of 1 instances per namespace is reached"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_creator_request_id_has_at_most_64_characters() {
    let harness = Harness::new(Rules::default());
    let namespace = json!({"Name": "dagster.internal", "Vpc": "vpc-a", "CreatorRequestId": "n"});
    harness.discovery("CreatePrivateDnsNamespace", namespace).unwrap();
    while harness.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"].as_array().is_none_or(Vec::is_empty) {
        sleep(Duration::from_secs(1)).await;
    }
    let id = harness.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"][0]["Id"].clone();
    let create = |name: &str, length: usize| {
        let dns = json!({"DnsRecords": [{"Type": "A", "TTL": 10}]});
        let input = json!({"Name": name, "NamespaceId": id, "DnsConfig": dns, "CreatorRequestId": "x".repeat(length)});
        harness.discovery("CreateService", input).map(drop)
    };
    assert_eq!(create("long", 65), Err("InvalidInput".to_owned()));
    assert_eq!(create("short", 64), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_task_definition_has_at_most_64_kib() {
    let harness = Harness::new(Rules::default());
    harness.prepare("registry.test/app:1");
    let register = |value: String| {
        let container =
            json!({"name": "app", "image": "registry.test/app:1", "environment": [{"name": "A", "value": value}]});
        let input = json!({"family": "app", "containerDefinitions": [container]});
        harness.ecs("RegisterTaskDefinition", input).map(drop)
    };
    assert_eq!(register("x".repeat(65_000)), Ok(()));
    assert_eq!(register("x".repeat(65_536)), Err("ClientException".to_owned()));
}
