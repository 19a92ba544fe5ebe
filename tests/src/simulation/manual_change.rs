//! Changes in AWS without codeloc. A change of a missing resource does nothing.

use std::time::Duration;

use aws_sdk_applicationautoscaling::types::{ScalableDimension, ServiceNamespace};
use aws_sdk_ecs::types::{
    AwsVpcConfiguration, CapacityProviderStrategyItem, DeploymentCircuitBreaker, DeploymentConfiguration,
    NetworkConfiguration,
};

use super::history::ManualChange;
use crate::TestDeployment;
use crate::policies::{ALLOW_S3, TRUST_ANYONE};

pub async fn change(deployment: &TestDeployment, name: &str, change: ManualChange) {
    let clients = deployment.clients();
    let (cluster, service) = ("dagster", format!("{name}-service"));
    let (role, group) = (format!("codeloc-{name}"), format!("/codeloc/locations/{name}"));
    let resource = format!("service/{cluster}/{service}");
    match change {
        ManualChange::ForgetRetention => {
            let _ = clients.logs.delete_retention_policy().log_group_name(group).send().await;
        }
        ManualChange::DeleteLogGroup => {
            let _ = clients.logs.delete_log_group().log_group_name(group).send().await;
        }
        ManualChange::UntagLogGroup => {
            let arn = format!("arn:aws:logs:eu-central-1:123456789012:log-group:{group}");
            let _ = clients.logs.untag_resource().resource_arn(arn).tag_keys("team").send().await;
        }
        ManualChange::DeleteRolePolicy => {
            let _ = clients.iam.delete_role_policy().role_name(role).policy_name("codeloc").send().await;
        }
        ManualChange::WidenRole => {
            let request = clients.iam.put_role_policy().role_name(role).policy_name("by-hand");
            let _ = request.policy_document(ALLOW_S3).send().await;
        }
        ManualChange::OpenTrust => {
            let _ = clients.iam.update_assume_role_policy().role_name(role).policy_document(TRUST_ANYONE).send().await;
        }
        ManualChange::DeleteRole => {
            for policy in ["codeloc", "by-hand"] {
                let _ = clients.iam.delete_role_policy().role_name(&role).policy_name(policy).send().await;
            }
            let _ = clients.iam.delete_role().role_name(role).send().await;
        }
        ManualChange::DeregisterTaskDefinition => {
            let runs = clients.ecs.list_task_definition_families().family_prefix(format!("codeloc-{name}_run_"));
            let runs = runs.send().await.ok().and_then(|listed| listed.families).unwrap_or_default();
            for family in runs.into_iter().chain([format!("codeloc-{name}")]) {
                let listed = clients.ecs.list_task_definitions().family_prefix(family).send().await;
                for arn in listed.iter().flat_map(
                    aws_sdk_ecs::operation::list_task_definitions::ListTaskDefinitionsOutput::task_definition_arns,
                ) {
                    let _ = clients.ecs.deregister_task_definition().task_definition(arn).send().await;
                }
            }
        }
        ManualChange::OtherSubnets => {
            let vpc = AwsVpcConfiguration::builder().subnets("subnet-z").security_groups("sg-a").build();
            let network = NetworkConfiguration::builder().awsvpc_configuration(vpc.expect("a subnet")).build();
            let request = clients.ecs.update_service().cluster(cluster).service(service);
            let _ = request.network_configuration(network).send().await;
        }
        ManualChange::NoCircuitBreaker => {
            let breaker = DeploymentCircuitBreaker::builder().enable(false).rollback(false).build();
            let configuration = DeploymentConfiguration::builder().deployment_circuit_breaker(breaker).build();
            let request = clients.ecs.update_service().cluster(cluster).service(service);
            let _ = request.deployment_configuration(configuration).send().await;
        }
        ManualChange::DeleteService => {
            let _ = clients.ecs.delete_service().cluster(cluster).service(service).force(true).send().await;
        }
        ManualChange::DeleteScaling => {
            let request = clients.scaling.deregister_scalable_target().resource_id(resource);
            let request = request.service_namespace(ServiceNamespace::Ecs);
            let _ = request.scalable_dimension(ScalableDimension::EcsServiceDesiredCount).send().await;
        }
        ManualChange::OtherCapacity => {
            let request = clients.scaling.register_scalable_target().resource_id(resource).max_capacity(9);
            let request = request.service_namespace(ServiceNamespace::Ecs);
            let _ = request.scalable_dimension(ScalableDimension::EcsServiceDesiredCount).send().await;
        }
        ManualChange::DeletePolicy => deployment.cloud.with_cloud(|cloud| {
            if let Some(target) = cloud.autoscaling.targets.get_mut(&resource) {
                target.policies.pop_first();
            }
        }),
        ManualChange::OtherThreshold => deployment.cloud.with_cloud(|cloud| {
            if let Some(target) = cloud.autoscaling.targets.get_mut(&resource)
                && let Some(policy) = target.policies.values_mut().next()
            {
                policy.configuration["TargetValue"] = 11.0.into();
            }
        }),
        ManualChange::DeleteRegistry => deployment.cloud.with_cloud(|cloud| {
            cloud.cloudmap.services.retain(|_, registry| registry.name != service);
        }),
        ManualChange::DeleteImages => {
            let request = clients.ecr.delete_repository().repository_name(format!("codeloc/{name}")).force(true);
            let _ = request.send().await;
        }
        ManualChange::SetCountToZero | ManualChange::RollBack | ManualChange::OtherCapacityProvider => {
            change_service(deployment, name, change).await;
        }
        ManualChange::EmptyWorkspace => {
            std::fs::write(deployment.workspace_file(), "load_from: []\n").expect("the file can be written");
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Changes of the service alone.
async fn change_service(deployment: &TestDeployment, name: &str, change: ManualChange) {
    let clients = deployment.clients();
    let update = || clients.ecs.update_service().cluster("dagster").service(format!("{name}-service"));
    match change {
        ManualChange::SetCountToZero => drop(update().desired_count(0).send().await),
        ManualChange::RollBack => {
            let listed = clients.ecs.list_task_definitions().family_prefix(format!("codeloc-{name}"));
            let listed = listed.send().await.ok().and_then(|listed| listed.task_definition_arns).unwrap_or_default();
            if let Some(previous) = listed.iter().rev().nth(1) {
                let _ = update().task_definition(previous).send().await;
            }
        }
        ManualChange::OtherCapacityProvider => {
            let spot = CapacityProviderStrategyItem::builder().capacity_provider("FARGATE_SPOT").weight(1).build();
            let request = update().capacity_provider_strategy(spot.expect("a provider"));
            let _ = request.force_new_deployment(true).send().await;
        }
        _ => {}
    }
}
