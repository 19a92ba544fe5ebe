//! One script of the calls that codeloc makes, against localcloud and against moto, both over HTTP.
//!
//! The script expects what AWS documents. [`MOTO`] lists the deviations of moto with their reasons. A deviation that disappears
//! fails the test, as a new one does.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_applicationautoscaling::types as scaling;
use aws_sdk_ecs::config::{BehaviorVersion, Region};
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::operation::create_service::builders::CreateServiceFluentBuilder;
use aws_sdk_ecs::operation::register_task_definition::builders::RegisterTaskDefinitionFluentBuilder;
use aws_sdk_ecs::types::{
    AwsVpcConfiguration, Compatibility, ContainerDefinition, KeyValuePair, NetworkConfiguration, NetworkMode,
    ServiceField, ServiceRegistry, Tag, TaskDefinitionField,
};
use aws_sdk_servicediscovery::types::{
    DnsConfig, DnsRecord, FilterCondition, RecordType, ServiceFilter, ServiceFilterName,
};
use codeloc_tests::moto::{self, Moto};
use codeloc_tests::policies::TRUST_ECS_TASKS;
use localcloud::{LocalCloud, Settings};
use tokio::net::TcpListener;

const ACCESS: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}]}"#;
const READY: Duration = Duration::from_secs(60);

/// Deviations of moto 5.2: step, its answer, and why it is acceptable.
const MOTO: [(&str, &str, &str); 18] = [
    ("a retention of two days is refused", "ok", "moto takes any number of days"),
    ("a log group shows its retention", "Some(2)", "it took the two days before"),
    ("a trust policy is JSON", "ok", "moto reads inline policies, but no trust policies"),
    ("Fargate refuses sizes it has not", "ok", "moto does not know Fargate's sizes"),
    (
        "a service names its task definition",
        "arn:aws:ecs:eu-central-1:123456789012:task-definition/codeloc-a:1",
        "the impossible size became revision 1",
    ),
    ("a name is taken once in a namespace", "ok", "moto looks for no namesake"),
    ("a registry needs its namespace", "ok", "moto looks for no namespace"),
    ("registries are listed by namespace", "4", "moto ignores the namespace filter"),
    ("a service's registry must be there", "ok", "moto looks for no registry"),
    ("another service of the name is refused", "ok", "moto overwrites the service"),
    ("services are listed in pages", "false", "moto does not page"),
    ("ten services are described at once", "ok", "moto has no such limit"),
    ("a policy needs a target", "ok", "moto looks for no target"),
    ("a target's minimum is below its maximum", "ok", "moto does not compare them"),
    ("a metric is tracked once", "ok", "moto does not compare policies"),
    ("a target takes its policies with it", "2", "moto leaves policies without a target"),
    ("a deleted service drains", "INACTIVE", "moto has no DRAINING: a service is INACTIVE at once"),
    ("a deleted service is not updated", "ok", "moto updates what is INACTIVE"),
];

macro_rules! client {
    ($sdk:ident, $endpoint:expr) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-central-1"))
                .credentials_provider(Credentials::from_keys("test", "test", None))
                .endpoint_url($endpoint)
                .build(),
        )
    };
}

/// The steps, with the expected and the actual answer.
#[derive(Default)]
struct Script {
    steps: Vec<(&'static str, String, String)>,
}

impl Script {
    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts in their call")]
    fn step(&mut self, name: &'static str, expected: impl ToString, actual: impl ToString) {
        self.steps.push((name, expected.to_string(), actual.to_string()));
    }

    /// Steps with an unexpected answer, and known deviations without a step.
    fn surprises(&self, known: &[(&str, &str, &str)]) -> Vec<String> {
        let deviation = |name: &str| known.iter().find(|(step, ..)| *step == name);
        let mut surprises = Vec::new();
        for (name, expected, actual) in &self.steps {
            let accepted = deviation(name).map_or(expected.as_str(), |(_, answer, _)| answer);
            if actual != accepted {
                surprises.push(format!("{name}: {actual}, not {accepted}"));
            }
        }
        let unknown = known.iter().filter(|(step, ..)| !self.steps.iter().any(|(name, ..)| name == step));
        surprises.extend(unknown.map(|(step, ..)| format!("{step}: listed, but no step")));
        surprises
    }
}

/// `ok`, or the error's code.
fn code<T, E: ProvideErrorMetadata, R>(answer: Result<T, SdkError<E, R>>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.as_service_error().and_then(|error| error.code()).unwrap_or("no service error").to_owned(),
    }
}

async fn run(endpoint: &str, subnet: &str) -> Script {
    let mut script = Script::default();
    logs_and_sts(&mut script, endpoint).await;
    roles(&mut script, endpoint).await;
    repositories(&mut script, endpoint).await;
    objects(&mut script, endpoint).await;
    services(&mut script, endpoint, subnet).await;
    script
}

async fn logs_and_sts(script: &mut Script, endpoint: &str) {
    let sts = client!(aws_sdk_sts, endpoint);
    let caller = sts.get_caller_identity().send().await.unwrap();
    script.step("the account is twelve digits", 12, caller.account().unwrap_or_default().len());

    let logs = client!(aws_sdk_cloudwatchlogs, endpoint);
    let create = || logs.create_log_group().log_group_name("/codeloc/a").tags("k", "v");
    script.step("a log group is created", "ok", code(create().send().await));
    script.step("a log group is not created twice", "ResourceAlreadyExistsException", code(create().send().await));
    let retention = |days| logs.put_retention_policy().log_group_name("/codeloc/a").retention_in_days(days);
    script.step("a retention is set", "ok", code(retention(14).send().await));
    script.step("a retention of two days is refused", "InvalidParameterException", code(retention(2).send().await));
    let described = logs.describe_log_groups().log_group_name_prefix("/codeloc").send().await.unwrap();
    let group = &described.log_groups()[0];
    script.step("a log group shows its retention", "Some(14)", format!("{:?}", group.retention_in_days()));
    let arn = group.arn().unwrap();
    script.step("a log group's ARN ends in a star", true, arn.ends_with(":log-group:/codeloc/a:*"));
    let tags = logs.list_tags_for_resource().resource_arn(arn.trim_end_matches(":*")).send().await.unwrap();
    script.step("a log group keeps its tags", "Some(\"v\")", format!("{:?}", tags.tags().unwrap().get("k")));
}

async fn roles(script: &mut Script, endpoint: &str) {
    let iam = client!(aws_sdk_iam, endpoint);
    let create =
        || iam.create_role().role_name("codeloc-a").path("/codeloc/").assume_role_policy_document(TRUST_ECS_TASKS);
    script.step("a role is created", "ok", code(create().send().await));
    script.step("a role is not created twice", "EntityAlreadyExists", code(create().send().await));
    let broken = iam.create_role().role_name("b").assume_role_policy_document("{").send().await;
    script.step("a trust policy is JSON", "MalformedPolicyDocument", code(broken));
    let policy = || iam.put_role_policy().role_name("codeloc-a").policy_name("access").policy_document(ACCESS);
    script.step("an inline policy is put", "ok", code(policy().send().await));
    let principal = iam.put_role_policy().role_name("codeloc-a").policy_name("p").policy_document(TRUST_ECS_TASKS);
    script.step("an inline policy has no principal", "MalformedPolicyDocument", code(principal.send().await));
    let details = iam.get_account_authorization_details().filter("Role".into()).send().await.unwrap();
    let role = details.role_detail_list().iter().find(|role| role.role_name() == Some("codeloc-a")).unwrap();
    let policy = role.role_policy_list().first();
    let document = policy.and_then(|policy| policy.policy_document()).unwrap_or("none");
    script.step(
        "account details carry inline policies, URL-encoded",
        "%7B%22Version%22",
        document.get(..16).unwrap_or(document),
    );
    let delete = || iam.delete_role().role_name("codeloc-a").send();
    script.step("a role with a policy is not deleted", "DeleteConflict", code(delete().await));
    iam.delete_role_policy().role_name("codeloc-a").policy_name("access").send().await.unwrap();
    script.step("a role without policies is deleted", "ok", code(delete().await));
    script.step("a role that is gone is said to be", "NoSuchEntity", code(delete().await));
}

async fn repositories(script: &mut Script, endpoint: &str) {
    let ecr = client!(aws_sdk_ecr, endpoint);
    let create = || ecr.create_repository().repository_name("codeloc/a");
    script.step("a repository is created", "ok", code(create().send().await));
    script.step("a repository is not created twice", "RepositoryAlreadyExistsException", code(create().send().await));
    let missing = ecr.describe_repositories().repository_names("codeloc/b").send().await;
    script.step("a missing repository is said to be", "RepositoryNotFoundException", code(missing));
    let upper = ecr.create_repository().repository_name("Codeloc").send().await;
    script.step("a repository's name is lower case", "InvalidParameterException", code(upper));
    let token = ecr.get_authorization_token().send().await.unwrap();
    let token = token.authorization_data()[0].authorization_token().unwrap_or_default();
    script.step("a registry token is given", true, !token.is_empty());
    let deleted = ecr.delete_repository().repository_name("codeloc/a").send().await;
    script.step("an empty repository is deleted", "ok", code(deleted));
}

async fn objects(script: &mut Script, endpoint: &str) {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::from_keys("test", "test", None))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    let s3 = aws_sdk_s3::Client::from_conf(config);
    let place = aws_sdk_s3::types::BucketLocationConstraint::EuCentral1;
    let place = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(place).build();
    let bucket = s3.create_bucket().bucket("codeloc-state").create_bucket_configuration(place).send().await;
    script.step("a bucket is created", "ok", code(bucket));
    let put = |key: &str| s3.put_object().bucket("codeloc-state").key(key).body(b"one".to_vec().into());
    let first = put("lease").if_none_match("*").send().await.unwrap();
    script.step("a lease is taken once", "PreconditionFailed", code(put("lease").if_none_match("*").send().await));
    let wrong = put("lease").if_match("\"00000000000000000000000000000000\"").send().await;
    script.step("a lease is renewed only by its holder", "PreconditionFailed", code(wrong));
    let renewed = put("lease").if_match(first.e_tag().unwrap()).send().await;
    script.step("a lease is renewed by its holder", "ok", code(renewed));
    put("a/1").send().await.unwrap();
    put("a/2").send().await.unwrap();
    let listed = s3.list_objects_v2().bucket("codeloc-state").delimiter("/").send().await.unwrap();
    let counts = (listed.contents().len(), listed.common_prefixes().len());
    script.step("a delimiter folds keys", "(1, 1)", format!("{counts:?}"));
    let page = s3.list_objects_v2().bucket("codeloc-state").prefix("a/").max_keys(1).send().await.unwrap();
    script.step("objects are listed in pages", true, page.next_continuation_token().is_some());
    let missing = s3.get_object().bucket("codeloc-state").key("none").send().await;
    script.step("a missing object is said to be", "NoSuchKey", code(missing));
}

fn definition(ecs: &aws_sdk_ecs::Client, memory: &str) -> RegisterTaskDefinitionFluentBuilder {
    let variable = KeyValuePair::builder().name("A").value("b").build();
    let container = ContainerDefinition::builder().name("server").image("registry/a:1").environment(variable).build();
    ecs.register_task_definition()
        .family("codeloc-a")
        .network_mode(NetworkMode::Awsvpc)
        .requires_compatibilities(Compatibility::Fargate)
        .cpu("256")
        .memory(memory)
        .tags(Tag::builder().key("k").value("v").build())
        .container_definitions(container)
}

fn service_on(
    ecs: &aws_sdk_ecs::Client,
    subnet: &str,
    name: &str,
    registry: Option<&str>,
) -> CreateServiceFluentBuilder {
    let vpc = AwsVpcConfiguration::builder().subnets(subnet).set_security_groups(Some(Vec::new())).build().unwrap();
    let registry = registry.map(|arn| vec![ServiceRegistry::builder().registry_arn(arn).build()]);
    ecs.create_service()
        .cluster("main")
        .service_name(name)
        .task_definition("codeloc-a:1")
        .desired_count(1)
        .network_configuration(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
        .set_service_registries(registry)
}

async fn services(script: &mut Script, endpoint: &str, subnet: &str) {
    let ecs = client!(aws_sdk_ecs, endpoint);
    let service = |name: &str, registry: Option<&str>| service_on(&ecs, subnet, name, registry);
    ecs.create_cluster().cluster_name("main").send().await.unwrap();
    let without_cluster = service("a", None).cluster("none").send().await;
    script.step("a service needs a cluster", "ClusterNotFoundException", code(without_cluster));
    let early = service("a", None).send().await;
    script.step("a service needs a task definition", "ClientException", code(early));
    script.step("Fargate refuses sizes it has not", "ClientException", code(definition(&ecs, "8192").send().await));
    let registered = definition(&ecs, "512").send().await.unwrap();
    let arn = registered.task_definition().unwrap().task_definition_arn().unwrap().to_owned();
    let describe = ecs.describe_task_definition().task_definition("codeloc-a").include(TaskDefinitionField::Tags);
    let described = describe.send().await.unwrap();
    script.step("a task definition keeps its tags", 1, described.tags().len());
    let missing = ecs.describe_task_definition().task_definition("none").send().await;
    script.step("a missing task definition is said to be", "ClientException", code(missing));

    let registry = registry(script, endpoint).await;
    let stray = registry.replace("srv-", "srv-0");
    let stray = service("stray", Some(&stray)).send().await;
    script.step("a service's registry must be there", "InvalidParameterException", code(stray));
    let created = service("a", Some(&registry)).send().await.unwrap();
    let primary = created.service().unwrap().deployments()[0].clone();
    script.step("a deployment has its own id", true, primary.id().unwrap_or_default().starts_with("ecs-svc/"));
    let again = service("a", Some(&registry)).send().await;
    script.step("an equal service is accepted again", "ok", code(again));
    let other = service("a", Some(&registry)).desired_count(2).send().await;
    script.step("another service of the name is refused", "InvalidParameterException", code(other));
    service("b", None).send().await.unwrap();
    let page = ecs.list_services().cluster("main").max_results(1).send().await.unwrap();
    script.step("services are listed in pages", true, page.next_token().is_some());
    let eleven = (0..11).map(|index| index.to_string()).collect();
    let eleven = ecs.describe_services().cluster("main").set_services(Some(eleven)).send().await;
    script.step("ten services are described at once", "InvalidParameterException", code(eleven));
    let describe = ecs.describe_services().cluster("main").services("a").services("none");
    let described = describe.include(ServiceField::Tags).send().await.unwrap();
    script.step(
        "a missing service is a failure",
        "Some(\"MISSING\")",
        format!("{:?}", described.failures().first().and_then(|failure| failure.reason())),
    );
    script.step(
        "a service names its task definition",
        &arn,
        described.services().first().and_then(|service| service.task_definition()).unwrap_or_default(),
    );

    scaling(script, endpoint).await;

    let deleted = ecs.delete_service().cluster("main").service("b").send().await;
    script.step("a service that is scaled up is deleted by force only", "InvalidParameterException", code(deleted));
    let deleted = ecs.delete_service().cluster("main").service("a").force(true).send().await.unwrap();
    script.step("a deleted service drains", "DRAINING", deleted.service().unwrap().status().unwrap_or_default());
    let again = ecs.update_service().cluster("main").service("a").desired_count(1).send().await;
    script.step("a deleted service is not updated", "ServiceNotActiveException", code(again));
    let live = ecs.delete_task_definitions().task_definitions(&arn).send().await.unwrap();
    script.step("an active task definition is not deleted", 1, live.failures().len());
    script.step(
        "a task definition is deregistered",
        "ok",
        code(ecs.deregister_task_definition().task_definition(&arn).send().await),
    );
}

/// Creates a Cloud Map service and returns its ARN.
async fn registry(script: &mut Script, endpoint: &str) -> String {
    let discovery = client!(aws_sdk_servicediscovery, endpoint);
    let mut ids = Vec::new();
    for name in ["dagster.internal", "other.internal"] {
        let created =
            discovery.create_private_dns_namespace().name(name).vpc(format!("vpc-{}", ids.len())).send().await.unwrap();
        let operation = created.operation_id().unwrap().to_owned();
        let done = || async {
            let asked = discovery.get_operation().operation_id(&operation).send().await.unwrap();
            asked.operation().unwrap().status().is_some_and(|status| status.as_str() == "SUCCESS")
        };
        tokio::time::timeout(READY, async { while !done().await {} }).await.unwrap();
        let listed = discovery.list_namespaces().send().await.unwrap();
        let namespace = listed.namespaces().iter().find(|namespace| namespace.name() == Some(name));
        ids.push(namespace.unwrap().id().unwrap().to_owned());
    }
    let create = |namespace: &str| {
        let record = DnsRecord::builder().r#type(RecordType::A).ttl(10).build().unwrap();
        let dns = DnsConfig::builder().dns_records(record).build().unwrap();
        discovery.create_service().name("a-service").namespace_id(namespace).dns_config(dns)
    };
    let created = create(&ids[0]).send().await.unwrap();
    script.step("a name is taken once in a namespace", "ServiceAlreadyExists", code(create(&ids[0]).send().await));
    script.step("a name is free in another namespace", "ok", code(create(&ids[1]).send().await));
    script.step("a registry needs its namespace", "NamespaceNotFound", code(create("ns-none").send().await));
    let filter = ServiceFilter::builder().name(ServiceFilterName::NamespaceId).values(&ids[0]);
    let filter = filter.condition(FilterCondition::Eq).build().unwrap();
    let listed = discovery.list_services().filters(filter).send().await.unwrap();
    script.step("registries are listed by namespace", 1, listed.services().len());
    let first = listed.services().first().and_then(|service| service.dns_config());
    let records = first.map_or(0, |dns| dns.dns_records().len());
    script.step("a listed registry carries its records", 1, records);
    let missing = discovery.get_service().id("srv-none").send().await;
    script.step("a missing registry is said to be", "ServiceNotFound", code(missing));
    created.service().unwrap().arn().unwrap().to_owned()
}

async fn scaling(script: &mut Script, endpoint: &str) {
    let aas = client!(aws_sdk_applicationautoscaling, endpoint);
    let (ecs, count) = (scaling::ServiceNamespace::Ecs, scaling::ScalableDimension::EcsServiceDesiredCount);
    let target = |resource: &str, least, most| {
        let target = aas.register_scalable_target().service_namespace(ecs.clone()).resource_id(resource);
        target.scalable_dimension(count.clone()).min_capacity(least).max_capacity(most)
    };
    let policy = |name: &str, metric| {
        let metric = scaling::PredefinedMetricSpecification::builder().predefined_metric_type(metric).build().unwrap();
        let tracking = scaling::TargetTrackingScalingPolicyConfiguration::builder().target_value(70.0);
        let tracking = tracking.predefined_metric_specification(metric).build().unwrap();
        let put =
            aas.put_scaling_policy().service_namespace(ecs.clone()).resource_id("service/main/a").policy_name(name);
        let put = put.scalable_dimension(count.clone()).policy_type(scaling::PolicyType::TargetTrackingScaling);
        put.target_tracking_scaling_policy_configuration(tracking)
    };
    let cpu = scaling::MetricType::EcsServiceAverageCpuUtilization;
    let early = policy("cpu", cpu.clone()).send().await;
    script.step("a policy needs a target", "ObjectNotFoundException", code(early));
    let turned = target("service/main/a", 3, 1).send().await;
    script.step("a target's minimum is below its maximum", "ValidationException", code(turned));
    script.step("a service is scaled", "ok", code(target("service/main/a", 1, 2).send().await));
    let missing = target("service/main/none", 1, 2).send().await;
    script.step("a target needs its service", "ValidationException", code(missing));
    let put = policy("cpu", cpu.clone()).send().await.unwrap();
    script.step("a tracking policy makes two alarms", 2, put.alarms().len());
    let second_policy = policy("twin", cpu).send().await;
    script.step("a metric is tracked once", "ValidationException", code(second_policy));
    let part = aas.describe_scaling_policies().service_namespace(ecs.clone()).resource_id("service/main").send().await;
    script.step("policies are found by the whole resource id", 0, part.unwrap().scaling_policies().len());
    let deregister = aas.deregister_scalable_target().service_namespace(ecs.clone()).resource_id("service/main/a");
    script.step("a target is taken away", "ok", code(deregister.scalable_dimension(count.clone()).send().await));
    let remaining = aas.describe_scaling_policies().service_namespace(ecs.clone()).send().await.unwrap();
    script.step("a target takes its policies with it", 0, remaining.scaling_policies().len());
}

#[tokio::test]
async fn localcloud_answers_as_aws_documents() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let cloud = LocalCloud::start(Settings::default());
    let script = tokio::select! {
        script = run(&endpoint, "subnet-1") => script,
        ended = cloud.serve(listener) => panic!("the server ended: {ended:?}"),
    };
    assert_eq!(script.surprises(&[]), Vec::<String>::new());
}

#[tokio::test]
async fn moto_deviates_only_where_the_table_says() {
    let Some(program) = moto::program() else {
        eprintln!(
            "SKIPPED: no moto at CODELOC_MOTO_SERVER or .local/moto/bin/moto_server; conformance ran on localcloud alone"
        );
        return;
    };
    let moto = Moto::start(&program, &[]).await;
    let (subnets, _) = moto.network().await;
    let script = run(&moto.endpoint(), &subnets[0]).await;
    assert_eq!(script.surprises(&MOTO), Vec::<String>::new());
}
