//! What a task of a location needs of AWS.

use localcloud::model::Cloud;
use localcloud::model::ecs::task_definition::Definition;
use localcloud::model::launch::split;
use localcloud::model::policy::{is_match, patterns, statements};
use localcloud::protocol::fields::Fields as _;
use localcloud::services::ecs::task::obstacle;
use serde_json::Value;

use super::variable;

/// The inline policy of codeloc. Another one was added by hand, and codeloc deletes it.
const POLICY: &str = "codeloc";

/// What a run had when it started, and needs until it ends.
pub struct Needs {
    definition: Definition,
    /// The policy that its role had. Absent if localcloud does not know the role.
    policy: Option<String>,
    grants: Vec<Grant>,
}

/// One action that a policy allows on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    action: String,
    resource: String,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    None,
    /// A pattern of the keys that the action may list.
    Prefix(String),
    /// Any other condition, as its text.
    Other(String),
}

impl Needs {
    pub fn of(cloud: &Cloud, definition: &Definition) -> Self {
        let role = definition.body.text("taskRoleArn").and_then(|arn| cloud.iam.by_arn(arn));
        let policy = role.and_then(|role| role.inline.get(POLICY)).cloned();
        let mut grants = policy.as_deref().map(grants).unwrap_or_default();
        grants.retain(|grant| !grant.is_on_another_prefix(definition));
        Self { definition: definition.clone(), policy, grants }
    }

    /// What the run lost. It read its secrets when it started, and needs them no more.
    pub fn missing(&self, cloud: &Cloud) -> Option<String> {
        let definition = &self.definition;
        let lacks = lacks_role(cloud, definition).or_else(|| lacks_log_group(cloud, definition));
        lacks.or_else(|| lacks_image(cloud, definition)).or_else(|| self.lost_grant(cloud))
    }

    /// Whether its role does not allow to write below the prefix that the run writes to.
    pub fn lacks_prefix(&self, cloud: &Cloud) -> Option<String> {
        lacks_prefix(cloud, &self.definition)
    }

    fn lost_grant(&self, cloud: &Cloud) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let arn = self.definition.body.text("taskRoleArn")?;
        let role = cloud.iam.by_arn(arn)?;
        if role.inline.get(POLICY) == Some(policy) {
            return None;
        }
        let present: Vec<Grant> = role.inline.values().flat_map(|text| grants(text)).collect();
        let lost = self.grants.iter().find(|grant| !present.iter().any(|other| other.covers(grant)))?;
        Some(format!("{arn} no longer allows {} on {} ({:?})", lost.action, lost.resource, lost.condition))
    }
}

impl Grant {
    /// A grant on the prefix of another location ends as soon as a config withdraws it, also for runs.
    fn is_on_another_prefix(&self, definition: &Definition) -> bool {
        let own = |name| variable(definition, name).unwrap_or_default();
        let (bucket, prefix) = (own("DAGSTER_REPO_S3_BUCKET"), own("DAGSTER_REPO_S3_PREFIX"));
        let key = self.resource.strip_prefix(&format!("arn:aws:s3:::{bucket}/"));
        let listed = match &self.condition {
            Condition::Prefix(pattern) => Some(pattern.as_str()),
            Condition::None | Condition::Other(_) => None,
        };
        key.or(listed).is_some_and(|key| !key.starts_with(prefix))
    }

    /// Whether this grant allows at least what the other one does.
    fn covers(&self, other: &Self) -> bool {
        let condition = match (&self.condition, &other.condition) {
            (Condition::None, _) => true,
            (Condition::Prefix(pattern), Condition::Prefix(prefix)) => is_match(pattern, prefix),
            (own, other) => own == other,
        };
        condition && is_match(&self.action, &other.action) && is_match(&self.resource, &other.resource)
    }
}

fn grants(policy: &str) -> Vec<Grant> {
    let document: Value = serde_json::from_str(policy).unwrap_or_default();
    let mut grants = Vec::new();
    for statement in statements(&document).iter().filter(|statement| statement["Effect"] == "Allow") {
        for action in patterns(statement, "Action") {
            for resource in patterns(statement, "Resource") {
                for condition in conditions(statement) {
                    grants.push(Grant { action: action.to_owned(), resource: resource.to_owned(), condition });
                }
            }
        }
    }
    grants
}

/// The alternatives under which a statement applies.
fn conditions(statement: &Value) -> Vec<Condition> {
    let Some(condition) = statement.get("Condition") else { return vec![Condition::None] };
    let prefixes = &condition["StringLike"]["s3:prefix"];
    let only_prefixes = condition.as_object().is_some_and(|operators| operators.len() == 1) && !prefixes.is_null();
    if !only_prefixes {
        return vec![Condition::Other(condition.to_string())];
    }
    let prefixes = patterns(&condition["StringLike"], "s3:prefix");
    prefixes.into_iter().map(|prefix| Condition::Prefix(prefix.to_owned())).collect()
}

/// What a new task of this definition lacks to start and to work: a role, a permission, its image or its log group.
pub fn lacks(cloud: &Cloud, definition: &Definition) -> Option<String> {
    obstacle(cloud, definition).or_else(|| lacks_image(cloud, definition)).or_else(|| lacks_prefix(cloud, definition))
}

fn lacks_role(cloud: &Cloud, definition: &Definition) -> Option<String> {
    let roles = ["taskRoleArn", "executionRoleArn"].into_iter().filter_map(|field| definition.body.text(field));
    let deleted = roles.into_iter().find(|arn| cloud.iam.deleted.contains(*arn))?;
    Some(format!("the role {deleted} does not exist"))
}

fn lacks_log_group(cloud: &Cloud, definition: &Definition) -> Option<String> {
    let options = &definition.containers().first()?["logConfiguration"]["options"];
    let group = options.text("awslogs-group")?;
    (!cloud.logs.groups.contains_key(group)).then(|| format!("the log group {group} does not exist"))
}

/// Whether the repository of the image is gone. Only images of localcloud's registry are known.
fn lacks_image(cloud: &Cloud, definition: &Definition) -> Option<String> {
    let image = definition.containers().first()?.text("image")?;
    let own = image.strip_prefix(cloud.rules.registry.as_str())?.starts_with('/');
    let (repository, _) = split(image);
    (own && !cloud.ecr.repositories.contains_key(repository)).then(|| format!("the image {image} does not exist"))
}

/// Whether the task's role does not allow to write below the prefix that the task writes to.
fn lacks_prefix(cloud: &Cloud, definition: &Definition) -> Option<String> {
    let (bucket, prefix) =
        (variable(definition, "DAGSTER_REPO_S3_BUCKET")?, variable(definition, "DAGSTER_REPO_S3_PREFIX")?);
    let role = cloud.iam.by_arn(definition.body.text("taskRoleArn")?)?;
    let object = format!("arn:aws:s3:::{bucket}/{prefix}/assets/one");
    let denied = !role.allows("s3:PutObject", &object) || !role.allows("s3:GetObject", &object);
    denied.then(|| format!("{} does not allow to read and write {object}", role.arn))
}

/// The definitions of a location from which a task can start: those that its service deploys, and the ACTIVE ones of its runs.
pub fn named<'a>(cloud: &'a Cloud, location: &str) -> Vec<&'a Definition> {
    let mut named = deployed(cloud, location);
    let prefix = format!("codeloc-{location}_run_");
    let families = cloud.ecs.families.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
    let revisions = families.flat_map(|(_, family)| family.revisions.values());
    named.extend(revisions.filter(|definition| definition.status == "ACTIVE"));
    named
}

/// The definitions that the service runs, rolls out or rolls back.
pub fn deployed<'a>(cloud: &'a Cloud, location: &str) -> Vec<&'a Definition> {
    let service =
        cloud.ecs.clusters.get("dagster").and_then(|cluster| cluster.services.get(&format!("{location}-service")));
    let deployments = service.filter(|service| service.is_active()).map(|service| &service.rollout.deployments);
    let deployed = deployments.into_iter().flatten();
    deployed.filter_map(|deployment| cloud.ecs.definition(&deployment.revision.task_definition)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(resource: &str, prefixes: &str) -> String {
        format!(
            r#"{{"Statement": [
                {{"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": {resource}}},
                {{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:b", "Condition": {{"StringLike": {{"s3:prefix": {prefixes}}}}}}}
            ]}}"#
        )
    }

    fn is_wider(new: &str, old: &str) -> bool {
        let new = grants(new);
        grants(old).iter().all(|grant| new.iter().any(|other| other.covers(grant)))
    }

    #[test]
    fn a_policy_with_more_grants_is_wider() {
        let old = policy(r#""arn:b/orders/*""#, r#""orders/*""#);
        for wider in [
            old.clone(),
            policy(r#"["arn:b/orders/*", "arn:b/other/*"]"#, r#"["other/*", "orders/*"]"#),
            policy(r#""arn:b/*""#, r#""*""#),
            r#"{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "arn:b*"}}"#.to_owned(),
        ] {
            assert!(is_wider(&wider, &old), "{wider}");
        }
        for narrower in [
            policy(r#""arn:b/other/*""#, r#""orders/*""#),
            policy(r#""arn:b/orders/*""#, r#""other/*""#),
            r#"{"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:b/orders/*"}]}"#
                .to_owned(),
            String::new(),
        ] {
            assert!(!is_wider(&narrower, &old), "{narrower}");
        }
    }
}
