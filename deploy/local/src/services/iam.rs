//! IAM roles: trust, inline and attached policies, tags, boundaries.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::model::Cloud;
use crate::model::iam::Role;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, upper_tags};
use crate::protocol::paging::{Limits, Page, page};
use crate::protocol::tags;

const PAGE: Limits = Limits { default: 100, max: 1000 };
/// IAM returns policy documents URL-encoded according to RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Valid session durations in seconds.
const SESSION: std::ops::RangeInclusive<i64> = 3_600..=43_200;
/// The maximum size of all inline policies of a role in bytes, without white space.
const INLINE_LIMIT: usize = 10_240;

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreateRole" => create_role(cloud, input),
        "GetRole" => {
            let (name, role) = role(cloud, input)?;
            Ok(json!({"Role": show(name, role)}))
        }
        "ListRoles" => list_roles(cloud, input),
        "UpdateRole" => update_role(cloud, input),
        "DeleteRole" => delete_role(cloud, input),
        "UpdateAssumeRolePolicy" => {
            let document = document(input, "PolicyDocument", Purpose::Trust)?;
            role(cloud, input)?.1.trust = document;
            Ok(json!({}))
        }
        "PutRolePermissionsBoundary" => {
            let boundary = input.need("PermissionsBoundary")?.to_owned();
            role(cloud, input)?.1.boundary = Some(boundary);
            Ok(json!({}))
        }
        "DeleteRolePermissionsBoundary" => {
            let (name, role) = role(cloud, input)?;
            let missing = || {
                let message = format!("The role {name} has no permissions boundary.");
                ApiError::new("NoSuchEntity", message).with_status(404)
            };
            role.boundary.take().map(|_| json!({})).ok_or_else(missing)
        }
        "PutRolePolicy" | "GetRolePolicy" | "ListRolePolicies" | "DeleteRolePolicy" => inline(cloud, operation, input),
        "AttachRolePolicy" | "ListAttachedRolePolicies" | "DetachRolePolicy" => attached(cloud, operation, input),
        "TagRole" => {
            let added = input.tags("Tags");
            tags::add(AwsService::Iam, &mut role(cloud, input)?.1.tags, added)?;
            Ok(json!({}))
        }
        "UntagRole" => {
            let tags = &mut role(cloud, input)?.1.tags;
            input.texts("TagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListRoleTags" => {
            let (_, role) = role(cloud, input)?;
            let all = role.tags.iter().map(|(key, value)| (key.clone(), json!({"Key": key, "Value": value})));
            paged(input, "Tags", all.collect())
        }
        "GetAccountAuthorizationDetails" => account_details(cloud, input),
        "GetPolicy" => {
            // localcloud has no managed policies.
            let arn = input.need("PolicyArn")?;
            Err(ApiError::new("NoSuchEntity", format!("Policy {arn} was not found.")).with_status(404))
        }
        "SimulatePrincipalPolicy" => Ok(simulate(cloud, input)),
        _ => Err(AwsService::Iam.unknown(operation)),
    }
}

/// Policies are not evaluated: every action that the rules do not deny is allowed.
fn simulate(cloud: &Cloud, input: &Value) -> Value {
    let evaluate = |action: &str| {
        let decision = if cloud.rules.denied.contains(action) { "implicitDeny" } else { "allowed" };
        json!({"EvalActionName": action, "EvalDecision": decision, "EvalResourceName": "*"})
    };
    let results: Vec<Value> = input.texts("ActionNames").into_iter().map(evaluate).collect();
    json!({"EvaluationResults": results, "IsTruncated": false})
}

fn create_role(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.need("RoleName")?;
    let path = input.text("Path").unwrap_or("/");
    check_name("roleName", name, 64)?;
    if path.len() > 512 || !path.starts_with('/') || !path.ends_with('/') {
        return Err(ApiError::invalid(format!("The path '{path}' must begin and end with /")));
    }
    if cloud.iam.roles.contains_key(name) {
        let message = format!("Role with name {name} already exists.");
        return Err(ApiError::new("EntityAlreadyExists", message).with_status(409));
    }
    if cloud.iam.roles.len() >= cloud.rules.quotas.roles {
        return Err(exceeded("RolesPerAccount", cloud.rules.quotas.roles));
    }
    let (description, max_session_seconds) = (description(input)?, session(input)?);
    let tags = input.tags("Tags");
    tags::check(AwsService::Iam, &tags)?;
    let role = Role {
        id: format!("AROA{}", cloud.draw(17).to_uppercase()),
        arn: format!("arn:aws:iam::{}:role{path}{name}", cloud.rules.account),
        path: path.to_owned(),
        created_at: cloud.now(),
        trust: document(input, "AssumeRolePolicyDocument", Purpose::Trust)?,
        description,
        max_session_seconds: max_session_seconds.unwrap_or(*SESSION.start()),
        boundary: input.text("PermissionsBoundary").map(str::to_owned),
        tags,
        inline: BTreeMap::new(),
        attached: BTreeMap::new(),
    };
    let shown = show(name, &role);
    cloud.iam.deleted.remove(&role.arn);
    cloud.iam.roles.insert(name.to_owned(), role);
    Ok(json!({"Role": shown}))
}

fn check_name(what: &str, name: &str, most: usize) -> Result<(), ApiError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if name.len() <= most && name.chars().all(legal) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "1 validation error detected: Value '{name}' at '{what}' failed to satisfy constraint: \
         Member must have length less than or equal to {most} and match [\\w+=,.@-]+"
    )))
}

fn description(input: &Value) -> Result<Option<String>, ApiError> {
    let text = input.text("Description");
    if text.is_some_and(|text| text.chars().count() > 1000) {
        return Err(ApiError::invalid("description must have length less than or equal to 1000"));
    }
    Ok(text.map(str::to_owned))
}

fn session(input: &Value) -> Result<Option<i64>, ApiError> {
    let seconds = input.number("MaxSessionDuration");
    if seconds.is_some_and(|seconds| !SESSION.contains(&seconds)) {
        return Err(ApiError::invalid(format!(
            "maxSessionDuration must be between {} and {} seconds",
            SESSION.start(),
            SESSION.end()
        )));
    }
    Ok(seconds)
}

fn exceeded(quota: &str, most: usize) -> ApiError {
    ApiError::new("LimitExceeded", format!("Cannot exceed quota for {quota}: {most}")).with_status(409)
}

/// A role as `GetRole` returns it.
fn show(name: &str, role: &Role) -> Value {
    let mut shown = json!({
        "Path": role.path,
        "RoleName": name,
        "RoleId": role.id,
        "Arn": role.arn,
        "CreateDate": role.created_at.iso(),
        "AssumeRolePolicyDocument": encode(&role.trust),
        "Description": role.description,
        "MaxSessionDuration": role.max_session_seconds,
    });
    if let Some(boundary) = &role.boundary {
        shown["PermissionsBoundary"] = show_boundary(boundary);
    }
    if !role.tags.is_empty() {
        shown["Tags"] = upper_tags(&role.tags);
    }
    shown
}

fn show_boundary(arn: &str) -> Value {
    json!({"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": arn})
}

/// `ListRoles` leaves out tags and boundary, as AWS does.
fn list_roles(cloud: &mut Cloud, input: &Value) -> Reply {
    let prefix = input.text("PathPrefix").unwrap_or("/");
    let fits = |role: &Role| role.path.starts_with(prefix);
    let mut all = Vec::new();
    for (name, role) in cloud.iam.roles.iter().filter(|(_, role)| fits(role)) {
        let mut shown = show(name, role);
        if let Some(fields) = shown.as_object_mut() {
            fields.remove("Tags");
            fields.remove("PermissionsBoundary");
        }
        all.push((name.clone(), shown));
    }
    paged(input, "Roles", all)
}

fn update_role(cloud: &mut Cloud, input: &Value) -> Reply {
    let (description, seconds) = (description(input)?, session(input)?);
    let (_, role) = role(cloud, input)?;
    if description.is_some() {
        role.description = description;
    }
    if let Some(seconds) = seconds {
        role.max_session_seconds = seconds;
    }
    Ok(json!({}))
}

fn delete_role(cloud: &mut Cloud, input: &Value) -> Reply {
    let (name, role) = role(cloud, input)?;
    let conflict = |message| Err(ApiError::new("DeleteConflict", message).with_status(409));
    if !role.attached.is_empty() {
        return conflict("Cannot delete entity, must detach all policies first.");
    }
    if !role.inline.is_empty() {
        return conflict("Cannot delete entity, must delete policies first.");
    }
    let gone = cloud.iam.roles.remove(name);
    cloud.iam.deleted.extend(gone.map(|role| role.arn));
    Ok(json!({}))
}

fn inline(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    let (name, role) = role(cloud, input)?;
    if operation == "ListRolePolicies" {
        let all = role.inline.keys().map(|policy| (policy.clone(), policy.as_str().into())).collect();
        return paged(input, "PolicyNames", all);
    }
    let policy = input.need("PolicyName")?;
    let missing = || {
        let message = format!("The role policy with name {policy} cannot be found.");
        ApiError::new("NoSuchEntity", message).with_status(404)
    };
    match operation {
        "PutRolePolicy" => {
            check_name("policyName", policy, 128)?;
            let document = document(input, "PolicyDocument", Purpose::Access)?;
            let others = role.inline.iter().filter(|(other, _)| *other != policy).map(|(_, text)| counted_size(text));
            if others.sum::<usize>() + counted_size(&document) > INLINE_LIMIT {
                let message = format!("Maximum policy size of {INLINE_LIMIT} bytes exceeded for role {name}");
                return Err(ApiError::new("LimitExceeded", message).with_status(409));
            }
            role.inline.insert(policy.to_owned(), document);
            Ok(json!({}))
        }
        "GetRolePolicy" => {
            let document = encode(role.inline.get(policy).ok_or_else(missing)?);
            Ok(json!({"RoleName": name, "PolicyName": policy, "PolicyDocument": document}))
        }
        _ => role.inline.remove(policy).map(|_| json!({})).ok_or_else(missing),
    }
}

/// The size that counts towards the limit: all bytes except white space.
fn counted_size(document: &str) -> usize {
    document.bytes().filter(|byte| !byte.is_ascii_whitespace()).count()
}

fn attached(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    let most = cloud.rules.quotas.policies_of_role;
    let (_, role) = role(cloud, input)?;
    if operation == "ListAttachedRolePolicies" {
        let all = role.attached.iter();
        let all = all.map(|(arn, name)| (arn.clone(), json!({"PolicyName": name, "PolicyArn": arn})));
        return paged(input, "AttachedPolicies", all.collect());
    }
    let arn = input.need("PolicyArn")?;
    if operation == "AttachRolePolicy" {
        if role.attached.len() >= most && !role.attached.contains_key(arn) {
            return Err(exceeded("PoliciesPerRole", most));
        }
        let name = arn.rsplit('/').next().unwrap_or(arn);
        role.attached.insert(arn.to_owned(), name.to_owned());
        return Ok(json!({}));
    }
    role.attached
        .remove(arn)
        .map(|_| json!({}))
        .ok_or_else(|| ApiError::new("NoSuchEntity", format!("Policy {arn} was not found.")).with_status(404))
}

fn account_details(cloud: &mut Cloud, input: &Value) -> Reply {
    let filters = input.texts("Filter");
    let roles = filters.is_empty() || filters.contains(&"Role");
    let mut all = Vec::new();
    for (name, role) in cloud.iam.roles.iter().filter(|_| roles) {
        let policy = |(name, text): (&String, &String)| json!({"PolicyName": name, "PolicyDocument": encode(text)});
        let managed = |(arn, name): (&String, &String)| json!({"PolicyName": name, "PolicyArn": arn});
        let mut shown = json!({
            "Path": role.path,
            "RoleName": name,
            "RoleId": role.id,
            "Arn": role.arn,
            "CreateDate": role.created_at.iso(),
            "AssumeRolePolicyDocument": encode(&role.trust),
            "InstanceProfileList": [],
            "RolePolicyList": role.inline.iter().map(policy).collect::<Vec<Value>>(),
            "AttachedManagedPolicies": role.attached.iter().map(managed).collect::<Vec<Value>>(),
            "Tags": upper_tags(&role.tags),
            "RoleLastUsed": {},
        });
        if let Some(boundary) = &role.boundary {
            shown["PermissionsBoundary"] = show_boundary(boundary);
        }
        all.push((name.clone(), shown));
    }
    let mut output = paged(input, "RoleDetailList", all)?;
    for empty in ["UserDetailList", "GroupDetailList", "Policies"] {
        output[empty] = json!([]);
    }
    Ok(output)
}

fn role<'cloud, 'input>(
    cloud: &'cloud mut Cloud,
    input: &'input Value,
) -> Result<(&'input str, &'cloud mut Role), ApiError> {
    let name = input.need("RoleName")?;
    let missing = || {
        let message = format!("The role with name {name} cannot be found.");
        ApiError::new("NoSuchEntity", message).with_status(404)
    };
    Ok((name, cloud.iam.roles.get_mut(name).ok_or_else(missing)?))
}

/// The purpose of a policy. A trust policy names principals, an inline policy resources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Trust,
    Access,
}

/// The text of a policy, if it is valid.
fn document(input: &Value, name: &str, purpose: Purpose) -> Result<String, ApiError> {
    let text = input.need(name)?;
    let malformed = |why: &str| ApiError::new("MalformedPolicyDocument", format!("{name}: {why}"));
    let parsed: Value = serde_json::from_str(text).map_err(|_| malformed("This policy contains invalid Json"))?;
    let statements = match parsed.get("Statement") {
        Some(Value::Array(statements)) => statements.as_slice(),
        Some(statement @ Value::Object(_)) => std::slice::from_ref(statement),
        _ => return Err(malformed("Syntax errors in policy: no Statement.")),
    };
    for statement in statements {
        let has = |one: &str, other: &str| statement.get(one).or(statement.get(other)).is_some();
        let problem = match purpose {
            _ if !matches!(statement.text("Effect"), Some("Allow" | "Deny")) => "Syntax errors in policy: no Effect.",
            _ if !has("Action", "NotAction") => "Policy statement must contain actions.",
            Purpose::Trust if !has("Principal", "NotPrincipal") => "AssumeRole policy must contain principals.",
            Purpose::Trust if has("Resource", "NotResource") => "Has prohibited field Resource",
            Purpose::Access if has("Principal", "NotPrincipal") => "Policy document should not specify a principal.",
            Purpose::Access if !has("Resource", "NotResource") => "Policy statement must contain resources.",
            _ => continue,
        };
        return Err(malformed(problem));
    }
    Ok(text.to_owned())
}

fn encode(document: &str) -> String {
    utf8_percent_encode(document, ENCODED).to_string()
}

fn paged(input: &Value, list: &str, all: Vec<(String, Value)>) -> Reply {
    let Page { items, next } = page(all, input.text("Marker"), input.number("MaxItems"), PAGE)?;
    let mut output = json!({list: items, "IsTruncated": next.is_some()});
    if let Some(next) = next {
        output["Marker"] = next.into();
    }
    Ok(output)
}
