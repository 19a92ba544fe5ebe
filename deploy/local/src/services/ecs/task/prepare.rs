//! The checks before a task starts: ECS assumes the roles, reads the secrets, pulls the images and opens the log streams with the
//! execution role. A role that never existed here is allowed everything.
//!
//! The texts are those of 'Stopped tasks error messages' and of its pages about each error, with the reason that IAM gives.
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html>

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::Cloud;
use crate::model::ecs::task_definition::Definition;
use crate::model::iam::Role;
use crate::model::launch::{missing_image, split};
use crate::protocol::fields::Fields;
use crate::services::ecs::common::check_role;
use crate::services::logs;

/// Why ECS cannot start a task of this definition now; creates the log groups that its containers ask for.
pub fn prepare(cloud: &mut Cloud, definition: &Definition, task_id: &str) -> Result<(), String> {
    for role in ["executionRoleArn", "taskRoleArn"] {
        check_role(cloud, definition.body.text(role)).map_err(|error| error.message)?;
    }
    for options in definition.containers().iter().filter_map(awslogs) {
        if options.text("awslogs-create-group") == Some("true") {
            logs::ensure_group(cloud, options.text("awslogs-group").unwrap_or_default());
        }
    }
    check_resources(cloud, definition, task_id)
}

/// Why ECS could start no task of this definition, apart from the age of its roles. Nothing if it could.
pub fn obstacle(cloud: &Cloud, definition: &Definition) -> Option<String> {
    for field in ["executionRoleArn", "taskRoleArn"] {
        let arn = definition.body.text(field).unwrap_or_default();
        if cloud.iam.deleted.contains(arn) {
            return Some(format!("the role {arn} does not exist"));
        }
    }
    check_resources(cloud, definition, "any").err()
}

fn check_resources(cloud: &Cloud, definition: &Definition, task_id: &str) -> Result<(), String> {
    let role = definition.body.text("executionRoleArn").and_then(|arn| cloud.iam.by_arn(arn));
    let execution = Execution { cloud, role, task_id };
    for container in definition.containers() {
        execution.read_secrets(container)?;
        execution.pull(container.text("image").unwrap_or_default())?;
        if let Some(options) = awslogs(container) {
            let container = container.text("name").unwrap_or_default();
            execution
                .open_log(options.text("awslogs-group").unwrap_or_default(), &stream(options, container, task_id))?;
        }
    }
    Ok(())
}

/// The start of one task with its execution role.
struct Execution<'a> {
    cloud: &'a Cloud,
    /// Absent if localcloud does not know the role.
    role: Option<&'a Role>,
    task_id: &'a str,
}

impl Execution<'_> {
    /// The refusal of an action by IAM, in the words of AWS.
    fn check(&self, action: &str, resource: &str) -> Result<(), String> {
        let Some(role) = self.role.filter(|role| !role.allows(action, resource)) else { return Ok(()) };
        let name = role.arn.rsplit('/').next().unwrap_or_default();
        let (account, session) = (&self.cloud.rules.account, self.task_id);
        Err(format!(
            "AccessDeniedException: User: arn:aws:sts::{account}:assumed-role/{name}/{session} is not authorized to perform: \
             {action} on resource: {resource} because no identity-based policy allows the {action} action"
        ))
    }

    fn read_secrets(&self, container: &Value) -> Result<(), String> {
        for pair in container.items("secrets") {
            let from = pair.text("valueFrom").unwrap_or_default();
            let arn = secret_arn(from);
            let parameter = from.split(':').nth(2) == Some("ssm");
            let action = if parameter { "ssm:GetParameters" } else { "secretsmanager:GetSecretValue" };
            self.check(action, arn).map_err(|why| {
                let retrieval = if parameter {
                    "unable to retrieve secrets from ssm: service call has been retried 1 time(s)".to_owned()
                } else {
                    format!(
                        "unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret \
                         {arn} from secrets manager"
                    )
                };
                initialization(&format!("{retrieval}: {why}"))
            })?;
        }
        secrets(container, &self.cloud.rules.secrets).map(drop)
    }

    /// Images of other registries are not checked.
    fn pull(&self, image: &str) -> Result<(), String> {
        let registry = self.cloud.rules.registry.as_str();
        if !image.strip_prefix(registry).is_some_and(|rest| rest.starts_with('/')) {
            return Ok(());
        }
        let (repository, reference) = split(image);
        self.check("ecr:GetAuthorizationToken", "*").map_err(|why| {
            initialization(&format!(
                "unable to retrieve ecr registry auth: service call has been retried 1 time(s): {why}"
            ))
        })?;
        let arn = self.cloud.arn("ecr", &format!("repository/{repository}"));
        if ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"].iter().any(|action| self.check(action, &arn).is_err()) {
            return Err(format!(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {image}: pulling \
                 from host {registry} failed with status code [manifests {reference}]: 403 Forbidden"
            ));
        }
        if !self.cloud.images.holds(repository, reference) {
            return Err(missing_image(image));
        }
        Ok(())
    }

    fn open_log(&self, group: &str, stream: &str) -> Result<(), String> {
        let invalid = |why: &str| {
            format!(
                "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: \
                 failed to create Cloudwatch log stream: {why}"
            )
        };
        let arn = self.cloud.arn("logs", &format!("log-group:{group}:log-stream:{stream}"));
        for action in ["logs:CreateLogStream", "logs:PutLogEvents"] {
            self.check(action, &arn).map_err(|why| invalid(&why))?;
        }
        if !self.cloud.logs.groups.contains_key(group) {
            return Err(invalid(&format!(
                "ResourceNotFoundException: The specified log group does not exist: {group}"
            )));
        }
        Ok(())
    }
}

/// The log options of a container that writes to `CloudWatch`.
pub(super) fn awslogs(container: &Value) -> Option<&Value> {
    let log = container.get("logConfiguration")?;
    log.get("options").filter(|_| log.text("logDriver") == Some("awslogs"))
}

/// The name of its log stream.
pub(super) fn stream(options: &Value, container: &str, task: &str) -> String {
    let prefix = options.text("awslogs-stream-prefix").unwrap_or("ecs");
    format!("{prefix}/{container}/{task}")
}

fn initialization(why: &str) -> String {
    format!(
        "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: {why}"
    )
}

/// The variables from secrets, or the reason why one is not available.
pub(super) fn secrets(container: &Value, known: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    let value = |pair: &Value| {
        let (name, from) = (pair.text("name")?.to_owned(), pair.text("valueFrom").unwrap_or_default());
        Some((name, secret(from, known)?))
    };
    let unknown = |pair: &Value| {
        initialization(&format!(
            "unable to retrieve secret: service call has been retried 1 time(s): failed to fetch secret {}: \
             ResourceNotFoundException",
            pair.text("valueFrom").unwrap_or_default()
        ))
    };
    container.items("secrets").iter().map(|pair| value(pair).ok_or_else(|| unknown(pair))).collect()
}

/// The value of a secret, or of one key of its JSON: `ARN:KEY:STAGE:VERSION`.
fn secret(from: &str, known: &BTreeMap<String, String>) -> Option<String> {
    if let Some(value) = known.get(from) {
        return Some(value.clone());
    }
    let mut parts = from.rsplitn(4, ':').skip(2);
    let (key, arn) = (parts.next()?, parts.next()?);
    let document: Value = serde_json::from_str(known.get(arn)?).ok()?;
    document.text(key).map(str::to_owned)
}

/// The ARN in front of `:KEY:STAGE:VERSION`. A secret's ARN has seven parts.
fn secret_arn(from: &str) -> &str {
    let end = from.match_indices(':').nth(6).filter(|_| from.contains(":secretsmanager:"));
    end.map_or(from, |(end, _)| &from[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_give_variables_and_missing_secrets_stop_the_task() {
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:db-a1b2c3";
        let known = BTreeMap::from([(arn.to_owned(), r#"{"password": "hunter2"}"#.to_owned())]);
        let container = |from: &str| serde_json::json!({"secrets": [{"name": "PASSWORD", "valueFrom": from}]});
        let one_key = secrets(&container(&format!("{arn}:password::")), &known);
        assert_eq!(one_key.unwrap()["PASSWORD"], "hunter2");
        assert_eq!(secrets(&container(arn), &known).unwrap()["PASSWORD"], known[arn]);
        for missing in [format!("{arn}:user::"), arn.replace("db-", "other-")] {
            let why = secrets(&container(&missing), &known).unwrap_err();
            assert!(why.starts_with("ResourceInitializationError") && why.contains(&missing), "{why}");
        }
    }

    #[test]
    fn permission_is_asked_for_a_secret_without_its_key() {
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:db-a1b2c3";
        assert_eq!([secret_arn(arn), secret_arn(&format!("{arn}:password::"))], [arn, arn]);
        let parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/token";
        assert_eq!(secret_arn(parameter), parameter);
    }
}
