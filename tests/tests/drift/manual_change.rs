//! One change by hand for every tracked field, through the SDK, or in localcloud if AWS has no call for it.

use aws_sdk_applicationautoscaling::types::{
    MetricType, PolicyType, PredefinedMetricSpecification, ScalableDimension, ServiceNamespace, SuspendedState,
    TargetTrackingScalingPolicyConfiguration,
};
use aws_sdk_ecr::types::{ImageScanningConfiguration, ImageTagMutability};
use aws_sdk_ecs::operation::update_service::builders::UpdateServiceFluentBuilder;
use aws_sdk_ecs::types::{
    AssignPublicIp, AvailabilityZoneRebalancing, AwsVpcConfiguration, CapacityProviderStrategyItem,
    ContainerDefinition, CpuArchitecture, DeploymentCircuitBreaker, DeploymentConfiguration, DeploymentStrategy,
    KeyValuePair, NetworkConfiguration, OsFamily, PropagateTags, RuntimePlatform, TaskDefinition,
};
use aws_sdk_servicediscovery::types::{DnsConfigChange, DnsRecord, RecordType, ServiceChange};
use codeloc_core::resources::Kind;
use codeloc_tests::TestDeployment;
use codeloc_tests::policies::{ALLOW_S3, TRUST_ECS_TASKS};
use serde_json::json;

const CLUSTER: &str = "dagster";
const SERVICE: &str = "orders-service";
const ROLE: &str = "codeloc-orders";
const EXECUTION_ROLE: &str = "codeloc-orders_x";
const GROUP: &str = "/codeloc/locations/orders";
const IMAGES: &str = "codeloc/orders";
const TARGET: &str = "service/dagster/orders-service";
const OTHER_ARN: &str = "arn:aws:iam::123456789012:role/by-hand";

/// Panics for a field without a change.
pub async fn change(deployment: &TestDeployment, kind: Kind, field: &str) {
    match kind {
        Kind::LogGroup => log_group(deployment, field).await,
        Kind::ImageRepository => image_repository(deployment, field).await,
        Kind::Role => role(deployment, ROLE, field).await,
        Kind::ExecutionRole => role(deployment, EXECUTION_ROLE, field).await,
        Kind::RunDefinition => run_definition(deployment, field).await,
        Kind::TaskDefinition if field == "tags" => untag_definition(deployment).await,
        Kind::TaskDefinition => task_definition(deployment, field).await,
        Kind::Discovery => discovery(deployment, field).await,
        Kind::Service => service(deployment, field).await,
        Kind::Scaling => scaling(deployment, field).await,
        Kind::Workspace => workspace(deployment, field),
    }
}

fn unknown(kind: Kind, field: &str) -> ! {
    panic!("no change for field {field} of the {}", kind.title())
}

async fn log_group(deployment: &TestDeployment, field: &str) {
    let logs = deployment.clients().logs;
    match field {
        "retention_days" => {
            logs.put_retention_policy().log_group_name(GROUP).retention_in_days(7).send().await.unwrap();
        }
        "tags" => {
            let arn = format!("arn:aws:logs:eu-central-1:123456789012:log-group:{GROUP}");
            logs.untag_resource().resource_arn(arn).tag_keys("team").send().await.unwrap();
        }
        other => unknown(Kind::LogGroup, other),
    }
}

async fn image_repository(deployment: &TestDeployment, field: &str) {
    let ecr = deployment.clients().ecr;
    match field {
        "immutable_tags" => {
            let request = ecr.put_image_tag_mutability().repository_name(IMAGES);
            request.image_tag_mutability(ImageTagMutability::Mutable).send().await.unwrap();
        }
        "scan_on_push" => {
            let off = ImageScanningConfiguration::builder().scan_on_push(false).build();
            let request = ecr.put_image_scanning_configuration().repository_name(IMAGES);
            request.image_scanning_configuration(off).send().await.unwrap();
        }
        "tags" => {
            let arn = format!("arn:aws:ecr:eu-central-1:123456789012:repository/{IMAGES}");
            ecr.untag_resource().resource_arn(arn).tag_keys("team").send().await.unwrap();
        }
        other => unknown(Kind::ImageRepository, other),
    }
}

async fn role(deployment: &TestDeployment, name: &str, field: &str) {
    let iam = deployment.clients().iam;
    match field {
        "trust" => {
            iam.update_assume_role_policy().role_name(name).policy_document(TRUST_ECS_TASKS).send().await.unwrap();
        }
        "policy" => {
            let request = iam.put_role_policy().role_name(name).policy_name("codeloc");
            request.policy_document(ALLOW_S3).send().await.unwrap();
        }
        "foreign_policy" => {
            let request = iam.put_role_policy().role_name(name).policy_name("by-hand");
            request.policy_document(ALLOW_S3).send().await.unwrap();
        }
        "attached_policy" => {
            let arn = "arn:aws:iam::aws:policy/AdministratorAccess";
            iam.attach_role_policy().role_name(name).policy_arn(arn).send().await.unwrap();
        }
        "permissions_boundary" => {
            let arn = "arn:aws:iam::aws:policy/ReadOnlyAccess";
            iam.put_role_permissions_boundary().role_name(name).permissions_boundary(arn).send().await.unwrap();
        }
        "tags" => {
            iam.untag_role().role_name(name).tag_keys("team").send().await.unwrap();
        }
        // AWS cannot change the path of a role: delete the role and create it again.
        "path" => {
            let role = iam.get_role().role_name(name).send().await.unwrap().role.unwrap();
            let policy = iam.get_role_policy().role_name(name).policy_name("codeloc").send().await.unwrap();
            let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            iam.delete_role_policy().role_name(name).policy_name("codeloc").send().await.unwrap();
            iam.delete_role().role_name(name).send().await.unwrap();
            let request = iam.create_role().role_name(name).path("/by-hand/").set_tags(role.tags.clone());
            let trust = decode(role.assume_role_policy_document().unwrap());
            request.assume_role_policy_document(trust).send().await.unwrap();
            let request = iam.put_role_policy().role_name(name).policy_name("codeloc");
            request.policy_document(decode(policy.policy_document())).send().await.unwrap();
        }
        other => unknown(Kind::Role, other),
    }
}

/// The task definition of the service.
async fn definition(deployment: &TestDeployment) -> TaskDefinition {
    let ecs = deployment.clients().ecs;
    let described = ecs.describe_services().cluster(CLUSTER).services(SERVICE).send().await.unwrap();
    let arn = described.services()[0].task_definition().unwrap();
    ecs.describe_task_definition().task_definition(arn).send().await.unwrap().task_definition.unwrap()
}

/// Changes the run task definition that the code server passes to runs.
async fn run_definition(deployment: &TestDeployment, field: &str) {
    let ecs = deployment.clients().ecs;
    let families = ecs.list_task_definition_families().family_prefix("codeloc-orders_run_").send().await.unwrap();
    let family = families.families().first().unwrap();
    let found = ecs.describe_task_definition().task_definition(family).send().await.unwrap().task_definition.unwrap();
    match field {
        "tags" => {
            let request = ecs.untag_resource().resource_arn(found.task_definition_arn.unwrap()).tag_keys("team");
            request.send().await.unwrap();
        }
        "content" => {
            let container = ContainerDefinition::builder().name("run").image("by-hand").build();
            let request = ecs.register_task_definition().family(family).container_definitions(container);
            request.send().await.unwrap();
        }
        other => unknown(Kind::RunDefinition, other),
    }
}

async fn untag_definition(deployment: &TestDeployment) {
    let arn = definition(deployment).await.task_definition_arn.unwrap();
    deployment.clients().ecs.untag_resource().resource_arn(arn).tag_keys("team").send().await.unwrap();
}

/// Registers another definition and deploys it, because definitions are immutable.
async fn task_definition(deployment: &TestDeployment, field: &str) {
    let clients = deployment.clients();
    let ecs = clients.ecs;
    let mut task = definition(deployment).await;
    edit(&mut task, field);
    if field == "log_group" {
        // Tasks do not start without their log group. The second call finds it.
        let _ = clients.logs.create_log_group().log_group_name("/by-hand").send().await;
    }
    let answer = ecs
        .register_task_definition()
        .family(task.family.unwrap())
        .set_task_role_arn(task.task_role_arn)
        .set_execution_role_arn(task.execution_role_arn)
        .set_network_mode(task.network_mode)
        .set_requires_compatibilities(task.requires_compatibilities)
        .set_cpu(task.cpu)
        .set_memory(task.memory)
        .set_runtime_platform(task.runtime_platform)
        .set_container_definitions(task.container_definitions)
        .send()
        .await
        .unwrap();
    let arn = answer.task_definition().unwrap().task_definition_arn().unwrap();
    ecs.update_service().cluster(CLUSTER).service(SERVICE).task_definition(arn).send().await.unwrap();
}

fn edit(task: &mut TaskDefinition, field: &str) {
    let container: &mut ContainerDefinition = &mut task.container_definitions.as_mut().unwrap()[0];
    let log = container.log_configuration.as_mut().unwrap().options.as_mut().unwrap();
    let port = &mut container.port_mappings.as_mut().unwrap()[0];
    match field {
        "image" => container.image = Some(format!("registry.test/by-hand@sha256:{:064x}", 7)),
        "cpu" => task.cpu = Some("512".to_owned()),
        "memory" => task.memory = Some("2048".to_owned()),
        "architecture" => {
            let platform = RuntimePlatform::builder().operating_system_family(OsFamily::Linux);
            task.runtime_platform = Some(platform.cpu_architecture(CpuArchitecture::X8664).build());
        }
        "task_role" => task.task_role_arn = Some(OTHER_ARN.to_owned()),
        "execution_role" => task.execution_role_arn = Some(OTHER_ARN.to_owned()),
        "command" => container.command.as_mut().unwrap().push("--log-level=debug".to_owned()),
        "changed_variables" => {
            let variable = KeyValuePair::builder().name("BY_HAND").value("1").build();
            container.environment.as_mut().unwrap().push(variable);
        }
        "secrets" => container.secrets = None,
        "port" => (port.container_port, port.host_port) = (Some(4001), Some(4001)),
        "log_group" => drop(log.insert("awslogs-group".to_owned(), "/by-hand".to_owned())),
        "log_stream_prefix" => drop(log.insert("awslogs-stream-prefix".to_owned(), "by-hand".to_owned())),
        "health_check" => container.health_check.as_mut().unwrap().retries = Some(9),
        "stop_timeout" => container.stop_timeout = Some(30),
        "foreign" => container.user = Some("root".to_owned()),
        other => unknown(Kind::TaskDefinition, other),
    }
}

async fn discovery(deployment: &TestDeployment, field: &str) {
    let discovery = deployment.clients().discovery;
    let services = discovery.list_services().send().await.unwrap();
    let service = services.services().iter().find(|service| service.name() == Some(SERVICE)).unwrap();
    let record = async |kind: RecordType, ttl: i64| {
        let record = DnsRecord::builder().r#type(kind.clone()).ttl(ttl).build().unwrap();
        let change =
            ServiceChange::builder().dns_config(DnsConfigChange::builder().dns_records(record).build().unwrap());
        discovery.update_service().id(service.id().unwrap()).service(change.build()).send().await.unwrap();
        // The update is asynchronous.
        loop {
            let found = discovery.get_service().id(service.id().unwrap()).send().await.unwrap();
            let found = found.service().unwrap().dns_config().unwrap().dns_records()[0].clone();
            if (found.r#type(), found.ttl()) == (&kind, ttl) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    match field {
        "record" => record(RecordType::Aaaa, 10).await,
        "ttl" => record(RecordType::A, 600).await,
        "tags" => {
            let request = discovery.untag_resource().resource_arn(service.arn().unwrap());
            request.tag_keys("team").send().await.unwrap();
        }
        // AWS cannot change these after creation.
        "routing_policy" => deployment.cloud.with_cloud(|cloud| {
            for registry in cloud.cloudmap.services.values_mut() {
                registry.settings["DnsConfig"]["RoutingPolicy"] = json!("WEIGHTED");
            }
        }),
        "health_check" => deployment.cloud.with_cloud(|cloud| {
            for registry in cloud.cloudmap.services.values_mut() {
                registry.settings.remove("HealthCheckCustomConfig");
            }
        }),
        other => unknown(Kind::Discovery, other),
    }
}

async fn service(deployment: &TestDeployment, field: &str) {
    if field == "task_definition" {
        return task_definition(deployment, "stop_timeout").await;
    }
    let ecs = deployment.clients().ecs;
    if field == "tags" {
        let arn = format!("arn:aws:ecs:eu-central-1:123456789012:service/{CLUSTER}/{SERVICE}");
        ecs.untag_resource().resource_arn(arn).tag_keys("team").send().await.unwrap();
        return;
    }
    let request = ecs.update_service().cluster(CLUSTER).service(SERVICE);
    setting(request, field).send().await.unwrap();
}

fn network(subnet: &str, group: &str, public: AssignPublicIp) -> NetworkConfiguration {
    let vpc = AwsVpcConfiguration::builder().subnets(subnet).security_groups(group).assign_public_ip(public);
    NetworkConfiguration::builder().awsvpc_configuration(vpc.build().unwrap()).build()
}

fn setting(request: UpdateServiceFluentBuilder, field: &str) -> UpdateServiceFluentBuilder {
    let deployment = DeploymentConfiguration::builder();
    let breaker = |enable, rollback| DeploymentCircuitBreaker::builder().enable(enable).rollback(rollback).build();
    match field {
        "desired_count" => request.desired_count(3),
        "subnets" => request.network_configuration(network("subnet-z", "sg-a", AssignPublicIp::Disabled)),
        "security_groups" => request.network_configuration(network("subnet-a", "sg-z", AssignPublicIp::Disabled)),
        "assign_public_ip" => request.network_configuration(network("subnet-a", "sg-a", AssignPublicIp::Enabled)),
        "circuit_breaker" => {
            request.deployment_configuration(deployment.deployment_circuit_breaker(breaker(false, true)).build())
        }
        "rollback" => {
            request.deployment_configuration(deployment.deployment_circuit_breaker(breaker(true, false)).build())
        }
        "minimum_healthy_percent" => request.deployment_configuration(deployment.minimum_healthy_percent(50).build()),
        "maximum_percent" => request.deployment_configuration(deployment.maximum_percent(150).build()),
        "strategy" => request.deployment_configuration(deployment.strategy(DeploymentStrategy::BlueGreen).build()),
        "registry" => request.set_service_registries(Some(vec![])),
        "capacity" => {
            let spot = CapacityProviderStrategyItem::builder().capacity_provider("FARGATE_SPOT").weight(1);
            request.capacity_provider_strategy(spot.build().unwrap()).force_new_deployment(true)
        }
        "platform_version" => request.platform_version("1.3.0"),
        "propagate_tags" => request.propagate_tags(PropagateTags::None),
        "managed_tags" => request.enable_ecs_managed_tags(false),
        "execute_command" => request.enable_execute_command(true),
        "health_check_grace_period" => request.health_check_grace_period_seconds(60),
        "zone_rebalancing" => request.availability_zone_rebalancing(AvailabilityZoneRebalancing::Enabled),
        other => unknown(Kind::Service, other),
    }
}

async fn scaling(deployment: &TestDeployment, field: &str) {
    let scaling = deployment.clients().scaling;
    let target = || {
        let request = scaling.register_scalable_target().service_namespace(ServiceNamespace::Ecs).resource_id(TARGET);
        request.scalable_dimension(ScalableDimension::EcsServiceDesiredCount)
    };
    let put = async |name: &str, configuration: TargetTrackingScalingPolicyConfiguration| {
        let request = scaling.put_scaling_policy().service_namespace(ServiceNamespace::Ecs).resource_id(TARGET);
        let request = request.scalable_dimension(ScalableDimension::EcsServiceDesiredCount).policy_name(name);
        let request = request.policy_type(PolicyType::TargetTrackingScaling);
        request.target_tracking_scaling_policy_configuration(configuration).send().await.unwrap();
    };
    let delete = async |name: &str| {
        let request = scaling.delete_scaling_policy().service_namespace(ServiceNamespace::Ecs).resource_id(TARGET);
        let request = request.scalable_dimension(ScalableDimension::EcsServiceDesiredCount).policy_name(name);
        request.send().await.unwrap();
    };
    let tracking = |metric: MetricType, target: f64| {
        let metric = PredefinedMetricSpecification::builder().predefined_metric_type(metric).build().unwrap();
        TargetTrackingScalingPolicyConfiguration::builder().predefined_metric_specification(metric).target_value(target)
    };
    let (cpu, memory) = (MetricType::EcsServiceAverageCpuUtilization, MetricType::EcsServiceAverageMemoryUtilization);
    let described = scaling.describe_scaling_policies().service_namespace(ServiceNamespace::Ecs).send().await.unwrap();
    let target_of = |name: &str| {
        let policy = described.scaling_policies().iter().find(|policy| policy.policy_name() == name);
        policy
            .and_then(|policy| policy.target_tracking_scaling_policy_configuration())
            .map_or(0.0, TargetTrackingScalingPolicyConfiguration::target_value)
    };
    let own_policy = || tracking(cpu.clone(), target_of("codeloc-cpu"));
    match field {
        "capacity" => drop(target().max_capacity(9).send().await.unwrap()),
        "suspended" => {
            let state = SuspendedState::builder().dynamic_scaling_out_suspended(true).build();
            target().suspended_state(state).send().await.unwrap();
        }
        "foreign_target" => drop(target().min_capacity(1).max_capacity(4).send().await.unwrap()),
        "target" => put("codeloc-cpu", tracking(cpu.clone(), 11.0).build().unwrap()).await,
        "scale_in_cooldown" => put("codeloc-cpu", own_policy().scale_in_cooldown(5).build().unwrap()).await,
        "scale_out_cooldown" => put("codeloc-cpu", own_policy().scale_out_cooldown(5).build().unwrap()).await,
        "scale_in" => put("codeloc-cpu", own_policy().disable_scale_in(true).build().unwrap()).await,
        // AWS allows one policy per metric: swap the two.
        "metric" => {
            let (of_cpu, of_memory) = (target_of("codeloc-cpu"), target_of("codeloc-memory"));
            delete("codeloc-cpu").await;
            delete("codeloc-memory").await;
            put("codeloc-cpu", tracking(memory, of_cpu).build().unwrap()).await;
            put("codeloc-memory", tracking(cpu.clone(), of_memory).build().unwrap()).await;
        }
        // The foreign policy takes the metric of a deleted policy of codeloc.
        "foreign_policy" => {
            delete("codeloc-memory").await;
            put("by-hand", tracking(memory, 50.0).build().unwrap()).await;
        }
        other => unknown(Kind::Scaling, other),
    }
}

fn workspace(deployment: &TestDeployment, field: &str) {
    match field {
        "address" => {
            let text = deployment.workspace();
            let changed = text.replace("orders-service.dagster.internal", "by-hand.dagster.internal");
            std::fs::write(deployment.workspace_file(), changed).unwrap();
        }
        "loaded" => deployment.webserver.show("orders", None),
        "server_id" => deployment.webserver.show("orders", Some("by-hand")),
        other => unknown(Kind::Workspace, other),
    }
}
