//! What must be there in AWS.

use std::collections::BTreeMap;

use codeloc_aws::lookup::{self, Identity};
use codeloc_aws::permissions::{principal, simulate};
use codeloc_aws::{CallError, Class, Clients, SdkConfig};

use super::permissions::ACTIONS;
use super::{Finding, bad, good, unknown};
use crate::settings::Settings;

/// Services of one cluster (Amazon ECS service quotas), and the share of it from which on it is near.
const SERVICES: i32 = 5000;
const NEAR_PERCENT: i32 = 80;

pub async fn examine(settings: &Settings, config: &SdkConfig) -> Vec<Finding> {
    let clients = Clients::new(config, &std::sync::Arc::default());
    let Some(region) = codeloc_aws::region(config) else {
        let mend = "set aws.region, or AWS_REGION";
        return vec![bad("credentials", "no region is set", mend)];
    };
    let identity = match lookup::identity(&clients).await {
        Ok(identity) => identity,
        Err(error) => {
            let mend = "on AWS, give the daemon's task a role; on your machine, set AWS_PROFILE, and run `aws sso login` or \
                        `aws login` where the session has ended; check aws.region and aws.endpoint_url";
            return vec![bad("credentials", error.to_string(), mend)];
        }
    };
    let mut findings = vec![good("credentials", identity.arn.clone())];
    findings.extend(permissions(&clients, settings, &identity, region).await);
    findings.extend(cluster(&clients, &settings.aws.cluster).await);
    findings.push(namespace(&clients, &settings.aws.namespace).await);
    findings.push(network(settings));
    findings.push(bucket(&clients, settings).await);
    findings.push(execution_role(&clients, &settings.aws.execution_role_arn).await);
    if let Some(boundary) = &settings.aws.permissions_boundary {
        findings.push(permissions_boundary(&clients, boundary).await);
    }
    findings
}

fn denied(error: &CallError) -> bool {
    error.class == Class::Terminal && (error.code.contains("AccessDenied") || error.code.contains("Unauthorized"))
}

/// What to do about a call that failed, rather than about what it asked for.
fn failed(check: &'static str, error: &CallError) -> Finding {
    if denied(error) {
        let mend = format!("allow {} to the daemon's role; docs/aws.md has the whole policy", error.operation);
        return bad(check, error.to_string(), mend);
    }
    unknown(check, error.to_string(), "try again; where it stays, look at the way from here to AWS")
}

/// Each action, as IAM itself judges it for the role that this process has: on a resource such as the daemon's own, since a question
/// about every resource is answered as if it were denied.
async fn permissions(clients: &Clients, settings: &Settings, identity: &Identity, region: &str) -> Vec<Finding> {
    const CHECK: &str = "permissions";
    let arn = match principal(clients, identity).await {
        Ok(arn) => arn,
        Err(error) => return vec![failed(CHECK, &error)],
    };
    let mut by_resource: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let dockerfiles = settings.build.codebuild_project.is_some();
    let actions: Vec<&str> =
        ACTIONS.iter().copied().filter(|action| dockerfiles || !action.starts_with("codebuild:")).collect();
    for action in actions.iter().copied() {
        by_resource.entry(resource(action, settings, &arn, region)).or_default().push(action);
    }
    let context = [
        ("iam:PassedToService", Some("ecs-tasks.amazonaws.com")),
        ("iam:AWSServiceName", Some("ecs.amazonaws.com")),
        ("iam:PermissionsBoundary", settings.aws.permissions_boundary.as_deref()),
    ];
    let context: Vec<(&str, &str)> = context.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let mut findings = Vec::new();
    for (resource, actions) in by_resource {
        let denied = match simulate(clients, &arn, &resource, &actions, &context).await {
            Ok(denied) => denied,
            Err(error) => return vec![failed(CHECK, &error)],
        };
        findings.extend(denied.into_iter().map(|action| {
            let found = format!("{action} on {resource} is not allowed to {arn}");
            bad(CHECK, found, format!("allow {action}; docs/aws.md has the whole policy"))
        }));
    }
    if findings.is_empty() {
        findings.push(good(CHECK, format!("{} actions are allowed to {arn}", actions.len())));
    }
    findings
}

/// Something that the action would be done to.
fn resource(action: &str, settings: &Settings, principal: &str, region: &str) -> String {
    let mut parts = principal.split(':').skip(1);
    let (partition, account) = (parts.next().unwrap_or("aws"), parts.nth(2).unwrap_or_default());
    let deployment = &settings.deployment;
    let here = |service: &str, rest: String| format!("arn:{partition}:{service}:{region}:{account}:{rest}");
    let (service, name) = action.split_once(':').unwrap_or((action, ""));
    match (service, name) {
        ("logs", "DescribeLogGroups")
        | ("ecr", "GetAuthorizationToken")
        | ("cloudwatch", "DescribeAlarms")
        | ("iam", "GetAccountAuthorizationDetails" | "GetPolicy" | "SimulatePrincipalPolicy")
        | ("application-autoscaling", "DescribeScalableTargets" | "DescribeScalingPolicies") => "*".to_owned(),
        ("logs", _) => here("logs", format!("log-group:/{deployment}/locations/doctor")),
        ("ecr", _) => here("ecr", format!("repository/{deployment}/doctor")),
        ("iam", "CreateServiceLinkedRole") => {
            format!("arn:{partition}:iam::{account}:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS")
        }
        ("iam", _) => format!("arn:{partition}:iam::{account}:role/{deployment}/{deployment}-doctor"),
        ("codebuild", _) => {
            here("codebuild", format!("project/{}", settings.build.codebuild_project.as_deref().unwrap_or_default()))
        }
        ("s3", "ListBucket") => format!("arn:{partition}:s3:::{}", settings.aws.bucket),
        ("s3", _) => {
            format!("arn:{partition}:s3:::{}/{}", settings.aws.bucket, codeloc_aws::lease::key(deployment))
        }
        ("ecs", "CreateService" | "DeleteService" | "UpdateService" | "TagResource") => {
            here("ecs", format!("service/{}/doctor-service", settings.aws.cluster))
        }
        ("application-autoscaling", _) => here("application-autoscaling", "scalable-target/doctor".to_owned()),
        ("cloudwatch", _) => {
            let cluster = &settings.aws.cluster;
            here("cloudwatch", format!("alarm:TargetTracking-service/{cluster}/doctor-service"))
        }
        _ => "*".to_owned(),
    }
}

async fn cluster(clients: &Clients, name: &str) -> Vec<Finding> {
    const CHECK: &str = "cluster";
    let found = match lookup::active_cluster(clients, name).await {
        Ok(found) => found,
        Err(error) => return vec![failed(CHECK, &error)],
    };
    let Some(cluster) = found else {
        let mend = "set aws.cluster to one that is there, or make it: aws ecs create-cluster";
        return vec![bad(CHECK, format!("there is no active ECS cluster {name}"), mend)];
    };
    let services = cluster.services;
    if services * 100 >= SERVICES * NEAR_PERCENT {
        let found = format!("{name} has {services} of {SERVICES} services");
        return vec![bad(CHECK, found, "ask AWS for a higher quota (services per cluster), or use another cluster")];
    }
    vec![good(CHECK, format!("{name} is active, with {services} of {SERVICES} services"))]
}

async fn namespace(clients: &Clients, name: &str) -> Finding {
    const CHECK: &str = "namespace";
    let found = match lookup::namespace(clients, name).await {
        Ok(found) => found,
        Err(error) => return failed(CHECK, &error),
    };
    let Some(found) = found else {
        let mend =
            "set aws.namespace to one that is there, or make it: aws servicediscovery create-private-dns-namespace";
        return bad(CHECK, format!("there is no Cloud Map namespace {name}"), mend);
    };
    match found.kind.as_deref() {
        Some("DNS_PRIVATE") => good(CHECK, name),
        kind => {
            let found = format!("{name} is of type {}", kind.unwrap_or("unknown"));
            bad(CHECK, found, "set aws.namespace to a private DNS namespace of the tasks' VPC")
        }
    }
}

/// By their form only: whether they exist would take calls that the daemon needs for nothing else.
fn network(settings: &Settings) -> Finding {
    const CHECK: &str = "network";
    let aws = &settings.aws;
    let wrong = |ids: &[String], beginning: &str| ids.iter().find(|id| !id.starts_with(beginning)).cloned();
    if let Some(id) = wrong(&aws.subnets, "subnet-") {
        return bad(CHECK, format!("`{id}` is no subnet"), "aws.subnets holds ids such as subnet-0123456789abcdef0");
    }
    if let Some(id) = wrong(&aws.security_groups, "sg-") {
        return bad(
            CHECK,
            format!("`{id}` is no security group"),
            "aws.security_groups holds ids such as sg-0123456789abcdef0",
        );
    }
    if aws.subnets.is_empty() || aws.security_groups.is_empty() {
        return bad(CHECK, "no subnets, or no security groups", "set aws.subnets and aws.security_groups");
    }
    good(
        CHECK,
        format!("{} subnets and {} security groups, by their form", aws.subnets.len(), aws.security_groups.len()),
    )
}

async fn bucket(clients: &Clients, settings: &Settings) -> Finding {
    const CHECK: &str = "bucket";
    let bucket = &settings.aws.bucket;
    if bucket.is_empty() {
        return bad(CHECK, "no bucket is set", "set aws.bucket to the platform's bucket");
    }
    let key = codeloc_aws::lease::key(&settings.deployment);
    match lookup::object_exists(clients, bucket, &key).await {
        Ok(true) => good(CHECK, format!("{bucket}, with a lease in it")),
        Ok(false) => good(CHECK, format!("{bucket}, without a lease so far")),
        Err(error) if error.is(&["NoSuchBucket"]) => bad(
            CHECK,
            format!("there is no bucket {bucket}"),
            "set aws.bucket to one that is there, or make it: aws s3 mb",
        ),
        Err(error) => failed(CHECK, &error),
    }
}

async fn execution_role(clients: &Clients, arn: &str) -> Finding {
    const CHECK: &str = "roles";
    let name = arn.rsplit('/').next().unwrap_or_default();
    if !arn.starts_with("arn:") || name.is_empty() {
        let mend = "set aws.execution_role_arn to the ARN of a role with AmazonECSTaskExecutionRolePolicy";
        return bad(CHECK, format!("`{arn}` is no ARN of a role"), mend);
    }
    let role = match lookup::role(clients, name).await {
        Ok(role) => role,
        Err(error) => return failed(CHECK, &error),
    };
    let Some(role) = role.filter(|role| role.arn == arn) else {
        let mend = "set aws.execution_role_arn to one that is there; it needs AmazonECSTaskExecutionRolePolicy";
        return bad(CHECK, format!("there is no role {arn}"), mend);
    };
    if role.trust.contains("ecs-tasks.amazonaws.com") {
        good(CHECK, format!("{name} may be assumed by ECS"))
    } else {
        let mend = "let ecs-tasks.amazonaws.com assume it: its trust policy needs that principal";
        bad(CHECK, format!("ECS may not assume {name}"), mend)
    }
}

async fn permissions_boundary(clients: &Clients, arn: &str) -> Finding {
    const CHECK: &str = "roles";
    match lookup::policy_exists(clients, arn).await {
        Ok(true) => good(CHECK, format!("{arn} is there")),
        Ok(false) => bad(
            CHECK,
            format!("there is no policy {arn}"),
            "set aws.permissions_boundary to one that is there, or leave it out",
        ),
        Err(error) => failed(CHECK, &error),
    }
}
