//! More than an account may have.

use std::time::Duration;

use localcloud::{Quotas, Rules};
use serde_json::json;
use tokio::time::sleep;

use crate::world::{World, capacity, policy, refused, text};

#[tokio::test(start_paused = true)]
async fn the_thousand_and_first_role_is_refused_until_the_quota_is_lifted() {
    let world = World::new(Rules::default());
    for number in 0..1_000 {
        world.create_role(&format!("role-{number}")).unwrap();
    }
    assert_eq!(world.create_role("one-more"), refused("LimitExceeded"));
    assert_eq!(world.create_role("role-7"), refused("EntityAlreadyExists"), "what is there is told first");
    world.iam("DeleteRole", &[("RoleName", "role-7")]).unwrap();
    world.create_role("one-more").unwrap();
    assert_eq!(world.create_role("another"), refused("LimitExceeded"));
    world.cloud.with_cloud(|cloud| cloud.rules.quotas = Quotas::lifted());
    world.create_role("another").unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_quota_is_refused_under_its_services_own_code() {
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
    let world = World::new(Rules { quotas, ..Rules::default() });
    world.prepare("app:1");

    world.create_role("task").unwrap();
    let attach = |arn: &str| world.iam("AttachRolePolicy", &[("RoleName", "task"), ("PolicyArn", arn)]);
    attach("arn:aws:iam::aws:policy/One").unwrap();
    attach("arn:aws:iam::aws:policy/One").expect("it is attached already");
    assert_eq!(attach("arn:aws:iam::aws:policy/Two"), refused("LimitExceeded"));

    let namespace = |name: &str| world.discovery("CreatePrivateDnsNamespace", json!({"Name": name, "Vpc": "vpc-1"}));
    namespace("one.internal").unwrap();
    assert_eq!(namespace("two.internal"), refused("ResourceLimitExceeded"), "one that is being made counts");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(namespace("two.internal"), refused("ResourceLimitExceeded"));
    let id = text(&world.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"][0]["Id"]);
    let registry = world.registry(&id, "one");
    let instance = |id: &str| {
        let attributes = json!({"AWS_INSTANCE_IPV4": "127.1.2.3"});
        world.discovery(
            "RegisterInstance",
            json!({"ServiceId": registry["Id"], "InstanceId": id, "Attributes": attributes}),
        )
    };
    let elsewhere = json!({"AWS_INSTANCE_IPV4": "10.1.2.3"});
    let elsewhere = json!({"ServiceId": registry["Id"], "InstanceId": "one", "Attributes": elsewhere});
    assert_eq!(world.discovery("RegisterInstance", elsewhere), refused("InvalidInput"), "not of this machine");
    instance("one").unwrap();
    sleep(Duration::from_secs(1)).await;
    instance("one").expect("registering again changes what is there");
    assert_eq!(instance("two"), refused("ResourceLimitExceeded"));

    world.create_service("one", json!({})).unwrap();
    world.create_service("two", json!({})).unwrap();
    assert_eq!(world.create_service("three", json!({})), refused("InvalidParameterException"));
    world.create_service("two", json!({})).expect("an equal service is no new one");

    world.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    world.scaling("RegisterScalableTarget", "one", capacity()).expect("it is registered already");
    assert_eq!(world.scaling("RegisterScalableTarget", "two", capacity()), refused("LimitExceededException"));
    world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).unwrap();
    world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).expect("it is there already");
    let second = world.scaling("PutScalingPolicy", "one", policy("memory", "Memory"));
    assert_eq!(second, refused("LimitExceededException"));

    world.logs("CreateLogGroup", json!({"logGroupName": "/one"})).unwrap();
    assert_eq!(world.logs("CreateLogGroup", json!({"logGroupName": "/two"})), refused("LimitExceededException"));
    world.ecr("CreateRepository", json!({"repositoryName": "one"})).unwrap();
    let second = world.ecr("CreateRepository", json!({"repositoryName": "two"}));
    assert_eq!(second, refused("LimitExceededException"));
}

#[tokio::test(start_paused = true)]
async fn a_policy_needs_two_alarms_and_is_refused_where_one_is_left() {
    let world = World::new(Rules { quotas: Quotas { alarms: 3, ..Quotas::aws() }, ..Rules::default() });
    world.prepare("app:1");
    world.create_service("one", json!({})).unwrap();
    world.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).unwrap();
    let second = world.scaling("PutScalingPolicy", "one", policy("memory", "Memory"));
    assert_eq!(second, refused("LimitExceededException"));
    world.scaling("DeleteScalingPolicy", "one", json!({"PolicyName": "cpu"})).unwrap();
    world.scaling("PutScalingPolicy", "one", policy("memory", "Memory")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_unregistered_where_its_namespace_is_full_and_the_service_says_so() {
    let quotas = Quotas { instances_of_namespace: 1, ..Quotas::aws() };
    let world = World::new(Rules { quotas, ..Rules::default() });
    world.prepare("app:1");
    let namespace = world.namespace().await;
    let registries = ["one", "two"].map(|name| world.registry(&namespace, name));
    for (name, registry) in ["one", "two"].into_iter().zip(&registries) {
        let entered = json!({"serviceRegistries": [{"registryArn": registry["Arn"]}]});
        world.create_service(name, entered).unwrap();
        sleep(Duration::from_secs(20)).await;
    }
    assert_eq!((world.instances(&registries[0]).len(), world.instances(&registries[1]).len()), (1, 0));
    let events = world.service("two")["events"].to_string();
    assert!(events.contains("the quota of 1 instances per namespace is reached"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn a_creator_request_id_of_more_than_64_characters_is_refused() {
    let world = World::new(Rules::default());
    let namespace = json!({"Name": "dagster.internal", "Vpc": "vpc-a", "CreatorRequestId": "n"});
    world.discovery("CreatePrivateDnsNamespace", namespace).unwrap();
    while world.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"].as_array().is_none_or(Vec::is_empty) {
        sleep(Duration::from_secs(1)).await;
    }
    let id = world.discovery("ListNamespaces", json!({})).unwrap()["Namespaces"][0]["Id"].clone();
    let create = |name: &str, length: usize| {
        let dns = json!({"DnsRecords": [{"Type": "A", "TTL": 10}]});
        let input = json!({"Name": name, "NamespaceId": id, "DnsConfig": dns, "CreatorRequestId": "x".repeat(length)});
        world.discovery("CreateService", input).map(drop)
    };
    assert_eq!(create("long", 65), Err("InvalidInput".to_owned()));
    assert_eq!(create("short", 64), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_task_definition_of_more_than_64_kib_is_refused() {
    let world = World::new(Rules::default());
    world.prepare("registry.test/app:1");
    let register = |value: String| {
        let container =
            json!({"name": "app", "image": "registry.test/app:1", "environment": [{"name": "A", "value": value}]});
        let input = json!({"family": "app", "containerDefinitions": [container]});
        world.ecs("RegisterTaskDefinition", input).map(drop)
    };
    assert_eq!(register("x".repeat(65_000)), Ok(()));
    assert_eq!(register("x".repeat(65_536)), Err("ClientException".to_owned()));
}
