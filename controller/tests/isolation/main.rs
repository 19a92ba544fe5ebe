//! Tests the IAM policies of a location with a table of requests. Two evaluators answer it: one in this crate, and an independent one that
//! needs Node.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod evaluator;
mod questions;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codeloc_core::deployment::{Address, Deployment};
use codeloc_core::resources::role;
use codeloc_crds::Location;
use evaluator::{Question, allows};
use proptest::prelude::*;
use questions::{QUESTIONS, Who};
use serde_json::{Value, json};

fn deployment() -> Deployment {
    Deployment {
        id: "codeloc".to_owned(),
        partition: "aws".to_owned(),
        account: "123456789012".to_owned(),
        region: "eu-central-1".to_owned(),
        cluster: "dagster".to_owned(),
        namespace_id: "ns-1".to_owned(),
        namespace: "dagster.internal".to_owned(),
        bucket: "platform".to_owned(),
        subnets: vec!["subnet-a".to_owned()],
        security_groups: vec!["sg-a".to_owned()],
        assign_public_ip: false,
        execution_role_arn: "arn:aws:iam::123456789012:role/execution".into(),
        permissions_boundary: None,
        log_retention_days: 30,
        image_grace_days: 7,
        run_wait_hours: 24,
        port: 4000,
        address: Address::Discovered,
        environment: [].into(),
        secrets: [].into(),
        host_platform: false,
    }
}

fn location(name: &str, more: &str) -> Location {
    let text = format!("name: '{name}'\ngit_url: https://git.test/{name}.git\nmodule: orders.definitions\n{more}");
    codeloc_crds::parse(&format!("repos/{name}/config.yml"), &text).unwrap()
}

fn policy(who: Who) -> Value {
    let grants = "access: {read: [repos/billing], write: [repos/shared/exports]}\n";
    let secrets = "secrets:\n\
        - {name: A, value_from: 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders/db-a1b2c3:password::'}\n\
        - {name: B, value_from: 'arn:aws:ssm:eu-central-1:123456789012:parameter/orders/token'}\n";
    match who {
        Who::Code => role::desired(&location("orders", ""), &role::Kept::default(), &deployment()).policy,
        Who::Granted => role::desired(&location("orders", grants), &role::Kept::default(), &deployment()).policy,
        Who::Execution => {
            role::desired_execution(&location("orders", secrets), &role::Kept::default(), &deployment()).policy
        }
    }
}

#[test]
fn the_policies_allow_exactly_the_expected_requests() {
    assert!(QUESTIONS.len() >= 30);
    for question in QUESTIONS {
        assert_eq!(allows(&policy(question.who), &question.asked()), question.allowed, "{question:?}");
    }
}

/// Path of the independent evaluator, which `make prepare` installs.
fn judge() -> Option<PathBuf> {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.local/policies/judge.mjs");
    judge.exists().then_some(judge)
}

/// The answers of the independent evaluator.
fn judged(judge: &Path, asked: &[(Value, Question)]) -> Vec<bool> {
    let mut child =
        Command::new("node").arg(judge).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node runs");
    let lines: Vec<String> = asked
        .iter()
        .map(|(policy, question)| {
            let Question { action, resource, prefix } = question;
            let context = prefix.as_ref().map_or_else(|| json!({}), |prefix| json!({"s3:prefix": prefix}));
            let account = "123456789012";
            let line = json!({"policy": policy, "action": action, "resource": resource, "account": account, "context": context});
            line.to_string()
        })
        .collect();
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line == "true").collect()
}

#[test]
fn an_independent_evaluator_agrees() {
    let Some(judge) = judge() else {
        println!(
            "skipped: .local/policies does not contain the independent evaluator; install Node and run `make prepare`"
        );
        return;
    };
    let asked: Vec<(Value, Question)> =
        QUESTIONS.iter().map(|question| (policy(question.who), question.asked())).collect();
    let answers = judged(&judge, &asked);
    assert_eq!(answers.len(), QUESTIONS.len());
    for (question, answer) in QUESTIONS.iter().zip(answers) {
        assert_eq!(answer, question.allowed, "{question:?}");
    }
}

const NAME: &str = "[a-z][a-z0-9]{0,4}(-[a-z0-9]{1,4}){0,2}";

fn object(path: &str) -> String {
    format!("arn:aws:s3:::platform/{path}")
}

proptest! {
    #[test]
    fn a_role_cannot_use_the_prefix_of_another_location(own in NAME, other in NAME, key in "[a-zA-Z0-9/_.*?$-]{0,12}") {
        prop_assume!(own != other && !["shared", "system", "temp"].contains(&own.as_str()));
        prop_assume!(other != "shared");
        let policy = role::desired(&location(&own, ""), &role::Kept::default(), &deployment()).policy;
        for action in ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] {
            let question = Question { action: action.into(), resource: object(&format!("repos/{other}/{key}")), prefix: None };
            prop_assert!(!allows(&policy, &question), "{question:?}");
            let own_object = Question { resource: object(&format!("repos/{own}/{key}")), ..question };
            prop_assert!(allows(&policy, &own_object), "{own_object:?}");
        }
        let list = |prefix: String| Question {
            action: "s3:ListBucket".into(), resource: "arn:aws:s3:::platform".into(), prefix: Some(prefix),
        };
        let (theirs, own_object) = (list(format!("repos/{other}/{key}")), list(format!("repos/{own}/{key}")));
        prop_assert!(!allows(&policy, &theirs) && allows(&policy, &own_object));
    }

    #[test]
    fn a_grant_allows_only_its_prefix(granted in NAME, other in NAME) {
        let reserved = ["shared", "system", "temp", "orders"];
        prop_assume!(granted != other && !reserved.contains(&granted.as_str()) && !reserved.contains(&other.as_str()));
        let with = location("orders", &format!("access: {{read: [repos/{granted}]}}\n"));
        let policy = role::desired(&with, &role::Kept::default(), &deployment()).policy;
        let ask = |action: &str, name: &str| Question {
            action: action.into(), resource: object(&format!("repos/{name}/assets/a")), prefix: None,
        };
        prop_assert!(allows(&policy, &ask("s3:GetObject", &granted)));
        prop_assert!(!allows(&policy, &ask("s3:PutObject", &granted)));
        prop_assert!(!allows(&policy, &ask("s3:GetObject", &other)));
    }
}
