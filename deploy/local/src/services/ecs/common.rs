//! Helpers that several calls of ECS share.

use serde_json::Value;

use crate::model::Cloud;
use crate::model::ecs::Cluster;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::fields::Fields;
use crate::protocol::paging::{Limits, page};

pub const PAGE: Limits = Limits { default: 100, max: 100 };

/// The cluster that `cluster` names, by name or ARN; the default is `default`.
pub fn cluster<'a>(cloud: &'a Cloud, input: &Value) -> Result<&'a Cluster, ApiError> {
    let id = input.text("cluster").unwrap_or("default");
    let missing = || ApiError::new("ClusterNotFoundException", "Cluster not found.");
    cloud.ecs.clusters.get(tail(id)).ok_or_else(missing)
}

/// Whether a text is a valid name of a cluster, service or family.
pub fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=255).contains(&name.len()) && name.chars().all(legal)
}

pub fn includes(input: &Value, what: &str) -> bool {
    input.texts("include").contains(&what)
}

/// A page of ARNs or names in the field `list`.
pub fn arns(input: &Value, list: &str, all: Vec<(String, Value)>, limits: Limits) -> Reply {
    let page = page(all, input.text("nextToken"), input.number("maxResults"), limits)?;
    Ok(page.document(list, "nextToken"))
}

/// Refuses a role that ECS cannot assume because of its trust policy or its age, and a deleted one. A role that never existed here
/// is accepted.
pub fn check_role(cloud: &Cloud, arn: Option<&str>) -> Result<(), ApiError> {
    let Some(arn) = arn else { return Ok(()) };
    let can_be_assumed = match cloud.iam.by_arn(arn) {
        Some(role) => {
            let known_for = cloud.now().since(role.created_at);
            role.trust.contains("ecs-tasks.amazonaws.com") && known_for >= cloud.rules.role_propagation
        }
        None => !cloud.iam.deleted.contains(arn),
    };
    if can_be_assumed {
        return Ok(());
    }
    Err(ApiError::new(
        "ClientException",
        format!(
            "ECS was unable to assume the role '{arn}' that was provided for this task. Please verify that the role being \
             passed has the proper trust relationship and permissions and that your IAM user has permissions to \
             pass this role."
        ),
    ))
}
