//! The policy documents of a role, and when two of them are equivalent.

use std::collections::BTreeSet;

use codeloc_crds::Location;
use serde::Serialize;
use serde_json::{Value, json};

use crate::arns;
use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;
use crate::resources::task_spec::{self, Content};

/// Only ECS tasks of this account may assume the role. The conditions prevent the confused deputy problem (ECS developer guide, 'Task IAM
/// role').
pub fn trust(deployment: &Deployment) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": deployment.account},
                "ArnLike": {"aws:SourceArn": arns::all_of_ecs(deployment)},
            },
        }],
    })
}

/// What registered definitions need although the config does not name it any more: the code that serves, and runs that start or run, must
/// not lose it before the new revision replaces them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub prefixes: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub images: BTreeSet<String>,
}

impl Kept {
    pub fn add(&mut self, content: &Content) {
        self.prefixes.extend(content.own_prefix().map(str::to_owned));
        self.secrets.extend(content.secrets.values().cloned());
        self.images.insert(content.image.clone());
    }
}

/// The prefix that every location may read.
const SHARED: &str = "repos/shared";

/// The permissions of a location's code servers and runs: to read and write its own prefix and each prefix that the config grants for
/// writing, to read `repos/shared/` and each prefix that the config grants for reading, and to list those.
///
/// The slash before `*` matters: without it, `orders` could read `orders-2`.
pub fn access(location: &Location, kept: &Kept, deployment: &Deployment) -> Value {
    let bucket = arns::bucket(deployment);
    let own = [location.s3_prefix.as_str()];
    let mut written: Vec<&str> = own.into_iter().chain(location.access.write.iter().map(String::as_str)).collect();
    let kept = kept.prefixes.iter().map(String::as_str).filter(|prefix| !written.contains(prefix));
    written.extend(kept.collect::<Vec<_>>());
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

/// The permissions of ECS to start the tasks of a location with secrets: to pull its image, write its log, and read exactly those secrets.
/// The code in the task never has this role.
pub fn execution(location: &Location, kept: &Kept, deployment: &Deployment) -> Value {
    let group = arns::log_group(&names::log_group(&deployment.id, &location.name), deployment);
    let mut statements = vec![
        json!({"Sid": "LogIn", "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}),
        json!({
            "Sid": "Log",
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": format!("{group}:*"),
        }),
    ];
    let current = match &location.image {
        Some(image) => repository(image, deployment),
        None => Some(arns::image_repository(location, deployment)),
    };
    let images: BTreeSet<Arn> =
        kept.images.iter().filter_map(|image| repository(image, deployment)).chain(current).collect();
    if !images.is_empty() {
        statements.push(json!({
            "Sid": "Pull",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": images,
        }));
    }
    let current = task_spec::secrets(location, deployment);
    let arns_of = |service: &str| -> BTreeSet<String> {
        let of_service = |arn: &&String| arn.split(':').nth(2) == Some(service);
        current.values().chain(&kept.secrets).filter(of_service).map(|arn| base_arn(arn)).collect()
    };
    for (sid, service, action) in
        [("Secrets", "secretsmanager", "secretsmanager:GetSecretValue"), ("Parameters", "ssm", "ssm:GetParameters")]
    {
        let arns = arns_of(service);
        if !arns.is_empty() {
            statements.push(json!({"Sid": sid, "Effect": "Allow", "Action": action, "Resource": arns}));
        }
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// The ARN of the image's repository, if it is in ECR.
fn repository(image: &str, deployment: &Deployment) -> Option<Arn> {
    // ACCOUNT.dkr.ecr.REGION.amazonaws.com/PATH@sha256:…, or PATH:TAG
    let (host, path) = image.split_once('/')?;
    let mut parts = host.split('.');
    let (account, "dkr", "ecr", region) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?) else {
        return None;
    };
    let path = path.split(['@', ':']).next().unwrap_or(path);
    Some(arns::image_repository_in(region, account, path, deployment))
}

/// A secret's ARN without the key, stage and version that ECS accepts after it.
fn base_arn(arn: &str) -> String {
    let parts = if arn.contains(":secretsmanager:") { 7 } else { 6 };
    arn.splitn(parts + 1, ':').take(parts).collect::<Vec<_>>().join(":")
}

/// A document as IAM returns it. codeloc keeps thousands of them, and the text takes a fifth of the memory of the parsed form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Document(String);

impl Document {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it is equivalent to the desired document. IAM usually returns the exact text, which avoids parsing. Text that is not JSON
    /// matches nothing.
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

/// IAM may return a list of one as its element, and does not keep the order of lists.
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
    fn a_list_of_one_equals_its_element() {
        let list = json!({"Statement": [{"Action": ["s3:GetObject"], "Effect": "Allow"}]});
        let single = json!({"Statement": {"Effect": "Allow", "Action": "s3:GetObject"}});
        assert!(equivalent(&list, &single));
    }

    #[test]
    fn text_that_is_not_json_matches_nothing() {
        assert!(!Document::new("{").matches(&json!({})));
        assert!(Document::new("{ }").matches(&json!({})));
    }

    #[test]
    fn an_additional_action_is_a_difference() {
        assert!(!equivalent(&json!({"Action": ["a", "b"]}), &json!({"Action": ["a"]})));
    }

    #[test]
    fn a_location_writes_only_below_its_own_and_granted_prefixes() {
        use crate::fixtures::{deployment, location};
        let mut location = location(512, 1, None);
        location.access.read = vec!["repos/stock".to_owned()];
        location.access.write = vec!["exports".to_owned()];
        let policy = access(&location, &Kept::default(), &deployment());
        let statement = |sid: &str| {
            let statements = policy["Statement"].as_array().unwrap();
            statements.iter().find(|statement| statement["Sid"] == sid).unwrap().clone()
        };
        let written = ["arn:aws:s3:::platform/repos/orders/*", "arn:aws:s3:::platform/exports/*"];
        assert_eq!(statement("ReadAndWrite")["Resource"], json!(written));
        let read = ["arn:aws:s3:::platform/repos/shared/*", "arn:aws:s3:::platform/repos/stock/*"];
        assert_eq!(statement("Read")["Resource"], json!(read));
    }

    #[test]
    fn the_images_of_kept_definitions_can_still_be_pulled() {
        use crate::fixtures::{deployment, location};
        let mut kept = Kept::default();
        kept.images.insert("123456789012.dkr.ecr.eu-central-1.amazonaws.com/other@sha256:11".to_owned());
        let policy = execution(&location(512, 1, None), &kept, &deployment());
        let statements = policy["Statement"].as_array().unwrap();
        let pull = statements.iter().find(|statement| statement["Sid"] == "Pull").unwrap();
        let arn = |name: &str| format!("arn:aws:ecr:eu-central-1:123456789012:repository/{name}");
        assert_eq!(pull["Resource"], json!([arn("codeloc/orders"), arn("other")]));
    }

    #[test]
    fn the_execution_role_reads_exactly_the_secrets_of_the_location() {
        use crate::fixtures::{deployment, location};
        let mut location = location(512, 1, None);
        let secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-abc";
        location.secrets = [("TOKEN".to_owned(), format!("{secret}:key::"))].into();
        let policy = execution(&location, &Kept::default(), &deployment()).to_string();
        assert!(policy.contains(&format!("[\"{secret}\"]")), "{policy}");
        assert!(!policy.contains("ssm:GetParameters"), "{policy}");
    }

    #[test]
    fn only_an_image_in_ecr_has_a_repository_to_pull_from() {
        use crate::fixtures::{deployment, location};
        let mut location = location(512, 1, None);
        let pulls = |location: &Location| {
            let policy = execution(location, &Kept::default(), &deployment());
            let statements = policy["Statement"].as_array().unwrap();
            statements.iter().find(|one| one["Sid"] == "Pull").map(|one| one["Resource"].clone())
        };
        let own = "arn:aws:ecr:eu-central-1:123456789012:repository/codeloc/orders";
        assert_eq!(pulls(&location).unwrap(), json!([own]));
        location.image = Some("111122223333.dkr.ecr.eu-west-1.amazonaws.com/team/app@sha256:11".to_owned());
        let given = "arn:aws:ecr:eu-west-1:111122223333:repository/team/app";
        assert_eq!(pulls(&location).unwrap(), json!([given]));
        location.image = Some("ghcr.io/acme/app:v1".to_owned());
        assert_eq!(pulls(&location), None);
    }
}
