//! The policy in `docs/aws.md` allows the AWS calls in the sources, and further actions only with a reason.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{file, read};

const PAGE: &str = "docs/aws.md";

/// Actions that AWS requires although the sources make no call of that name.
const REQUIRED_BY_OTHER_CALLS: &[&str] = &[
    // The registry protocol: codeloc reads base images and pushes layers and manifests.
    "ecr:BatchCheckLayerAvailability",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
    // The registration of a scalable target sets its tags.
    "application-autoscaling:TagResource",
    // Target tracking creates and deletes alarms (Amazon ECS developer guide, 'IAM permissions required for service auto scaling').
    "cloudwatch:DeleteAlarms",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:PutMetricAlarm",
    // The first service and the first scalable target of an account.
    "iam:CreateServiceLinkedRole",
    // A task definition contains the role of the location and the execution role.
    "iam:PassRole",
    // Without it, S3 answers 403 instead of 404 for a missing object: at the first start, codeloc could not know that the lease is free
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

/// `service:Operation` of every call in the sources: the first argument of `call`, or its constant.
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

/// All actions that the policy allows.
pub fn actions() -> BTreeSet<String> {
    let policy = policy();
    let statements = policy["Statement"].as_array().unwrap();
    let actions = statements.iter().flat_map(|statement| statement["Action"].as_array().unwrap());
    actions.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_policy_allows_exactly_the_needed_actions() {
    let mut called = BTreeSet::new();
    for sources in ["controller/src", "controller/aws/src", "controller/images/src"] {
        calls(&file(sources), &mut called);
    }
    assert!(called.contains("ecs:CreateService") && called.contains("servicediscovery:CreateService"), "{called:?}");

    let mut needed: BTreeSet<&str> = called.iter().map(String::as_str).collect();
    needed.retain(|action| !NEEDS_NO_PERMISSION.contains(action));
    needed.extend(REQUIRED_BY_OTHER_CALLS);

    let allowed = actions();
    let allowed: BTreeSet<&str> = allowed.iter().map(String::as_str).collect();

    let missing: Vec<_> = needed.difference(&allowed).collect();
    assert!(missing.is_empty(), "the policy in {PAGE} lacks {missing:?}");
    let unused: Vec<_> = allowed.difference(&needed).collect();
    assert!(unused.is_empty(), "the policy in {PAGE} allows {unused:?}, which no call needs");
}

#[test]
fn roles_are_passed_only_to_ecs_tasks() {
    let policy = policy();
    let passing: Vec<&Value> = policy["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|statement| statement["Action"].as_array().unwrap().contains(&"iam:PassRole".into()))
        .collect();
    let [passing] = passing.as_slice() else { panic!("expected one statement with iam:PassRole") };
    assert_eq!(passing["Condition"]["StringEquals"]["iam:PassedToService"], "ecs-tasks.amazonaws.com");
    let everything = passing["Resource"].as_array().unwrap().contains(&"*".into());
    assert!(!everything, "the policy allows passing roles of other owners");
}
