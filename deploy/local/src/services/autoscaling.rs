//! Application Auto Scaling for the desired count of ECS services: targets and target-tracking policies. Metrics are not
//! evaluated, so nothing scales by itself; registering a target clamps the desired count ([`ecs::service::clamp`]).
//!
//! An accepted change is pending for `Rules::scaling_conflicts`. Meanwhile every other change of the same target or of its policies
//! is refused with `ConcurrentUpdateException`. AWS documents this for 'an update to an Application Auto Scaling resource that
//! already has a pending update'; sequential calls get it too (spinnaker/clouddriver#6215). A refused call is not pending, so
//! that a retry succeeds.
//!
//! <https://docs.aws.amazon.com/autoscaling/application/APIReference/API_RegisterScalableTarget.html>

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ecs;
use crate::model::Cloud;
use crate::model::autoscaling::{AutoScaling, Policy, Target};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, Tags};
use crate::protocol::paging::{Limits, page};
use crate::protocol::tags;

const DIMENSION: &str = "ecs:service:DesiredCount";
const RESOURCE_CHARACTERS: usize = 1600;
const POLICY_CHARACTERS: usize = 256;
/// Target tracking creates one alarm per direction for each policy.
const ALARMS_OF_POLICY: usize = 2;

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    if input.get("ServiceNamespace").is_some_and(|namespace| namespace != "ecs") {
        return Err(ApiError::invalid("localcloud supports only the ServiceNamespace ecs"));
    }
    match operation {
        "RegisterScalableTarget" => change(cloud, input, register),
        "DescribeScalableTargets" => describe_targets(cloud, input),
        "DeregisterScalableTarget" => change(cloud, input, |cloud, input| {
            let resource = resource(input)?;
            cloud.autoscaling.targets.remove(resource).map(|_| json!({})).ok_or_else(|| no_target(resource))
        }),
        "PutScalingPolicy" => change(cloud, input, put_policy),
        "DescribeScalingPolicies" => describe_policies(cloud, input),
        "DeleteScalingPolicy" => change(cloud, input, delete_policy),
        "TagResource" => {
            let added = input.text_map("Tags");
            tags::add(AwsService::AutoScaling, tagged(cloud, input)?, added)?;
            Ok(json!({}))
        }
        "UntagResource" => {
            let tags = tagged(cloud, input)?;
            input.texts("TagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListTagsForResource" => Ok(json!({"Tags": tagged(cloud, input)?})),
        _ => Err(AwsService::AutoScaling.unknown(operation)),
    }
}

/// Applies a change of a target or policy, unless another change of the same resource is pending.
fn change(cloud: &mut Cloud, input: &Value, act: fn(&mut Cloud, &Value) -> Reply) -> Reply {
    let (resource, now) = (resource(input)?, cloud.now());
    let AutoScaling { pending, .. } = &mut cloud.autoscaling;
    pending.retain(|_, until| *until > now);
    if pending.contains_key(resource) {
        let message = "You already have a pending update to an Auto Scaling resource.";
        return Err(ApiError::new("ConcurrentUpdateException", message));
    }
    let reply = act(cloud, input)?;
    if !cloud.rules.scaling_conflicts.is_zero() {
        let until = now + cloud.rules.scaling_conflicts;
        cloud.autoscaling.pending.insert(resource.to_owned(), until);
    }
    Ok(reply)
}

fn resource(input: &Value) -> Result<&str, ApiError> {
    input.need("ServiceNamespace")?;
    if input.need("ScalableDimension")? != DIMENSION {
        return Err(ApiError::invalid(format!("localcloud supports only the ScalableDimension {DIMENSION}")));
    }
    let resource = input.need("ResourceId")?;
    if resource.chars().count() > RESOURCE_CHARACTERS {
        return Err(ApiError::invalid(format!("ResourceId must have at most {RESOURCE_CHARACTERS} characters")));
    }
    Ok(resource)
}

fn register(cloud: &mut Cloud, input: &Value) -> Reply {
    let resource = resource(input)?;
    let known = cloud.autoscaling.targets.get(resource);
    let min = input.number("MinCapacity").or(known.map(|target| target.min));
    let max = input.number("MaxCapacity").or(known.map(|target| target.max));
    let min = min.ok_or_else(|| ApiError::missing("MinCapacity"))?;
    let max = max.ok_or_else(|| ApiError::missing("MaxCapacity"))?;
    if min < 0 || max < min {
        return Err(ApiError::invalid("Maximum capacity cannot be less than minimum capacity"));
    }
    let known = cloud.autoscaling.targets.contains_key(resource);
    if !known && cloud.autoscaling.targets.len() >= cloud.rules.quotas.scalable_targets {
        return Err(exceeded("scalable targets of Amazon ECS", cloud.rules.quotas.scalable_targets));
    }
    let tags = input.text_map("Tags");
    // RegisterScalableTarget has no separate code for too many tags.
    tags::check(AwsService::AutoScaling, &tags).map_err(|error| ApiError { code: None, ..error })?;
    if !ecs::service::clamp(cloud, resource, min, max) {
        return Err(ApiError::invalid(format!("ECS service doesn't exist: {resource}")));
    }
    let id = cloud.draw(32);
    let fresh = Target {
        arn: cloud.arn("application-autoscaling", &format!("scalable-target/{id}")),
        min,
        max,
        created_at: cloud.now(),
        suspended: json!({
            "DynamicScalingInSuspended": false,
            "DynamicScalingOutSuspended": false,
            "ScheduledScalingSuspended": false,
        }),
        tags,
        policies: BTreeMap::new(),
    };
    if known && input.get("Tags").is_some_and(|tags| tags.as_object().is_some_and(|tags| !tags.is_empty())) {
        let message = "RegisterScalableTarget sets tags only on a new scalable target; use TagResource to change them";
        return Err(ApiError::invalid(message));
    }
    let target = cloud.autoscaling.targets.entry(resource.to_owned()).or_insert(fresh);
    (target.min, target.max) = (min, max);
    if let Some(Value::Object(suspended)) = input.get("SuspendedState") {
        for (field, value) in suspended {
            target.suspended[field] = value.clone();
        }
    }
    Ok(json!({"ScalableTargetARN": target.arn}))
}

fn describe_targets(cloud: &mut Cloud, input: &Value) -> Reply {
    input.need("ServiceNamespace")?;
    let named = input.texts("ResourceIds");
    if named.len() > 50 {
        return Err(ApiError::invalid("ResourceIds must have length less than or equal to 50"));
    }
    let all = cloud.autoscaling.targets.iter();
    let all = all.filter(|(resource, _)| named.is_empty() || named.contains(&resource.as_str()));
    let all = all.map(|(resource, target)| (resource.clone(), (resource, target))).collect();
    let page = page(all, input.text("NextToken"), input.number("MaxResults"), Limits { default: 50, max: 50 })?;
    let shown = page.map(|(resource, target)| {
        json!({
            "ServiceNamespace": "ecs",
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "MinCapacity": target.min,
            "MaxCapacity": target.max,
            "RoleARN": format!(
                "arn:aws:iam::{}:role/aws-service-role/ecs.application-autoscaling.amazonaws.com/\
                 AWSServiceRoleForApplicationAutoScaling_ECSService",
                cloud.rules.account
            ),
            "CreationTime": target.created_at.epoch_seconds(),
            "SuspendedState": target.suspended,
            "ScalableTargetARN": target.arn,
        })
    });
    Ok(shown.document("ScalableTargets", "NextToken"))
}

fn put_policy(cloud: &mut Cloud, input: &Value) -> Reply {
    let resource = resource(input)?.to_owned();
    let name = input.need("PolicyName")?;
    if name.chars().count() > POLICY_CHARACTERS || name.chars().any(char::is_control) {
        let message = format!("PolicyName must have at most {POLICY_CHARACTERS} characters, all of them printable");
        return Err(ApiError::invalid(message));
    }
    if input.text("PolicyType").is_some_and(|kind| kind != "TargetTrackingScaling") {
        return Err(ApiError::invalid("localcloud supports only the PolicyType TargetTrackingScaling"));
    }
    let configuration = input.get("TargetTrackingScalingPolicyConfiguration");
    let configuration = configuration.ok_or_else(|| ApiError::missing("TargetTrackingScalingPolicyConfiguration"))?;
    if configuration.get("TargetValue").and_then(Value::as_f64).is_none() {
        return Err(ApiError::missing("TargetTrackingScalingPolicyConfiguration.TargetValue"));
    }
    let metric = metric(configuration);
    if !matches!(metric, Some("ECSServiceAverageCPUUtilization" | "ECSServiceAverageMemoryUtilization")) {
        return Err(ApiError::invalid(
            "localcloud supports only the metrics ECSServiceAverageCPUUtilization and ECSServiceAverageMemoryUtilization",
        ));
    }
    let (uuid, high, low) = (cloud.draw_uuid(), cloud.draw_uuid(), cloud.draw_uuid());
    let arn = cloud.arn("autoscaling", &format!("scalingPolicy:{uuid}:resource/ecs/{resource}:policyName/{name}"));
    let alarm = |kind: &str, uuid: &str| {
        let name = format!("TargetTracking-{resource}-Alarm{kind}-{uuid}");
        json!({"AlarmName": name, "AlarmARN": cloud.arn("cloudwatch", &format!("alarm:{name}"))})
    };
    let fresh = Policy {
        arn,
        created_at: cloud.now(),
        configuration: Value::Null,
        alarms: json!([alarm("High", &high), alarm("Low", &low)]),
    };
    let policies = cloud.autoscaling.targets.values().map(|target| target.policies.len());
    let alarms = policies.sum::<usize>() * ALARMS_OF_POLICY;
    let target = cloud.autoscaling.targets.get_mut(&resource).ok_or_else(|| no_target(&resource))?;
    let other = |(other, policy): (&String, &Policy)| other != name && self::metric(&policy.configuration) == metric;
    if target.policies.iter().any(other) {
        let message = "Only one TargetTrackingScaling policy for a given metric specification is allowed.";
        return Err(ApiError::invalid(message));
    }
    if !target.policies.contains_key(name) {
        let quotas = cloud.rules.quotas;
        if target.policies.len() >= quotas.policies_of_target {
            return Err(exceeded("scaling policies per scalable target", quotas.policies_of_target));
        }
        if alarms + ALARMS_OF_POLICY > quotas.alarms {
            return Err(exceeded("CloudWatch alarms", quotas.alarms));
        }
    }
    let policy = target.policies.entry(name.to_owned()).or_insert(fresh);
    policy.configuration = configuration.clone();
    Ok(json!({"PolicyARN": policy.arn, "Alarms": policy.alarms}))
}

fn metric(configuration: &Value) -> Option<&str> {
    configuration.get("PredefinedMetricSpecification")?.text("PredefinedMetricType")
}

fn describe_policies(cloud: &mut Cloud, input: &Value) -> Reply {
    input.need("ServiceNamespace")?;
    let (named, only) = (input.texts("PolicyNames"), input.text("ResourceId"));
    let mut all = Vec::new();
    for (resource, target) in
        cloud.autoscaling.targets.iter().filter(|(resource, _)| only.is_none_or(|only| only == *resource))
    {
        let policies = target.policies.iter().filter(|(name, _)| named.is_empty() || named.contains(&name.as_str()));
        all.extend(policies.map(|(name, policy)| (format!("{resource} {name}"), (resource, name, policy))));
    }
    all.sort_by(|left, right| left.0.cmp(&right.0));
    let page = page(all, input.text("NextToken"), input.number("MaxResults"), Limits { default: 10, max: 10 })?;
    let shown = page.map(|(resource, name, policy)| {
        json!({
            "PolicyARN": policy.arn,
            "PolicyName": name,
            "ServiceNamespace": "ecs",
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": policy.configuration,
            "Alarms": policy.alarms,
            "CreationTime": policy.created_at.epoch_seconds(),
        })
    });
    Ok(shown.document("ScalingPolicies", "NextToken"))
}

fn delete_policy(cloud: &mut Cloud, input: &Value) -> Reply {
    let (resource, name) = (resource(input)?, input.need("PolicyName")?);
    let target = cloud.autoscaling.targets.get_mut(resource);
    target.and_then(|target| target.policies.remove(name)).map(|_| json!({})).ok_or_else(|| {
        let message = format!(
            "No scaling policy found for service namespace: ecs, resource ID: {resource}, \
             scalable dimension: {DIMENSION}, policy name: {name}"
        );
        ApiError::new("ObjectNotFoundException", message)
    })
}

fn tagged<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Tags, ApiError> {
    let arn = input.need("ResourceARN")?;
    let target = cloud.autoscaling.targets.values_mut().find(|target| target.arn == arn);
    let missing = || ApiError::new("ResourceNotFoundException", format!("The specified resource doesn't exist: {arn}"));
    Ok(&mut target.ok_or_else(missing)?.tags)
}

fn exceeded(what: &str, most: usize) -> ApiError {
    ApiError::new("LimitExceededException", format!("You have reached the quota of {most} {what} of this account."))
}

fn no_target(resource: &str) -> ApiError {
    let message = format!(
        "No scalable target found for service namespace: ecs, resource ID: {resource}, \
         scalable dimension: {DIMENSION}"
    );
    ApiError::new("ObjectNotFoundException", message)
}
