//! Checks of the AWS infrastructure and of the role.

use std::collections::BTreeMap;

use codeloc_aws::lookup::{self, Identity};
use codeloc_aws::permissions::{principal, simulate};
use codeloc_aws::{CallError, Class, Clients, SdkConfig};
use codeloc_core::names;

use super::permissions::ACTIONS;
use super::{Finding, bad, good, unknown};
use crate::settings::Settings;

/// Quota of services per cluster (Amazon ECS service quotas), and the share from which codeloc warns.
const SERVICES: i32 = 5000;
const WARNING_PERCENT: i32 = 80;

pub async fn examine(settings: &Settings, config: &SdkConfig) -> Vec<Finding> {
    let clients = Clients::new(config, &std::sync::Arc::default());
    let Some(region) = codeloc_aws::region(config) else {
        let fix = "set the setting aws.region, or the variable AWS_REGION";
        return vec![bad("credentials", "no AWS region is set", fix)];
    };
    let identity = match lookup::identity(&clients).await {
        Ok(identity) => identity,
        Err(error) => {
            let fix = "on AWS, give the daemon's task a role; on your machine, set AWS_PROFILE, and run `aws sso login` or \
                       `aws login` if the session has expired; check aws.region and aws.endpoint_url";
            return vec![bad("credentials", error.to_string(), fix)];
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
    if let Some(project) = &settings.build.codebuild_project {
        findings.push(codebuild_project(&clients, project).await);
    }
    findings
}

fn denied(error: &CallError) -> bool {
    error.class == Class::Terminal && (error.code.contains("AccessDenied") || error.code.contains("Unauthorized"))
}

/// The finding for a failed call.
fn failed(check: &'static str, error: &CallError) -> Finding {
    if denied(error) {
        let fix = format!("allow {} for the daemon's role; docs/aws.md contains the complete policy", error.operation);
        return bad(check, error.to_string(), fix);
    }
    unknown(check, error.to_string(), "run this command again; if the error persists, check the network path to AWS")
}

/// Lets IAM simulate each action for the role of this process, on a resource like those of the daemon: a simulation on all resources
/// would report allowed actions as denied.
async fn permissions(clients: &Clients, settings: &Settings, identity: &Identity, region: &str) -> Vec<Finding> {
    const CHECK: &str = "permissions";
    let arn = match principal(clients, identity).await {
        Ok(arn) => arn,
        Err(error) => return vec![failed(CHECK, &error)],
    };
    let mut by_resource: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let build = &settings.build;
    let is_needed = |action: &&str| match *action {
        "ecs:RunTask" | "ecs:StopTask" => build.isolated_image.is_some(),
        action => build.codebuild_project.is_some() || !action.starts_with("codebuild:"),
    };
    let actions: Vec<&str> = ACTIONS.iter().copied().filter(is_needed).collect();
    for action in actions.iter().copied() {
        by_resource.entry(resource(action, settings, &arn, region)).or_default().push(action);
    }
    // The only role that codeloc passes and did not create.
    by_resource.entry(settings.aws.execution_role_arn.clone()).or_default().push("iam:PassRole");
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
            let found = format!("{arn} is not allowed to {action} on {resource}");
            bad(CHECK, found, format!("allow {action}; docs/aws.md contains the complete policy"))
        }));
    }
    if findings.is_empty() {
        findings.push(good(CHECK, format!("{arn} is allowed to perform all {} actions", actions.len())));
    }
    findings
}

/// An example resource for the action.
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
        ("ecs", "RunTask") => here("ecs", format!("task-definition/{}:1", names::build_family(deployment))),
        ("ecs", "StopTask") => here("ecs", format!("task/{}/doctor", settings.aws.cluster)),
        ("ecs", "CreateService" | "DeleteService" | "UpdateService" | "TagResource" | "UntagResource") => {
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
        let fix = "set aws.cluster to an existing cluster, or create it: aws ecs create-cluster";
        return vec![bad(CHECK, format!("there is no active ECS cluster {name}"), fix)];
    };
    let services = cluster.services;
    if services * 100 >= SERVICES * WARNING_PERCENT {
        let found = format!("{name} has {services} of {SERVICES} services");
        return vec![bad(CHECK, found, "request a higher quota for services per cluster, or use another cluster")];
    }
    vec![good(CHECK, format!("{name} is active and has {services} of {SERVICES} services"))]
}

async fn namespace(clients: &Clients, name: &str) -> Finding {
    const CHECK: &str = "namespace";
    let found = match lookup::namespace(clients, name).await {
        Ok(found) => found,
        Err(error) => return failed(CHECK, &error),
    };
    let Some(found) = found else {
        let fix = "set aws.namespace to an existing namespace, or create it: aws servicediscovery create-private-dns-namespace";
        return bad(CHECK, format!("there is no Cloud Map namespace {name}"), fix);
    };
    match found.kind.as_deref() {
        Some("DNS_PRIVATE") => good(CHECK, name),
        kind => {
            let found = format!("{name} is of type {}", kind.unwrap_or("unknown"));
            bad(CHECK, found, "set aws.namespace to a private DNS namespace of the tasks' VPC")
        }
    }
}

/// Checks only the form of ids: to check their existence, the daemon would need more permissions.
fn network(settings: &Settings) -> Finding {
    const CHECK: &str = "network";
    let aws = &settings.aws;
    let wrong = |ids: &[String], beginning: &str| ids.iter().find(|id| !id.starts_with(beginning)).cloned();
    if let Some(id) = wrong(&aws.subnets, "subnet-") {
        return bad(
            CHECK,
            format!("`{id}` is not the id of a subnet"),
            "set aws.subnets to ids such as subnet-0123456789abcdef0",
        );
    }
    if let Some(id) = wrong(&aws.security_groups, "sg-") {
        return bad(
            CHECK,
            format!("`{id}` is not the id of a security group"),
            "set aws.security_groups to ids such as sg-0123456789abcdef0",
        );
    }
    if aws.subnets.is_empty() || aws.security_groups.is_empty() {
        return bad(
            CHECK,
            "aws.subnets or aws.security_groups is empty",
            "set aws.subnets and aws.security_groups to at least one id each",
        );
    }
    good(
        CHECK,
        format!(
            "the ids of subnets ({}) and security groups ({}) have a valid format",
            aws.subnets.len(),
            aws.security_groups.len()
        ),
    )
}

async fn bucket(clients: &Clients, settings: &Settings) -> Finding {
    const CHECK: &str = "bucket";
    let bucket = &settings.aws.bucket;
    if bucket.is_empty() {
        return bad(CHECK, "aws.bucket is not set", "set it to the name of the shared bucket");
    }
    let key = codeloc_aws::lease::key(&settings.deployment);
    match lookup::object_exists(clients, bucket, &key).await {
        Ok(true) => good(CHECK, format!("{bucket} contains the lease")),
        Ok(false) => good(CHECK, format!("{bucket} does not contain a lease yet")),
        Err(error) if error.is(&["NoSuchBucket"]) => bad(
            CHECK,
            format!("there is no bucket {bucket}"),
            "set aws.bucket to an existing bucket, or create it: aws s3 mb",
        ),
        Err(error) => failed(CHECK, &error),
    }
}

async fn execution_role(clients: &Clients, arn: &str) -> Finding {
    const CHECK: &str = "roles";
    let name = arn.rsplit('/').next().unwrap_or_default();
    if !arn.starts_with("arn:") || name.is_empty() {
        let fix = "set aws.execution_role_arn to the ARN of a role with AmazonECSTaskExecutionRolePolicy";
        return bad(CHECK, format!("`{arn}` is not the ARN of a role"), fix);
    }
    let role = match lookup::role(clients, name).await {
        Ok(role) => role,
        Err(error) => return failed(CHECK, &error),
    };
    let Some(role) = role.filter(|role| role.arn == arn) else {
        let fix = "set aws.execution_role_arn to an existing role with AmazonECSTaskExecutionRolePolicy";
        return bad(CHECK, format!("there is no role {arn}"), fix);
    };
    if role.trust.contains("ecs-tasks.amazonaws.com") {
        good(CHECK, format!("ECS can assume {name}"))
    } else {
        let fix = "add the principal ecs-tasks.amazonaws.com to the trust policy of the role";
        bad(CHECK, format!("ECS cannot assume {name}"), fix)
    }
}

async fn codebuild_project(clients: &Clients, name: &str) -> Finding {
    const CHECK: &str = "codebuild";
    match lookup::codebuild_project_exists(clients, name).await {
        Ok(true) => good(CHECK, format!("the project {name} exists")),
        Ok(false) => bad(
            CHECK,
            format!("there is no CodeBuild project {name}"),
            "set build.codebuild_project to an existing project; docs/aws.md says what it needs",
        ),
        Err(error) => failed(CHECK, &error),
    }
}

async fn permissions_boundary(clients: &Clients, arn: &str) -> Finding {
    const CHECK: &str = "roles";
    match lookup::policy_exists(clients, &arn.into()).await {
        Ok(true) => good(CHECK, format!("{arn} exists")),
        Ok(false) => bad(
            CHECK,
            format!("there is no policy {arn}"),
            "set aws.permissions_boundary to an existing policy, or remove the setting",
        ),
        Err(error) => failed(CHECK, &error),
    }
}
