//! Observe: `DescribeScalableTargets` 50 a page, `DescribeScalingPolicies` ten a page.

use std::collections::BTreeMap;

use aws_sdk_applicationautoscaling::types::{
    MetricType, PolicyType, PredefinedMetricSpecification, ScalableDimension, ServiceNamespace,
    TargetTrackingScalingPolicyConfiguration,
};

use super::{Change, Live, Metric, Policy};
use crate::kinds::aws::{CallError, Scope, Session};
use crate::kinds::names;

const ABSENT: &[&str] = &["ObjectNotFoundException"];

pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<String, Live>, CallError> {
    let prefix = format!("service/{}/", session.place.cluster);
    let resource = match scope {
        Scope::All => None,
        Scope::One(name) => Some(names::scaling_resource(&session.place.cluster, name)),
    };
    let mut found: BTreeMap<String, Live> = BTreeMap::new();
    let mut token = None;
    loop {
        let request = session
            .clients
            .scaling
            .describe_scalable_targets()
            .service_namespace(ServiceNamespace::Ecs)
            .set_resource_ids(resource.clone().map(|resource| vec![resource]))
            .max_results(50)
            .set_next_token(token);
        let answer = session.call("application-autoscaling:DescribeScalableTargets", request.send()).await?;
        for target in answer.scalable_targets() {
            let resource_id = target.resource_id();
            let Some(repository) = resource_id.strip_prefix(&prefix).and_then(names::repository_of_service) else {
                continue;
            };
            let (min, max) = (target.min_capacity(), target.max_capacity());
            let live = Live { resource_id: resource_id.to_owned(), min, max, policies: BTreeMap::new() };
            found.insert(repository.to_owned(), live);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if !found.is_empty() {
        observe_policies(session, resource, &prefix, &mut found).await?;
    }
    Ok(found)
}

async fn observe_policies(
    session: Session<'_>,
    resource: Option<String>,
    prefix: &str,
    found: &mut BTreeMap<String, Live>,
) -> Result<(), CallError> {
    let mut token = None;
    loop {
        let request = session
            .clients
            .scaling
            .describe_scaling_policies()
            .service_namespace(ServiceNamespace::Ecs)
            .set_resource_id(resource.clone())
            .max_results(10)
            .set_next_token(token);
        let answer = session.call("application-autoscaling:DescribeScalingPolicies", request.send()).await?;
        for policy in answer.scaling_policies() {
            let repository = policy.resource_id().strip_prefix(prefix).and_then(names::repository_of_service);
            let Some(live) = repository.and_then(|repository| found.get_mut(repository)) else { continue };
            let tracking = policy.target_tracking_scaling_policy_configuration();
            let metric = tracking
                .and_then(TargetTrackingScalingPolicyConfiguration::predefined_metric_specification)
                .map_or_else(
                    || Metric::Other("custom".to_owned()),
                    |metric| Metric::from_name(metric.predefined_metric_type().as_str()),
                );
            let target_milli = milli(tracking.map_or(0.0, TargetTrackingScalingPolicyConfiguration::target_value));
            live.policies.insert(policy.policy_name().to_owned(), Policy { metric, target_milli });
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(());
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a percentage in thousandths is far inside the range")]
fn milli(value: f64) -> i64 {
    (value * 1000.0).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "a percentage in thousandths is exact in an f64")]
fn from_milli(value: i64) -> f64 {
    value as f64 / 1000.0
}

pub async fn apply(session: Session<'_>, change: &Change) -> Result<(), CallError> {
    let scaling = &session.clients.scaling;
    let dimension = ScalableDimension::EcsServiceDesiredCount;
    match change {
        Change::Register { want, from } => {
            let request = scaling
                .register_scalable_target()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(&want.resource_id)
                .scalable_dimension(dimension)
                .min_capacity(want.min)
                .max_capacity(want.max)
                // Tags go with a new target only: for an existing one AWS refuses them here.
                .set_tags(from.is_none().then(|| want.tags.clone().into_iter().collect()));
            session.call("application-autoscaling:RegisterScalableTarget", request.send()).await.map(drop)
        }
        Change::PutPolicy { resource_id, name, policy, .. } => {
            const OPERATION: &str = "application-autoscaling:PutScalingPolicy";
            let metric = PredefinedMetricSpecification::builder()
                .predefined_metric_type(MetricType::from(policy.metric.name()))
                .build();
            let metric = metric.map_err(|_| CallError::malformed(OPERATION, "metric"))?;
            let tracking = TargetTrackingScalingPolicyConfiguration::builder()
                .target_value(from_milli(policy.target_milli))
                .predefined_metric_specification(metric)
                .build()
                .map_err(|_| CallError::malformed(OPERATION, "target"))?;
            let request = scaling
                .put_scaling_policy()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(resource_id)
                .scalable_dimension(dimension)
                .policy_name(name)
                .policy_type(PolicyType::TargetTrackingScaling)
                .target_tracking_scaling_policy_configuration(tracking);
            session.call(OPERATION, request.send()).await.map(drop)
        }
        Change::DeletePolicy { resource_id, name } => {
            let request = scaling
                .delete_scaling_policy()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(resource_id)
                .scalable_dimension(dimension)
                .policy_name(name);
            gone(session.call("application-autoscaling:DeleteScalingPolicy", request.send()).await.map(drop))
        }
        Change::Deregister { resource_id, .. } => {
            let request = scaling
                .deregister_scalable_target()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(resource_id)
                .scalable_dimension(dimension);
            gone(session.call("application-autoscaling:DeregisterScalableTarget", request.send()).await.map(drop))
        }
    }
}

/// What is to go may be gone already.
fn gone(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.is(ABSENT) => Ok(()),
        other => other,
    }
}
