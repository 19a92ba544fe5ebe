//! Observe: `ListServices`, 100 a page, then `DescribeServices` with tags, ten a call.

mod settings;

use std::collections::BTreeMap;

use aws_sdk_ecs::operation::update_service::builders::UpdateServiceFluentBuilder;
use aws_sdk_ecs::primitives::DateTime;
use aws_sdk_ecs::types::{
    AssignPublicIp, AvailabilityZoneRebalancing, AwsVpcConfiguration, CreatedAt, Deployment as SdkDeployment,
    DeploymentCircuitBreaker, DeploymentConfiguration as SdkDeploymentConfiguration, DeploymentRolloutState,
    DeploymentStrategy, LaunchType, NetworkConfiguration, PropagateTags, Service, ServiceDeploymentBrief,
    ServiceDeploymentStatus, ServiceField, ServiceRegistry, Tag, Task,
};
use codeloc_core::ids::Arn;
use codeloc_core::names;
use codeloc_core::resources::Deferred;
use codeloc_core::resources::service::{
    Change, DeploymentConfiguration, Network, Observed, Record, Rollout, ServiceDeployment, ServiceOptions, Status,
};
use codeloc_core::shared::Shared;
use codeloc_core::tags;
use codeloc_crds::LocationName;

use super::task_definition::{change_tags, tag_list};
use crate::error::{CallError, Class};
use crate::scope::Scope;
use crate::session::Session;

/// The most revisions that `DescribeServiceRevisions` accepts.
const REVISIONS: usize = 20;

/// The ARNs of resources that earlier steps created, unknown when the plan was computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Created<'a> {
    pub task_definition: Option<&'a Arn>,
    pub registry: Option<&'a Arn>,
}

pub async fn observe(
    session: Session<'_>,
    scope: Scope<'_>,
) -> Result<BTreeMap<LocationName, Shared<Observed>>, CallError> {
    match scope {
        Scope::One(name) => describe(session, &[names::service(name)]).await,
        Scope::All => describe(session, &list(session).await?).await,
    }
}

/// Reads services by name, ten a call.
pub async fn describe(
    session: Session<'_>,
    names: &[String],
) -> Result<BTreeMap<LocationName, Shared<Observed>>, CallError> {
    let mut found = BTreeMap::new();
    for ten in names.chunks(10) {
        let request = session
            .clients
            .ecs
            .describe_services()
            .cluster(&session.deployment.cluster)
            .set_services(Some(ten.to_vec()))
            .include(ServiceField::Tags);
        let answer = session.call("ecs:DescribeServices", request.send()).await?;
        for service in answer.services() {
            let name = service.service_name().unwrap_or_default();
            if let Some(location) = names::location_of_service(name) {
                let observed = session.cache.share(&location, |last| last.service.as_ref(), read(session, service));
                found.insert(location, observed);
            }
        }
    }
    Ok(found)
}

async fn list(session: Session<'_>) -> Result<Vec<String>, CallError> {
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let request = session
            .clients
            .ecs
            .list_services()
            .cluster(&session.deployment.cluster)
            .max_results(100)
            .set_next_token(token);
        let answer = session.call("ecs:ListServices", request.send()).await?;
        let listed = answer.service_arns().iter().filter_map(|arn| arn.rsplit('/').next());
        names.extend(listed.filter(|name| names::location_of_service(name).is_some()).map(str::to_owned));
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(names);
        }
    }
}

fn read(session: Session<'_>, service: &Service) -> Observed {
    let tags = service.tags().iter();
    let tags = tags.map(|tag| (tag.key().unwrap_or_default().to_owned(), tag.value().unwrap_or_default().to_owned()));
    let mut deployments: Vec<&SdkDeployment> = service.deployments().iter().collect();
    deployments.sort_by_key(|deployment| deployment.status() != Some("PRIMARY"));
    let (network, deployment, options) = settings::read(service);
    Observed {
        arn: service.service_arn().unwrap_or_default().into(),
        name: service.service_name().unwrap_or_default().to_owned(),
        status: match service.status() {
            Some("ACTIVE") => Status::Active,
            Some("DRAINING") => Status::Draining,
            _ => Status::Inactive,
        },
        task_definition: service.task_definition().unwrap_or_default().into(),
        desired_count: service.desired_count(),
        running: service.running_count(),
        deployments: deployments.into_iter().map(read_deployment).collect(),
        network,
        deployment,
        options,
        registry: service.service_registries().first().and_then(|one| one.registry_arn().map(Arn::from)),
        tags: session.cache.distinct(tags.collect()),
    }
}

fn read_deployment(deployment: &SdkDeployment) -> ServiceDeployment {
    ServiceDeployment {
        id: deployment.id().unwrap_or_default().to_owned(),
        started_ms: deployment.created_at().and_then(|at| at.to_millis().ok()).unwrap_or_default(),
        task_definition: deployment.task_definition().unwrap_or_default().into(),
        rollout: match deployment.rollout_state() {
            Some(DeploymentRolloutState::Failed) => Rollout::Failed,
            Some(DeploymentRolloutState::InProgress) => Rollout::InProgress,
            _ => Rollout::Completed,
        },
        reason: deployment.rollout_state_reason().unwrap_or_default().to_owned(),
        desired_count: deployment.desired_count(),
        running: deployment.running_count(),
        failed: deployment.failed_tasks(),
    }
}

fn network(network: &Network) -> Result<NetworkConfiguration, CallError> {
    let vpc = AwsVpcConfiguration::builder()
        .set_subnets(Some(network.subnets.clone()))
        .set_security_groups(Some(network.security_groups.clone()))
        .assign_public_ip(if network.assign_public_ip { AssignPublicIp::Enabled } else { AssignPublicIp::Disabled })
        .build()
        .map_err(|_| CallError::malformed("ecs:CreateService", "subnet"))?;
    Ok(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
}

fn deployment(configuration: DeploymentConfiguration, options: &ServiceOptions) -> SdkDeploymentConfiguration {
    let breaker = DeploymentCircuitBreaker::builder()
        .enable(configuration.circuit_breaker)
        .rollback(configuration.rollback)
        .build();
    SdkDeploymentConfiguration::builder()
        .deployment_circuit_breaker(breaker)
        .minimum_healthy_percent(configuration.minimum_healthy_percent)
        .maximum_percent(configuration.maximum_percent)
        .strategy(DeploymentStrategy::from(options.strategy.as_str()))
        .build()
}

fn rebalancing(zones: bool) -> AvailabilityZoneRebalancing {
    if zones { AvailabilityZoneRebalancing::Enabled } else { AvailabilityZoneRebalancing::Disabled }
}

/// Sends only the options that differ: ECS refuses some of them for services that never had them, and starts a deployment for others.
fn set(request: UpdateServiceFluentBuilder, from: &ServiceOptions, to: &ServiceOptions) -> UpdateServiceFluentBuilder {
    let version = (from.platform_version != to.platform_version).then(|| to.platform_version.clone());
    let propagate = (from.propagate_tags != to.propagate_tags).then(|| to.propagate_tags.as_str().into());
    let grace = to.health_check_grace_period;
    request
        // An empty strategy selects the launch type.
        .set_capacity_provider_strategy((from.capacity != to.capacity).then(Vec::new))
        .set_platform_version(version)
        .set_propagate_tags(propagate)
        .set_enable_ecs_managed_tags((from.managed_tags != to.managed_tags).then_some(to.managed_tags))
        .set_enable_execute_command((from.execute_command != to.execute_command).then_some(to.execute_command))
        .set_health_check_grace_period_seconds((from.health_check_grace_period != grace).then_some(grace))
        .set_availability_zone_rebalancing(
            (from.zone_rebalancing != to.zone_rebalancing).then(|| rebalancing(to.zone_rebalancing)),
        )
}

/// The ARN from the plan, or that of the resource that an earlier step created.
fn resolve(deferred: &Deferred<Arn>, created: Option<&Arn>, resource: &'static str) -> Result<Arn, CallError> {
    deferred.known().or(created).cloned().ok_or_else(|| CallError {
        operation: "ecs:CreateService",
        class: Class::NotYet,
        code: String::new(),
        message: format!("the {resource} does not exist yet"),
    })
}

/// A creation also sets `observed`.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    created: Created<'_>,
    observed: &mut Option<Shared<Observed>>,
) -> Result<(), CallError> {
    let ecs = &session.clients.ecs;
    let cluster = &session.deployment.cluster;
    match change {
        Change::Create { desired, task_definition, registry, .. } => {
            let registry = ServiceRegistry::builder()
                .registry_arn(resolve(registry, created.registry, "Cloud Map service")?)
                .build();
            let request = ecs
                .create_service()
                .cluster(cluster)
                .service_name(&desired.name)
                .task_definition(resolve(task_definition, created.task_definition, "task definition")?)
                .desired_count(desired.count)
                .launch_type(LaunchType::Fargate)
                .network_configuration(network(&desired.network)?)
                .deployment_configuration(deployment(desired.deployment, &desired.options))
                .service_registries(registry)
                .enable_ecs_managed_tags(desired.options.managed_tags)
                .propagate_tags(PropagateTags::from(desired.options.propagate_tags.as_str()))
                .availability_zone_rebalancing(rebalancing(desired.options.zone_rebalancing))
                .set_tags(Some(tag_list(&desired.tags)));
            let answer = session.call("ecs:CreateService", request.send()).await?;
            *observed = answer.service().map(|service| read(session, service).into());
            Ok(())
        }
        Change::Deploy { name, task_definition, .. } => {
            let task_definition = resolve(task_definition, created.task_definition, "task definition")?;
            let request = ecs.update_service().cluster(cluster).service(name).task_definition(task_definition);
            session.call("ecs:UpdateService", request.send()).await.map(drop)
        }
        Change::Configure { name, network: desired, deployment: configuration, options, from, registry, .. } => {
            // A new registry may have the id of the old one, and ECS registers only tasks that start
            // (terraform-provider-aws#46930).
            let new_registry = *registry == Deferred::AfterApply;
            // ECS refuses another capacity provider strategy without a new deployment.
            let new_capacity = from.capacity != options.capacity;
            let registry = ServiceRegistry::builder()
                .registry_arn(resolve(registry, created.registry, "Cloud Map service")?)
                .build();
            let request = ecs
                .update_service()
                .cluster(cluster)
                .service(name)
                .network_configuration(network(desired)?)
                .deployment_configuration(deployment(*configuration, options))
                .service_registries(registry)
                .force_new_deployment(new_registry || new_capacity);
            let request = set(request, from, options);
            session.call("ecs:UpdateService", request.send()).await.map(drop)
        }
        Change::Redeploy { name, task_definition, .. } => {
            let request = ecs.update_service().cluster(cluster).service(name).task_definition(task_definition);
            session.call("ecs:UpdateService", request.force_new_deployment(true).send()).await.map(drop)
        }
        Change::SetCount { name, to, .. } => {
            let request = ecs.update_service().cluster(cluster).service(name).desired_count(*to);
            session.call("ecs:UpdateService", request.send()).await.map(drop)
        }
        Change::RememberFailed { arn, revision, .. } => {
            let tag = Tag::builder().key(tags::FAILED_REVISION).value(revision).build();
            session.call("ecs:TagResource", ecs.tag_resource().resource_arn(arn).tags(tag).send()).await.map(drop)
        }
        Change::Tag { arn, tags, .. } => change_tags(session, arn, tags).await,
        Change::Delete { name } => {
            match session
                .call("ecs:DeleteService", ecs.delete_service().cluster(cluster).service(name).force(true).send())
                .await
            {
                Err(error) if !error.is(&["ServiceNotFoundException", "ServiceNotActiveException"]) => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// How the last rollout of a definition ended that started after `since_ms`. Two calls, unless a service has more than a hundred rollouts in
/// that time.
pub async fn record(
    session: Session<'_>,
    service: &str,
    task_definition: &Arn,
    since_ms: i64,
) -> Result<Record, CallError> {
    let deployments = deployments(session, service, since_ms).await?;
    for some in deployments.chunks(REVISIONS) {
        let arns = some.iter().filter_map(ServiceDeploymentBrief::target_service_revision_arn).map(str::to_owned);
        let request = session.clients.ecs.describe_service_revisions().set_service_revision_arns(Some(arns.collect()));
        let answer = session.call("ecs:DescribeServiceRevisions", request.send()).await?;
        let targets = |deployment: &&ServiceDeploymentBrief| {
            answer.service_revisions().iter().any(|revision| {
                revision.service_revision_arn() == deployment.target_service_revision_arn()
                    && revision.task_definition().is_some_and(|arn| *task_definition == arn)
            })
        };
        if let Some(newest) = some.iter().find(targets) {
            return Ok(match newest.status() {
                Some(
                    ServiceDeploymentStatus::RollbackRequested
                    | ServiceDeploymentStatus::RollbackInProgress
                    | ServiceDeploymentStatus::RollbackSuccessful
                    | ServiceDeploymentStatus::RollbackFailed,
                ) => Record::RolledBack,
                Some(ServiceDeploymentStatus::Pending | ServiceDeploymentStatus::InProgress) => Record::InProgress,
                _ => Record::NotRolledBack,
            });
        }
    }
    Ok(Record::NotRolledBack)
}

/// Newest first.
async fn deployments(
    session: Session<'_>,
    service: &str,
    since_ms: i64,
) -> Result<Vec<ServiceDeploymentBrief>, CallError> {
    let since = CreatedAt::builder().after(DateTime::from_millis(since_ms)).build();
    let (mut deployments, mut token) = (Vec::new(), None);
    loop {
        let request = session
            .clients
            .ecs
            .list_service_deployments()
            .cluster(&session.deployment.cluster)
            .service(service)
            .created_at(since.clone())
            .max_results(100)
            .set_next_token(token);
        let answer = session.call("ecs:ListServiceDeployments", request.send()).await?;
        deployments.extend(answer.service_deployments.unwrap_or_default());
        token = answer.next_token;
        if token.is_none() {
            break;
        }
    }
    // AWS documents no order.
    let created = |one: &ServiceDeploymentBrief| one.created_at().map(|at| (at.secs(), at.subsec_nanos()));
    deployments.sort_by_key(|one| std::cmp::Reverse(created(one)));
    Ok(deployments)
}

/// Why the newest stopped task of these task definitions stopped, as ECS reports it. An error while none of those that ECS lists as stopped
/// has stopped in its description too: the read is older than the list.
pub async fn stop_reason(
    session: Session<'_>,
    family: &str,
    task_definitions: &[&Arn],
) -> Result<Option<String>, CallError> {
    let ecs = &session.clients.ecs;
    let request = ecs
        .list_tasks()
        .cluster(&session.deployment.cluster)
        .family(family)
        .desired_status(aws_sdk_ecs::types::DesiredStatus::Stopped);
    let arns = session.call("ecs:ListTasks", request.send()).await?.task_arns.unwrap_or_default();
    if arns.is_empty() {
        return Ok(None);
    }
    let request =
        ecs.describe_tasks().cluster(&session.deployment.cluster).set_tasks(Some(arns.into_iter().take(100).collect()));
    let answer = session.call("ecs:DescribeTasks", request.send()).await?;
    let is_of =
        |task: &&Task| task.task_definition_arn().is_some_and(|arn| task_definitions.iter().any(|one| *one == arn));
    let tasks: Vec<&Task> = answer.tasks().iter().filter(is_of).collect();
    let stopped: Vec<_> = tasks.iter().filter_map(|task| Some((task.stopped_at()?, task))).collect();
    if stopped.is_empty() && !tasks.is_empty() {
        return Err(CallError::unanswered(
            "ecs:DescribeTasks",
            Class::Transient,
            "the failed task has not stopped yet",
        ));
    }
    let failed = stopped.into_iter().filter(|(_, task)| !is_scaled_in(task));
    let newest = failed.max_by_key(|(at, _)| (at.secs(), at.subsec_nanos()));
    Ok(newest.and_then(|(_, task)| describe_stop(task)))
}

/// Whether ECS stopped the task because the service needs fewer of them, as at the end of a rollback.
fn is_scaled_in(task: &Task) -> bool {
    task.stopped_reason().is_some_and(|reason| reason.starts_with("Scaling activity initiated by"))
}

fn describe_stop(task: &Task) -> Option<String> {
    let mut reasons = vec![task.stopped_reason()?.to_owned()];
    for container in task.containers() {
        // Without the container's reason if it repeats that of the task.
        reasons.extend(container.reason().filter(|reason| *reason != reasons[0]).map(str::to_owned));
        reasons.extend(container.exit_code().map(|code| format!("exit code {code}")));
    }
    Some(reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::Container;

    use super::*;

    #[test]
    fn a_stop_reason_is_not_repeated() {
        let container = |reason: &str| Container::builder().reason(reason).exit_code(137).build();
        let task = |reason: &str| Task::builder().stopped_reason("OutOfMemory").containers(container(reason)).build();
        assert_eq!(describe_stop(&task("OutOfMemory")).unwrap(), "OutOfMemory; exit code 137");
        assert_eq!(describe_stop(&task("killed")).unwrap(), "OutOfMemory; killed; exit code 137");
        assert_eq!(describe_stop(&Task::builder().build()), None);
    }

    #[test]
    fn a_task_that_ecs_scaled_in_did_not_fail() {
        let task = |reason: &str| Task::builder().stopped_reason(reason).build();
        assert!(is_scaled_in(&task("Scaling activity initiated by (deployment ecs-svc/0202754989553173317)")));
        assert!(!is_scaled_in(&task("Task failed container health checks")));
        assert!(!is_scaled_in(&Task::builder().build()));
    }

    #[test]
    fn an_unknown_arn_is_the_one_just_created() {
        let known = Deferred::Known(Arn::from("arn:known"));
        assert_eq!(resolve(&known, Some(&"arn:created".into()), "task definition").unwrap(), "arn:known");
        assert_eq!(
            resolve(&Deferred::AfterApply, Some(&"arn:created".into()), "task definition").unwrap(),
            "arn:created"
        );
        let error = resolve(&Deferred::AfterApply, None, "task definition").unwrap_err();
        assert_eq!(error.class, Class::NotYet);
        assert!(error.to_string().contains("the task definition does not exist yet"), "{error}");
    }
}
