//! The policy documents of a role, and when two of them mean the same.

use std::collections::BTreeSet;

use codeloc_crds::Location;
use serde::Serialize;
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::names;
use crate::resources::task_definition;

/// ECS tasks of this account may take the role, and nobody else. The conditions are AWS's guard against the confused
/// deputy (ECS developer guide, 'Task IAM role').
pub fn trust(deployment: &Deployment) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": deployment.account},
                "ArnLike": {"aws:SourceArn": format!("arn:{}:ecs:{}:{}:*", deployment.partition, deployment.region, deployment.account)},
            },
        }],
    })
}

/// What everybody may read.
const SHARED: &str = "repos/shared";

/// What the code of a location may do, in its code server and in its runs: its own prefix and each that is granted for writing, read and
/// write; `repos/shared/` and each that is granted for reading, read; and listing those. Nothing else.
///
/// The slash before `*` matters: without it `orders` reads `orders-2`.
pub fn access(location: &Location, deployment: &Deployment) -> Value {
    let bucket = format!("arn:{}:s3:::{}", deployment.partition, deployment.bucket);
    let own = [location.s3_prefix.as_str()];
    let written: Vec<&str> = own.into_iter().chain(location.access.write.iter().map(String::as_str)).collect();
    let read: Vec<&str> = [SHARED].into_iter().chain(location.access.read.iter().map(String::as_str)).collect();
    let objects =
        |prefixes: &[&str]| -> Vec<String> { prefixes.iter().map(|prefix| format!("{bucket}/{prefix}/*")).collect() };
    let listed: Vec<String> = written.iter().chain(&read).map(|prefix| format!("{prefix}/*")).collect();
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadAndWrite",
                "Effect": "Allow",
                "Action": [
                    "s3:AbortMultipartUpload",
                    "s3:DeleteObject",
                    "s3:GetObject",
                    "s3:ListMultipartUploadParts",
                    "s3:PutObject",
                ],
                "Resource": objects(&written),
            },
            {
                "Sid": "Read",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": objects(&read),
            },
            {
                "Sid": "List",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": bucket,
                "Condition": {"StringLike": {"s3:prefix": listed}},
            },
        ],
    })
}

/// What ECS may do to start a location's tasks, where these need secrets: pull its image, write its log, and read exactly those secrets.
/// The code in the task never has this role.
pub fn execution(location: &Location, deployment: &Deployment) -> Value {
    let Deployment { partition, region, account, .. } = deployment;
    let name = location.name.as_str();
    let group = names::log_group(&deployment.id, name);
    let mut statements = vec![
        json!({"Sid": "LogIn", "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}),
        json!({
            "Sid": "Log",
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": format!("arn:{partition}:logs:{region}:{account}:log-group:{group}:*"),
        }),
    ];
    if let Some(images) = images(location, deployment) {
        statements.push(json!({
            "Sid": "Pull",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": images,
        }));
    }
    let secrets = task_definition::secrets(location, deployment);
    let named = |service: &str| -> BTreeSet<String> {
        let of_service = |arn: &&String| arn.split(':').nth(2) == Some(service);
        secrets.values().filter(of_service).map(|arn| whole(arn)).collect()
    };
    for (sid, service, action) in
        [("Secrets", "secretsmanager", "secretsmanager:GetSecretValue"), ("Parameters", "ssm", "ssm:GetParameters")]
    {
        let arns = named(service);
        if !arns.is_empty() {
            statements.push(json!({"Sid": sid, "Effect": "Allow", "Action": action, "Resource": arns}));
        }
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// The ARN of the image repository that tasks pull from; none where that is not in ECR.
fn images(location: &Location, deployment: &Deployment) -> Option<String> {
    let Some(image) = &location.image else {
        let Deployment { partition, region, account, id, .. } = deployment;
        let own = names::image_repository(id, location.name.as_str());
        return Some(format!("arn:{partition}:ecr:{region}:{account}:repository/{own}"));
    };
    // ACCOUNT.dkr.ecr.REGION.amazonaws.com/PATH@sha256:…, or PATH:TAG
    let (host, path) = image.split_once('/')?;
    let mut parts = host.split('.');
    let (account, "dkr", "ecr", region) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?) else {
        return None;
    };
    let path = path.split(['@', ':']).next().unwrap_or(path);
    Some(format!("arn:{}:ecr:{region}:{account}:repository/{path}", deployment.partition))
}

/// A secret's ARN without the key, stage and version that ECS takes behind it.
fn whole(arn: &str) -> String {
    let parts = if arn.contains(":secretsmanager:") { 7 } else { 6 };
    arn.splitn(parts + 1, ':').take(parts).collect::<Vec<_>>().join(":")
}

/// A document as IAM gave it back: its text, since that is a fifth of what it takes to hold it parsed, and a thousand are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Document(String);

impl Document {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it says what is wanted. IAM nearly always gives back to the letter what it was sent. One that is no JSON says nothing
    /// that is wanted.
    pub fn matches(&self, desired: &Value) -> bool {
        let sent = desired.to_string();
        self.0 == sent || serde_json::from_str(&self.0).is_ok_and(|observed: Value| equivalent(&observed, desired))
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        Self(value.to_string())
    }
}

/// IAM may give a list of one back as its single element, and keeps no order in lists.
fn equivalent(left: &Value, right: &Value) -> bool {
    normalise(left) == normalise(right)
}

fn normalise(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.len() == 1 => normalise(&items[0]),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(normalise).collect();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), normalise(value))).collect();
            sorted.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(sorted.into_iter().collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_one_means_the_same_as_its_element() {
        let list = json!({"Statement": [{"Action": ["s3:GetObject"], "Effect": "Allow"}]});
        let single = json!({"Statement": {"Effect": "Allow", "Action": "s3:GetObject"}});
        assert!(equivalent(&list, &single));
    }

    #[test]
    fn a_document_that_is_no_json_says_nothing_that_is_wanted() {
        assert!(!Document::new("{").matches(&json!({})));
        assert!(Document::new("{ }").matches(&json!({})));
    }

    #[test]
    fn a_further_action_is_a_difference() {
        assert!(!equivalent(&json!({"Action": ["a", "b"]}), &json!({"Action": ["a"]})));
    }
}
