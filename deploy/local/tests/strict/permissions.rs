//! What ECS needs of the roles of a task to start it.

use std::sync::Arc;

use localcloud::model::images::{Image, MemoryImages};
use localcloud::model::time::Time;
use localcloud::{LocalCloud, Rules, Settings};
use serde_json::{Value, json};

use crate::harness::{Harness, TRUST, refused, text};

const ROLE: &str = "arn:aws:iam::123456789012:role/execution";
const SECRET: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:db-a1b2c3";
const PARAMETER: &str = "arn:aws:ssm:eu-central-1:123456789012:parameter/token";
const IMAGES: &str = "arn:aws:ecr:eu-central-1:123456789012:repository/team/app";
const LOG: &str = "arn:aws:logs:eu-central-1:123456789012:log-group:/app:*";

/// What a task with two secrets, an image in ECR and a log needs.
const NEEDS: [(&str, &str); 7] = [
    ("secretsmanager:GetSecretValue", SECRET),
    ("ssm:GetParameters", PARAMETER),
    ("ecr:GetAuthorizationToken", "*"),
    ("ecr:BatchGetImage", IMAGES),
    ("ecr:GetDownloadUrlForLayer", IMAGES),
    ("logs:CreateLogStream", LOG),
    ("logs:PutLogEvents", LOG),
];

fn harness() -> Harness {
    let secrets = [(SECRET, r#"{"password": "p"}"#), (PARAMETER, "t")];
    let secrets = secrets.map(|(arn, value)| (arn.to_owned(), value.to_owned()));
    let images = MemoryImages::default();
    images.put(
        "team/app",
        Image {
            digest: format!("sha256:{:064x}", 1),
            tags: vec!["v1".to_owned()],
            size_bytes: 1,
            pushed_at: Time::from_millis(0),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            parts: vec![],
        },
    );
    let rules = Rules { secrets: secrets.into(), ..Rules::default() };
    let settings = Settings { rules, images: Arc::new(images), ..Settings::default() };
    let harness = Harness { cloud: LocalCloud::start(settings) };
    harness.ecs("CreateCluster", json!({"clusterName": "main"})).unwrap();
    harness.logs("CreateLogGroup", json!({"logGroupName": "/app"})).unwrap();
    harness
}

impl Harness {
    fn allow(&self, needs: &[(&str, &str)]) {
        let statement =
            |(action, resource): &(&str, &str)| json!({"Effect": "Allow", "Action": action, "Resource": resource});
        let statements: Vec<Value> = needs.iter().map(statement).collect();
        let document = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let fields = [("RoleName", "execution"), ("PolicyName", "own"), ("PolicyDocument", document.as_str())];
        self.iam("PutRolePolicy", &fields).unwrap();
    }

    fn register(&self) -> Result<Value, String> {
        let container = json!({
            "name": "server",
            "image": "127.0.0.1:4566/team/app:v1",
            "secrets": [
                {"name": "PASSWORD", "valueFrom": format!("{SECRET}:password::")},
                {"name": "TOKEN", "valueFrom": PARAMETER},
            ],
            "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/app", "awslogs-stream-prefix": "s"}},
        });
        let definition = json!({"family": "app", "executionRoleArn": ROLE, "containerDefinitions": [container]});
        self.ecs("RegisterTaskDefinition", definition)
    }

    /// Starts a task, and returns its stop reason; nothing if it starts.
    fn stop_reason(&self) -> Option<String> {
        let run = self.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
        let arn = &run["tasks"][0]["taskArn"];
        let task = self.ecs("DescribeTasks", json!({"cluster": "main", "tasks": [arn]})).unwrap()["tasks"][0].clone();
        (task["lastStatus"] == "STOPPED").then(|| text(&task["stoppedReason"]))
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_starts_only_with_what_its_execution_role_allows() {
    let harness = harness();
    harness.create_role("execution").unwrap();
    harness.register().unwrap();
    harness.allow(&NEEDS);
    assert_eq!(harness.stop_reason(), None);
    for missing in 0..NEEDS.len() {
        let needs = [&NEEDS[..missing], &NEEDS[missing + 1..]].concat();
        harness.allow(&needs);
        let (action, _) = NEEDS[missing];
        let reason = harness.stop_reason().unwrap();
        let (start, part) = match action {
            "secretsmanager:GetSecretValue" => {
                ("ResourceInitializationError: unable to pull secrets", "from secrets manager")
            }
            "ssm:GetParameters" => ("ResourceInitializationError: unable to pull secrets", "secrets from ssm"),
            "ecr:GetAuthorizationToken" => ("ResourceInitializationError: unable to pull secrets", "ecr registry auth"),
            "ecr:BatchGetImage" | "ecr:GetDownloadUrlForLayer" => ("CannotPullContainerError: ", "403 Forbidden"),
            _ => ("ResourceInitializationError: failed to validate logger args", "log-group:/app:log-stream:s/server/"),
        };
        assert!(reason.starts_with(start) && reason.contains(part), "{action}: {reason}");
        let names_action = reason.contains(&format!("is not authorized to perform: {action}"));
        assert_eq!(names_action, !start.starts_with("CannotPull"), "{action}: {reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_managed_policy_covers_images_and_logs_but_no_secrets() {
    let harness = harness();
    harness.create_role("execution").unwrap();
    harness.register().unwrap();
    let arn = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy";
    harness.iam("AttachRolePolicy", &[("RoleName", "execution"), ("PolicyArn", arn)]).unwrap();
    assert!(harness.stop_reason().unwrap().contains("secretsmanager:GetSecretValue"));
    harness.allow(&NEEDS[..2]);
    assert_eq!(harness.stop_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_task_does_not_start_without_its_log_group() {
    let harness = harness();
    harness.create_role("execution").unwrap();
    harness.register().unwrap();
    harness.allow(&NEEDS);
    harness.logs("DeleteLogGroup", json!({"logGroupName": "/app"})).unwrap();
    let reason = harness.stop_reason().unwrap();
    assert!(reason.ends_with("ResourceNotFoundException: The specified log group does not exist: /app"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_role_starts_no_task_until_it_exists_again() {
    let harness = harness();
    harness.register().expect("localcloud accepts a role that it does not know");
    assert_eq!(harness.stop_reason(), None);
    harness.create_role("execution").unwrap();
    harness.iam("DeleteRole", &[("RoleName", "execution")]).unwrap();
    let run = harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"}));
    assert_eq!(run, refused("ClientException"));
    assert_eq!(harness.register(), refused("ClientException"));
    harness.iam("CreateRole", &[("RoleName", "execution"), ("AssumeRolePolicyDocument", TRUST)]).unwrap();
    harness.allow(&NEEDS);
    harness.register().unwrap();
    assert_eq!(harness.stop_reason(), None);
}
