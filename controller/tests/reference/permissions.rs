//! The policy in `docs/aws.md` allows what the sources call, and names nothing else without a reason.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{file, read};

const PAGE: &str = "docs/aws.md";

/// Actions that AWS asks for although no call of that name is made.
const BESIDE_THE_CALLS: &[&str] = &[
    // The registry's own protocol: a base image is read, layers and manifests are pushed.
    "ecr:BatchCheckLayerAvailability",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
    // Tags of a new scalable target go with its registration.
    "application-autoscaling:TagResource",
    // Target tracking makes and removes alarms (Amazon ECS developer guide, 'IAM permissions required for service auto scaling').
    "cloudwatch:DeleteAlarms",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:PutMetricAlarm",
    // The first service and the first scalable target of an account.
    "iam:CreateServiceLinkedRole",
    // A task definition names the location's role and the execution role.
    "iam:PassRole",
    // Without it S3 answers 403, not 404, for an object that is not there: a first start could not tell that nobody has the lease
    // (Amazon S3 API reference, GetObject, 'Permissions').
    "s3:ListBucket",
    // Deregistering an instance removes its record and its health check (AWS Cloud Map developer guide, 'Using
    // identity-based policies').
    "route53:ChangeResourceRecordSets",
    "route53:DeleteHealthCheck",
    "route53:GetHealthCheck",
    "route53:GetHostedZone",
    "route53:ListHostedZonesByName",
    "route53:UpdateHealthCheck",
];

/// Always allowed.
const NEEDS_NO_PERMISSION: &[&str] = &["sts:GetCallerIdentity"];

fn policy() -> Value {
    let page = read(PAGE);
    let block = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    serde_json::from_str(block.expect("a policy in the page")).unwrap()
}

/// `service:Operation` of every call in the sources: the first argument of `call`, or the constant that stands for it.
fn calls(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            calls(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            for before in ["call(", "OPERATION: &str ="] {
                let arguments = source.split(before).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
                let literals = arguments.filter_map(|rest| rest.split('"').next());
                found.extend(literals.filter(|literal| literal.contains(':')).map(str::to_owned));
            }
        }
    }
}

/// Every action that the policy allows.
pub fn actions() -> BTreeSet<String> {
    let policy = policy();
    let statements = policy["Statement"].as_array().unwrap();
    let actions = statements.iter().flat_map(|statement| statement["Action"].as_array().unwrap());
    actions.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_policy_allows_what_is_called_and_nothing_else_without_a_reason() {
    let mut called = BTreeSet::new();
    calls(&file("controller/src"), &mut called);
    assert!(called.contains("ecs:CreateService") && called.contains("servicediscovery:CreateService"), "{called:?}");

    let mut wanted: BTreeSet<&str> = called.iter().map(String::as_str).collect();
    wanted.retain(|action| !NEEDS_NO_PERMISSION.contains(action));
    wanted.extend(BESIDE_THE_CALLS);

    let allowed = actions();
    let allowed: BTreeSet<&str> = allowed.iter().map(String::as_str).collect();

    let missing: Vec<_> = wanted.difference(&allowed).collect();
    assert!(missing.is_empty(), "the policy in {PAGE} lacks {missing:?}");
    let idle: Vec<_> = allowed.difference(&wanted).collect();
    assert!(idle.is_empty(), "the policy in {PAGE} allows {idle:?}, which nothing calls");
}

#[test]
fn roles_are_passed_to_ecs_tasks_only() {
    let policy = policy();
    let passing: Vec<&Value> = policy["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|statement| statement["Action"].as_array().unwrap().contains(&"iam:PassRole".into()))
        .collect();
    let [passing] = passing.as_slice() else { panic!("one statement passes roles") };
    assert_eq!(passing["Condition"]["StringEquals"]["iam:PassedToService"], "ecs-tasks.amazonaws.com");
    let everything = passing["Resource"].as_array().unwrap().contains(&"*".into());
    assert!(!everything, "roles of others can be passed");
}
