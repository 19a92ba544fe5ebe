//! The real Rust SDK against the cloud, in process and in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_ecs::config::{BehaviorVersion, Region};
use aws_sdk_ecs::types::{
    AwsVpcConfiguration, Compatibility, ContainerDefinition, Deployment, DeploymentCircuitBreaker,
    DeploymentConfiguration, DeploymentRolloutState, DesiredStatus, HealthCheck, LaunchType, NetworkConfiguration,
    NetworkMode, Service, ServiceRegistry, TaskField, TaskStopCode,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_servicediscovery::types::{DnsConfig, DnsRecord, RecordType};
use localcloud::driver::simulated::Script;
use localcloud::{LocalCloud, Settings};
use tokio::time::{Instant, sleep};

const CLUSTER: &str = "main";
const ACCESS: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
const ENDPOINT: &str = "http://localcloud.test";
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
    "Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;

/// One configuration for every service: their builders are different types of the same shape.
macro_rules! client {
    ($sdk:ident, $cloud:expr) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-central-1"))
                .credentials_provider(Credentials::from_keys("test", "test", None))
                .endpoint_url(ENDPOINT)
                .http_client($cloud.connector())
                .build(),
        )
    };
}

struct Harness {
    cloud: LocalCloud,
    ecs: aws_sdk_ecs::Client,
}

impl Harness {
    async fn new(settings: Settings) -> Self {
        let cloud = LocalCloud::start(settings);
        let ecs = client!(aws_sdk_ecs, cloud);
        ecs.create_cluster().cluster_name(CLUSTER).send().await.unwrap();
        Self { cloud, ecs }
    }

    /// Registers a revision of `family` whose one container has this image, and returns its ARN.
    async fn register(&self, family: &str, image: &str) -> String {
        let container = ContainerDefinition::builder()
            .name("server")
            .image(image)
            .health_check(HealthCheck::builder().command("CMD").command("true").build().unwrap())
            .build();
        let registered = self
            .ecs
            .register_task_definition()
            .family(family)
            .network_mode(NetworkMode::Awsvpc)
            .requires_compatibilities(Compatibility::Fargate)
            .cpu("256")
            .memory("512")
            .container_definitions(container)
            .send();
        let definition = registered.await.unwrap().task_definition.unwrap();
        definition.task_definition_arn.unwrap()
    }

    async fn create(&self, name: &str, definition: &str, registry: Option<&str>) {
        let registry = registry.map(|arn| ServiceRegistry::builder().registry_arn(arn).build());
        let breaker = DeploymentCircuitBreaker::builder().enable(true).rollback(true).build();
        let created = self
            .ecs
            .create_service()
            .cluster(CLUSTER)
            .service_name(name)
            .task_definition(definition)
            .desired_count(1)
            .launch_type(LaunchType::Fargate)
            .network_configuration(network())
            .deployment_configuration(DeploymentConfiguration::builder().deployment_circuit_breaker(breaker).build())
            .set_service_registries(registry.map(|registry| vec![registry]))
            .send();
        created.await.unwrap();
    }

    async fn describe(&self, name: &str) -> Service {
        let described = self.ecs.describe_services().cluster(CLUSTER).services(name).send().await.unwrap();
        described.services().first().unwrap().clone()
    }

    /// Waits for a condition on a service; virtual time makes the limit cheap.
    async fn wait(&self, name: &str, what: &str, holds: impl Fn(&Service) -> bool) -> Service {
        let limit = Instant::now() + Duration::from_hours(1);
        loop {
            let service = self.describe(name).await;
            if holds(&service) {
                return service;
            }
            assert!(Instant::now() < limit, "{what} never came true: {service:#?}");
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn completed(&self, name: &str) -> Service {
        let completed =
            |service: &Service| primary(service).rollout_state() == Some(&DeploymentRolloutState::Completed);
        self.wait(name, "a completed primary deployment", completed).await
    }
}

fn network() -> NetworkConfiguration {
    let vpc = AwsVpcConfiguration::builder().subnets("subnet-1").build().unwrap();
    NetworkConfiguration::builder().awsvpc_configuration(vpc).build()
}

fn primary(service: &Service) -> &Deployment {
    service.deployments().iter().find(|deployment| deployment.status() == Some("PRIMARY")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_new_service_is_in_progress_until_its_task_is_healthy() {
    let harness = Harness::new(Settings { latency: Duration::from_millis(50), ..Settings::default() }).await;
    let definition = harness.register("app", "registry/app:1").await;
    let started = Instant::now();
    harness.create("app", &definition, None).await;
    let fresh = harness.describe("app").await;
    assert_eq!(primary(&fresh).rollout_state(), Some(&DeploymentRolloutState::InProgress));
    assert_eq!((fresh.running_count(), fresh.pending_count()), (0, 1));
    let steady = harness.completed("app").await;
    assert!(started.elapsed() >= Duration::from_secs(7), "pull, boot and health check take seven seconds");
    assert_eq!(steady.running_count(), 1);
    assert!(steady.events()[0].message().unwrap().ends_with("has reached a steady state."));
}

#[tokio::test(start_paused = true)]
async fn creating_a_service_again_must_be_idempotent() {
    let harness = Harness::new(Settings::default()).await;
    let definition = harness.register("app", "registry/app:1").await;
    harness.create("app", &definition, None).await;
    harness.create("app", &definition, None).await;
    let other = harness.ecs.create_service().cluster(CLUSTER).service_name("app").task_definition(&definition);
    let refused =
        other.desired_count(2).network_configuration(network()).send().await.unwrap_err().into_service_error();
    assert!(refused.is_invalid_parameter_exception(), "{refused}");
    assert_eq!(harness.cloud.calls().iter().filter(|call| call.operation == "CreateService").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_revision_is_rolled_back_while_the_old_serves() {
    for script in [Script::exits(1), Script::image_missing(), Script::never_healthy()] {
        let harness = Harness::new(Settings::default()).await;
        let good = harness.register("app", "registry/app:1").await;
        let bad = harness.register("app", "registry/app:bad").await;
        harness.cloud.simulated().script("registry/app:bad", script.clone());
        harness.create("app", &good, None).await;
        harness.completed("app").await;

        let update = harness.ecs.update_service().cluster(CLUSTER).service("app").task_definition(&bad);
        let updated = update.send().await.unwrap().service.unwrap();
        let ours = primary(&updated).id().unwrap().to_owned();
        let state_of = |service: &Service, id: &str| {
            let found = service.deployments().iter().find(|deployment| deployment.id() == Some(id));
            found.and_then(|deployment| deployment.rollout_state().cloned())
        };
        let failed = harness
            .wait("app", "our deployment's failure", |service| {
                assert!(service.running_count() >= 1, "the old revision keeps serving");
                state_of(service, &ours) == Some(DeploymentRolloutState::Failed)
            })
            .await;
        assert_eq!(primary(&failed).task_definition(), Some(good.as_str()));
        assert!(primary(&failed).rollout_state_reason().unwrap().contains("rolling back"));
        let back = harness.completed("app").await;
        assert_eq!(back.task_definition(), Some(good.as_str()));
        assert_eq!(back.deployments().len(), 1);

        let stopped = harness.ecs.list_tasks().cluster(CLUSTER).desired_status(DesiredStatus::Stopped).send();
        let stopped = stopped.await.unwrap().task_arns.unwrap();
        let tasks =
            harness.ecs.describe_tasks().cluster(CLUSTER).set_tasks(Some(stopped)).include(TaskField::Tags).send();
        let tasks = tasks.await.unwrap().tasks.unwrap();
        let failures: Vec<_> = tasks.iter().filter(|task| task.task_definition_arn() == Some(&bad)).collect();
        assert_eq!(failures.len(), 3, "the breaker's threshold for one desired task");
        let expected = match (script.image_missing, script.exit) {
            (true, _) => TaskStopCode::TaskFailedToStart,
            (_, Some(_)) => TaskStopCode::EssentialContainerExited,
            (_, None) => TaskStopCode::ServiceSchedulerInitiated,
        };
        assert!(failures.iter().all(|task| task.stop_code() == Some(&expected)), "{failures:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_drains_and_releases_its_name() {
    let harness = Harness::new(Settings::default()).await;
    let definition = harness.register("app", "registry/app:1").await;
    harness.create("app", &definition, None).await;
    harness.completed("app").await;
    let delete = || harness.ecs.delete_service().cluster(CLUSTER).service("app");
    assert!(delete().send().await.is_err(), "a service above 0 is deleted only with force");
    let deleted = delete().force(true).send().await.unwrap().service.unwrap();
    assert_eq!(deleted.status(), Some("DRAINING"));
    let again = harness.ecs.create_service().cluster(CLUSTER).service_name("app").task_definition(&definition);
    let again = again.desired_count(1).network_configuration(network()).send().await.unwrap_err();
    assert!(format!("{:?}", again.into_service_error()).contains("still Draining"));
    let listed = harness.ecs.list_services().cluster(CLUSTER).send().await.unwrap();
    assert_eq!(listed.service_arns().len(), 0, "a draining service is described but not listed");
    harness.wait("app", "INACTIVE", |service| service.status() == Some("INACTIVE")).await;
    harness.create("app", &definition, None).await;
    assert_eq!(harness.describe("app").await.status(), Some("ACTIVE"));
}

#[tokio::test(start_paused = true)]
async fn a_running_task_is_registered_in_cloud_map() {
    let harness = Harness::new(Settings::default()).await;
    let discovery = client!(aws_sdk_servicediscovery, harness.cloud);
    let create = discovery.create_private_dns_namespace().name("dagster.internal").vpc("vpc-1");
    let operation = create.send().await.unwrap().operation_id.unwrap();
    let done = || async {
        let asked = discovery.get_operation().operation_id(&operation).send().await.unwrap();
        asked.operation.unwrap().status.unwrap().as_str() == "SUCCESS"
    };
    while !done().await {
        sleep(Duration::from_millis(100)).await;
    }
    let namespace = discovery.list_namespaces().send().await.unwrap().namespaces.unwrap()[0].id.clone().unwrap();
    let record = DnsRecord::builder().r#type(RecordType::A).ttl(10).build().unwrap();
    let create = discovery.create_service().name("app-service").namespace_id(namespace);
    let registry = create.dns_config(DnsConfig::builder().dns_records(record).build().unwrap()).send();
    let registry = registry.await.unwrap().service.unwrap();
    let instances = || async {
        let listed = discovery.list_instances().service_id(registry.id().unwrap()).send().await.unwrap();
        listed.instances.unwrap()
    };

    let definition = harness.register("app", "registry/app:1").await;
    harness.create("app", &definition, registry.arn()).await;
    assert!(instances().await.is_empty(), "a task is registered when it runs");
    harness.completed("app").await;
    let listed = instances().await;
    let tasks = harness.ecs.list_tasks().cluster(CLUSTER).send().await.unwrap().task_arns.unwrap();
    assert!(tasks[0].ends_with(listed[0].id().unwrap()), "an instance has the id of its task");
    assert_eq!(listed[0].attributes().unwrap()["AWS_INSTANCE_IPV4"], "127.96.0.1");
    let refused = discovery.delete_service().id(registry.id().unwrap()).send().await.unwrap_err().into_service_error();
    assert!(refused.is_resource_in_use(), "{refused}");
    harness.ecs.delete_service().cluster(CLUSTER).service("app").force(true).send().await.unwrap();
    assert!(instances().await.is_empty(), "a stopping task is deregistered");
    discovery.delete_service().id(registry.id().unwrap()).send().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_of_many_conditional_writers_wins() {
    let cloud = LocalCloud::start(Settings::default());
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::from_keys("test", "test", None))
        .endpoint_url(ENDPOINT)
        .force_path_style(true)
        .http_client(cloud.connector())
        .build();
    let s3 = aws_sdk_s3::Client::from_conf(config);
    s3.create_bucket().bucket("state").send().await.unwrap();
    let write = |body: &'static str| {
        s3.put_object().bucket("state").key("lease").body(ByteStream::from_static(body.as_bytes()))
    };
    let first = write("one").if_none_match("*").send().await.unwrap();
    let second = write("two").if_none_match("*").send().await.unwrap_err();
    assert_eq!(second.raw_response().unwrap().status().as_u16(), 412);
    assert!(write("three").if_match("\"0\"").send().await.is_err());
    write("four").if_match(first.e_tag().unwrap()).send().await.unwrap();
    let read = s3.get_object().bucket("state").key("lease").send().await.unwrap();
    assert_eq!(read.body.collect().await.unwrap().into_bytes(), "four");

    for index in 0..5 {
        s3.put_object().bucket("state").key(format!("many/{index}")).send().await.unwrap();
    }
    let mut pages = s3.list_objects_v2().bucket("state").prefix("many/").max_keys(2).into_paginator().send();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.unwrap().contents().len());
    }
    assert_eq!(sizes, [2, 2, 1]);
    let missing = s3.head_object().bucket("state").key("none").send().await.unwrap_err().into_service_error();
    assert!(missing.is_not_found(), "{missing}");
}

#[tokio::test(start_paused = true)]
async fn pages_return_every_role_with_its_policies() {
    let cloud = LocalCloud::start(Settings::default());
    let iam = client!(aws_sdk_iam, cloud);
    for index in 0..25 {
        let name = format!("role-{index:02}");
        iam.create_role().role_name(&name).path("/codeloc/").assume_role_policy_document(TRUST).send().await.unwrap();
        iam.put_role_policy().role_name(&name).policy_name("access").policy_document(ACCESS).send().await.unwrap();
    }
    let mut pages = iam.get_account_authorization_details().filter("Role".into()).max_items(10).into_paginator().send();
    let (mut sizes, mut documents) = (Vec::new(), Vec::new());
    while let Some(page) = pages.next().await {
        let roles = page.unwrap().role_detail_list.unwrap();
        sizes.push(roles.len());
        documents
            .extend(roles.into_iter().map(|role| role.role_policy_list.unwrap()[0].policy_document.clone().unwrap()));
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert!(documents.iter().all(|document| document.starts_with("%7B%22Version%22")), "{}", documents[0]);
    let refused = iam.delete_role().role_name("role-00").send().await.unwrap_err().into_service_error();
    assert!(refused.is_delete_conflict_exception(), "{refused}");
    iam.delete_role_policy().role_name("role-00").policy_name("access").send().await.unwrap();
    iam.delete_role().role_name("role-00").send().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ecs_cannot_assume_a_role_before_propagation() {
    let mut settings = Settings::default();
    settings.rules.role_propagation = Duration::from_secs(20);
    let harness = Harness::new(settings).await;
    let iam = client!(aws_sdk_iam, harness.cloud);
    let created = iam.create_role().role_name("task").assume_role_policy_document(TRUST).send().await.unwrap();
    let arn = created.role.unwrap().arn;
    let register = || {
        let container = ContainerDefinition::builder().name("server").image("i").build();
        let register = harness.ecs.register_task_definition().family("app").task_role_arn(&arn);
        register.container_definitions(container).send()
    };
    let refused = register().await.unwrap_err().into_service_error();
    assert!(
        refused.is_client_exception() && format!("{refused:?}").contains("ECS was unable to assume the role"),
        "{refused:?}"
    );
    sleep(Duration::from_secs(20)).await;
    register().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restored_cloud_starts_its_tasks_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = localcloud::store::Store::open(folder.path()).unwrap();
    let harness = Harness::new(Settings::default()).await;
    let definition = harness.register("app", "registry/app:1").await;
    harness.create("app", &definition, None).await;
    harness.completed("app").await;
    harness.cloud.save(&store).await.unwrap();
    harness.cloud.shut_down(Duration::from_mins(1)).await;

    let cloud = LocalCloud::start_from(Settings::default(), store.load().unwrap());
    let ecs = client!(aws_sdk_ecs, cloud);
    let harness = Harness { cloud, ecs };
    let revived = harness.describe("app").await;
    assert_eq!((revived.running_count(), revived.pending_count()), (0, 1));
    assert_eq!(primary(&revived).failed_tasks(), 0, "a restart does not count as a failure");
    harness.wait("app", "a running task", |service| service.running_count() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_services_converge_in_virtual_time() {
    let harness = Harness::new(Settings { latency: Duration::from_millis(20), ..Settings::default() }).await;
    let definition = harness.register("app", "registry/app:1").await;
    for index in 0..1000 {
        harness.create(&format!("app-{index:04}"), &definition, None).await;
    }
    let mut listed = 0;
    let mut pages = harness.ecs.list_services().cluster(CLUSTER).max_results(100).into_paginator().send();
    while let Some(page) = pages.next().await {
        let arns = page.unwrap().service_arns.unwrap();
        listed += arns.len();
        for ten in arns.chunks(10) {
            let described = harness.ecs.describe_services().cluster(CLUSTER).set_services(Some(ten.to_vec())).send();
            assert_eq!(described.await.unwrap().services().len(), 10);
        }
    }
    assert_eq!(listed, 1000);
    for index in 0..1000 {
        harness.completed(&format!("app-{index:04}")).await;
    }
    assert_eq!(harness.cloud.simulated().launched(), 1000);
}
