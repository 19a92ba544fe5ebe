//! Observe: `DescribeScalableTargets`, 50 a page, and `DescribeScalingPolicies`, ten a page, in turns.

use std::collections::BTreeMap;

use aws_sdk_applicationautoscaling::operation::describe_scaling_policies::DescribeScalingPoliciesOutput;
use aws_sdk_applicationautoscaling::types::{
    MetricType, PolicyType, PredefinedMetricSpecification, ScalableDimension, ScalingPolicy, ServiceNamespace,
    SuspendedState, TargetTrackingScalingPolicyConfiguration,
};
use codeloc_core::names;
use codeloc_core::resources::scaling::{COOLDOWN, Change, Metric, Observed, Policy};
use codeloc_core::shared::Shared;
use codeloc_crds::LocationName;

use crate::error::{CallError, Class};
use crate::scope::Scope;
use crate::session::Session;

const ABSENT: &[&str] = &["ObjectNotFoundException"];
/// One sweep reads this number of pages of policies, and one more for each [`TARGETS_FOR_ANOTHER_PAGE`] targets.
const PAGES: usize = 10;
const TARGETS_FOR_ANOTHER_PAGE: usize = 125;

pub async fn observe(
    session: Session<'_>,
    scope: Scope<'_>,
) -> Result<BTreeMap<LocationName, Shared<Observed>>, CallError> {
    let prefix = format!("service/{}/", session.deployment.cluster);
    let resource = match scope {
        Scope::All => None,
        Scope::One(name) => Some(names::scaling_resource(&session.deployment.cluster, name)),
    };
    let mut targets: BTreeMap<LocationName, Observed> = BTreeMap::new();
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
            let Some(location) = resource_id.strip_prefix(&prefix).and_then(names::location_of_service) else {
                continue;
            };
            let (min, max) = (target.min_capacity(), target.max_capacity());
            let suspended = target.suspended_state().map(suspended).unwrap_or_default();
            let observed =
                Observed { resource_id: resource_id.to_owned(), min, max, suspended, policies: BTreeMap::new() };
            targets.insert(location, observed);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if targets.is_empty() {
        return Ok(BTreeMap::new());
    }
    match resource {
        Some(resource) => read_policies_of(session, &resource).await?,
        None => read_next_policies(session, &prefix, targets.len()).await?,
    }
    for observed in targets.values_mut() {
        let prefix = key(&observed.resource_id, "");
        let state = session.cache.lock();
        let policies = state.policies.starting_with(&prefix);
        observed.policies = policies.map(|(key, policy)| (key[prefix.len()..].to_owned(), policy.clone())).collect();
    }
    let found = targets.into_iter().map(|(location, observed)| {
        let observed = session.cache.share(&location, |last| last.scaling.as_ref(), observed);
        (location, observed)
    });
    Ok(found.collect())
}

/// The key of a cached policy.
fn key(resource: &str, name: &str) -> String {
    format!("{resource} {name}")
}

/// The most pages of policies that one sweep reads.
pub fn pages(targets: usize) -> usize {
    PAGES + targets / TARGETS_FOR_ANOTHER_PAGE
}

/// Ten policies a page is the worst ratio of all reads: each sweep reads a few pages and takes the rest from the cache.
async fn read_next_policies(session: Session<'_>, prefix: &str, targets: usize) -> Result<(), CallError> {
    let mut read = 0;
    loop {
        let (requested, token) = session.cache.lock().policies.request();
        let continued = token.is_some();
        let answer = match list_policies(session, None, token).await {
            // A token expires after a while.
            Err(error) if continued && error.class == Class::Terminal => {
                session.cache.lock().policies.restart();
                continue;
            }
            answer => answer?,
        };
        let own = answer.scaling_policies().iter().filter(|policy| policy.resource_id().starts_with(prefix));
        let found: Vec<(String, Policy)> =
            own.map(|one| (key(one.resource_id(), one.policy_name()), policy(one))).collect();
        let next = answer.next_token().map(str::to_owned);
        let ended = next.is_none();
        let missing = session.cache.lock().policies.page(requested, found, next);
        for resource in missing.iter().filter_map(|key| key.split_once(' ')).map(|(resource, _)| resource) {
            read_policies_of(session, resource).await?;
        }
        read += 1;
        let whole = session.cache.lock().policies.is_whole();
        if whole && (ended || read >= pages(targets)) {
            return Ok(());
        }
    }
}

async fn read_policies_of(session: Session<'_>, resource: &str) -> Result<(), CallError> {
    let requested = session.cache.lock().policies.now();
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let answer = list_policies(session, Some(resource), token).await?;
        let policies = answer.scaling_policies().iter();
        found.extend(policies.map(|one| (key(one.resource_id(), one.policy_name()), policy(one))));
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    let mut state = session.cache.lock();
    let known: Vec<String> = state.policies.starting_with(&key(resource, "")).map(|(key, _)| key.clone()).collect();
    for key in known.into_iter().filter(|key| !found.contains_key(key)) {
        state.policies.read(requested, key, None);
    }
    for (key, policy) in found {
        state.policies.read(requested, key, Some(policy));
    }
    Ok(())
}

fn forget_policies(session: Session<'_>, resource: &str) {
    let mut state = session.cache.lock();
    let known: Vec<String> = state.policies.starting_with(&key(resource, "")).map(|(key, _)| key.clone()).collect();
    for key in known {
        state.policies.update(key, None);
    }
}

async fn list_policies(
    session: Session<'_>,
    resource: Option<&str>,
    token: Option<String>,
) -> Result<DescribeScalingPoliciesOutput, CallError> {
    let request = session
        .clients
        .scaling
        .describe_scaling_policies()
        .service_namespace(ServiceNamespace::Ecs)
        .set_resource_id(resource.map(str::to_owned))
        .max_results(10)
        .set_next_token(token);
    session.call("application-autoscaling:DescribeScalingPolicies", request.send()).await
}

fn policy(policy: &ScalingPolicy) -> Policy {
    let tracking = policy.target_tracking_scaling_policy_configuration();
    let metric =
        tracking.and_then(TargetTrackingScalingPolicyConfiguration::predefined_metric_specification).map_or_else(
            || Metric::Other("custom".to_owned()),
            |metric| Metric::from_name(metric.predefined_metric_type().as_str()),
        );
    let target_milli = milli(tracking.map_or(0.0, TargetTrackingScalingPolicyConfiguration::target_value));
    let seconds = |cooldown: Option<i32>| cooldown.unwrap_or(COOLDOWN);
    Policy {
        metric,
        target_milli,
        scale_in_cooldown: seconds(tracking.and_then(TargetTrackingScalingPolicyConfiguration::scale_in_cooldown)),
        scale_out_cooldown: seconds(tracking.and_then(TargetTrackingScalingPolicyConfiguration::scale_out_cooldown)),
        scale_in: tracking.and_then(TargetTrackingScalingPolicyConfiguration::disable_scale_in) != Some(true),
    }
}

fn suspended(state: &SuspendedState) -> Vec<&'static str> {
    [
        ("scaling in", state.dynamic_scaling_in_suspended()),
        ("scaling out", state.dynamic_scaling_out_suspended()),
        ("scheduled scaling", state.scheduled_scaling_suspended()),
    ]
    .into_iter()
    .filter_map(|(what, suspended)| (suspended == Some(true)).then_some(what))
    .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a percentage in thousandths is far inside the range")]
fn milli(value: f64) -> i64 {
    (value * 1000.0).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "a percentage in thousandths is exact in an f64")]
fn from_milli(value: i64) -> f64 {
    value as f64 / 1000.0
}

/// A new target and its policies also set `observed`.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Option<Shared<Observed>>,
) -> Result<(), CallError> {
    let scaling = &session.clients.scaling;
    let dimension = ScalableDimension::EcsServiceDesiredCount;
    match change {
        Change::Register { desired, fields } => {
            let running = SuspendedState::builder()
                .dynamic_scaling_in_suspended(false)
                .dynamic_scaling_out_suspended(false)
                .scheduled_scaling_suspended(false)
                .build();
            let request = scaling
                .register_scalable_target()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(&desired.resource_id)
                .scalable_dimension(dimension)
                .min_capacity(desired.min)
                .max_capacity(desired.max)
                .suspended_state(running)
                // AWS accepts tags here for a new target only.
                .set_tags(fields.is_none().then(|| desired.tags.clone().into_iter().collect()));
            session.call("application-autoscaling:RegisterScalableTarget", request.send()).await?;
            if fields.is_none() {
                let created = Observed {
                    resource_id: desired.resource_id.clone(),
                    min: desired.min,
                    max: desired.max,
                    suspended: vec![],
                    policies: BTreeMap::new(),
                };
                *observed = Some(created.into());
            }
            Ok(())
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
                .scale_in_cooldown(policy.scale_in_cooldown)
                .scale_out_cooldown(policy.scale_out_cooldown)
                .disable_scale_in(!policy.scale_in)
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
            session.call(OPERATION, request.send()).await?;
            session.cache.lock().policies.update(key(resource_id, name), Some(policy.clone()));
            if let Some(observed) = observed {
                observed.policies.insert(name.clone(), policy.clone());
            }
            Ok(())
        }
        Change::DeletePolicy { resource_id, name, .. } => {
            let request = scaling
                .delete_scaling_policy()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(resource_id)
                .scalable_dimension(dimension)
                .policy_name(name);
            absent_is_done(
                session.call("application-autoscaling:DeleteScalingPolicy", request.send()).await.map(drop),
            )?;
            session.cache.lock().policies.update(key(resource_id, name), None);
            Ok(())
        }
        Change::Deregister { resource_id, .. } => {
            let request = scaling
                .deregister_scalable_target()
                .service_namespace(ServiceNamespace::Ecs)
                .resource_id(resource_id)
                .scalable_dimension(dimension);
            absent_is_done(
                session.call("application-autoscaling:DeregisterScalableTarget", request.send()).await.map(drop),
            )?;
            forget_policies(session, resource_id);
            Ok(())
        }
    }
}

/// A thing to delete may be absent already.
fn absent_is_done(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.is(ABSENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_reads_more_pages() {
        assert_eq!((pages(0), pages(124), pages(125), pages(1000)), (10, 10, 11, 18));
    }

    #[test]
    fn thresholds_are_exact_in_thousandths() {
        assert_eq!(milli(70.0), 70_000);
        assert_eq!(milli(33.3), 33_300);
        assert!((from_milli(33_300) - 33.3).abs() < f64::EPSILON * 100.0);
    }

    #[test]
    fn suspended_processes_are_named() {
        let state = SuspendedState::builder().dynamic_scaling_out_suspended(true).scheduled_scaling_suspended(false);
        assert_eq!(suspended(&state.build()), ["scaling out"]);
    }
}
