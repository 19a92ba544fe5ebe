//! Observe: `GetAccountAuthorizationDetails` returns trust, inline policies and tags of many roles a page. One role takes four
//! small calls.

use std::collections::BTreeMap;

use aws_sdk_iam::types::{EntityType, Tag};
use codeloc_core::ids::Arn;
use codeloc_core::names;
use codeloc_core::resources::role::{Change, Document, Observed, POLICY_NAME};
use codeloc_core::shared::Shared;
use codeloc_core::tags::Tags;
use codeloc_crds::LocationName;

use crate::error::CallError;
use crate::scope::Scope;
use crate::session::Session;

/// Roles a page. IAM allows 1,000: that answer and the data read from it take 9 MB, more than all the rest of a sweep.
pub const PAGE: i32 = 250;

const ABSENT: &[&str] = &["NoSuchEntity", "NoSuchEntityException"];

/// The roles of one location.
#[derive(Debug, Default)]
pub struct Roles {
    pub code: Option<Shared<Observed>>,
    pub execution: Option<Shared<Observed>>,
}

pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<LocationName, Roles>, CallError> {
    match scope {
        Scope::All => observe_all(session).await,
        Scope::One(name) => {
            let deployment = &session.deployment.id;
            let code = observe_one(session, &names::role(deployment, name)).await?;
            let execution = observe_one(session, &names::execution_role(deployment, name)).await?;
            let roles = Roles { code, execution };
            Ok(BTreeMap::from([(name.clone(), roles)]))
        }
    }
}

async fn observe_all(session: Session<'_>) -> Result<BTreeMap<LocationName, Roles>, CallError> {
    let prefix = names::role_prefix(&session.deployment.id);
    let mut found: BTreeMap<LocationName, Roles> = BTreeMap::new();
    let mut marker = None;
    loop {
        let request = session
            .clients
            .iam
            .get_account_authorization_details()
            .filter(EntityType::Role)
            .max_items(PAGE)
            .set_marker(marker);
        let answer = session.call("iam:GetAccountAuthorizationDetails", request.send()).await?;
        for role in answer.role_detail_list() {
            let name = role.role_name().unwrap_or_default();
            let Some((location, executes)) = name.strip_prefix(&prefix).and_then(names::location_of_role) else {
                continue;
            };
            let policies = role.role_policy_list().iter().map(|policy| {
                (
                    policy.policy_name().unwrap_or_default().to_owned(),
                    document(policy.policy_document().unwrap_or_default()),
                )
            });
            let observed = Observed {
                arn: role.arn().unwrap_or_default().into(),
                name: name.to_owned(),
                path: role.path().unwrap_or_default().to_owned(),
                trust: document(role.assume_role_policy_document().unwrap_or_default()),
                policies: policies.collect(),
                attached: role
                    .attached_managed_policies()
                    .iter()
                    .filter_map(|one| one.policy_arn().map(Arn::from))
                    .collect(),
                permissions_boundary: role
                    .permissions_boundary()
                    .and_then(|boundary| boundary.permissions_boundary_arn().map(Arn::from)),
                tags: session.cache.distinct(tags(role.tags())),
            };
            if executes {
                let shared = session.cache.share(&location, |last| last.execution_role.as_ref(), observed);
                found.entry(location).or_default().execution = Some(shared);
            } else {
                let shared = session.cache.share(&location, |last| last.role.as_ref(), observed);
                found.entry(location).or_default().code = Some(shared);
            }
        }
        marker = answer.marker().filter(|_| answer.is_truncated()).map(str::to_owned);
        if marker.is_none() {
            return Ok(found);
        }
    }
}

async fn observe_one(session: Session<'_>, name: &str) -> Result<Option<Shared<Observed>>, CallError> {
    let iam = &session.clients.iam;
    let role = match session.call("iam:GetRole", iam.get_role().role_name(name).send()).await {
        Ok(answer) => answer.role.ok_or_else(|| CallError::malformed("iam:GetRole", "role"))?,
        Err(error) if error.is(ABSENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut policies = BTreeMap::new();
    for policy in
        session.call("iam:ListRolePolicies", iam.list_role_policies().role_name(name).send()).await?.policy_names()
    {
        match session.call("iam:GetRolePolicy", iam.get_role_policy().role_name(name).policy_name(policy).send()).await
        {
            Ok(answer) => {
                policies.insert(policy.clone(), document(answer.policy_document()));
            }
            Err(error) if error.is(ABSENT) => {}
            Err(error) => return Err(error),
        }
    }
    let attached =
        session.call("iam:ListAttachedRolePolicies", iam.list_attached_role_policies().role_name(name).send()).await?;
    let observed = Observed {
        arn: role.arn().into(),
        name: name.to_owned(),
        path: role.path().to_owned(),
        trust: document(role.assume_role_policy_document().unwrap_or_default()),
        policies,
        attached: attached.attached_policies().iter().filter_map(|one| one.policy_arn().map(Arn::from)).collect(),
        permissions_boundary: role.permissions_boundary().and_then(|one| one.permissions_boundary_arn().map(Arn::from)),
        tags: tags(role.tags()).into(),
    };
    Ok(Some(observed.into()))
}

/// IAM sends policy documents percent-encoded.
fn document(encoded: &str) -> Document {
    Document::new(percent_encoding::percent_decode_str(encoded).decode_utf8_lossy())
}

fn tags(tags: &[Tag]) -> Tags {
    tags.iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()
}

fn tag_list(tags: &Tags) -> Result<Vec<Tag>, CallError> {
    tags.iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect::<Result<_, _>>()
        .map_err(|_| CallError::malformed("iam:TagRole", "tag key"))
}

/// Creating the role and putting its policy also set `observed`.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Option<Shared<Observed>>,
) -> Result<(), CallError> {
    let iam = &session.clients.iam;
    match change {
        Change::Create(desired) => {
            let request = iam
                .create_role()
                .role_name(&desired.name)
                .path(&desired.path)
                .assume_role_policy_document(desired.trust.to_string())
                .set_permissions_boundary(desired.permissions_boundary.as_ref().map(String::from))
                .set_tags(Some(tag_list(&desired.tags)?));
            match session.call("iam:CreateRole", request.send()).await {
                Ok(_) => {
                    let created = Observed {
                        arn: desired.arn(session.deployment),
                        name: desired.name.clone(),
                        path: desired.path.clone(),
                        trust: Document::from(&desired.trust),
                        policies: BTreeMap::new(),
                        attached: vec![],
                        permissions_boundary: desired.permissions_boundary.clone(),
                        tags: desired.tags.clone().into(),
                    };
                    *observed = Some(created.into());
                    Ok(())
                }
                Err(error) if error.is(&["EntityAlreadyExists", "EntityAlreadyExistsException"]) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Change::SetTrust { name, trust } => {
            let request = iam.update_assume_role_policy().role_name(name).policy_document(trust.to_string());
            session.call("iam:UpdateAssumeRolePolicy", request.send()).await.map(drop)
        }
        Change::SetBoundary { name, to: Some(boundary), .. } => {
            let request = iam.put_role_permissions_boundary().role_name(name).permissions_boundary(boundary);
            session.call("iam:PutRolePermissionsBoundary", request.send()).await.map(drop)
        }
        Change::SetBoundary { name, to: None, .. } => {
            let request = iam.delete_role_permissions_boundary().role_name(name);
            absent_is_done(session.call("iam:DeleteRolePermissionsBoundary", request.send()).await.map(drop))
        }
        Change::PutPolicy { name, policy, .. } => {
            let request =
                iam.put_role_policy().role_name(name).policy_name(POLICY_NAME).policy_document(policy.to_string());
            session.call("iam:PutRolePolicy", request.send()).await?;
            if let Some(observed) = observed {
                observed.policies.insert(POLICY_NAME.to_owned(), Document::from(policy));
            }
            Ok(())
        }
        Change::RemovePolicy { name, policy } => remove_policy(session, name, policy).await,
        Change::Detach { name, policy_arn } => detach(session, name, policy_arn).await,
        Change::Tag { name, tags } => {
            if !tags.remove.is_empty() {
                let keys = tags.remove.iter().cloned().collect();
                let request = iam.untag_role().role_name(name).set_tag_keys(Some(keys));
                session.call("iam:UntagRole", request.send()).await?;
            }
            if !tags.set.is_empty() {
                let request = iam.tag_role().role_name(name).set_tags(Some(tag_list(&tags.set)?));
                session.call("iam:TagRole", request.send()).await?;
            }
            Ok(())
        }
        Change::Immutable { .. } => Ok(()),
        Change::Delete { name, policies, attached } => {
            // A role that still has policies is refused (DeleteConflict).
            for policy in policies {
                remove_policy(session, name, policy).await?;
            }
            for policy_arn in attached {
                detach(session, name, policy_arn).await?;
            }
            absent_is_done(session.call("iam:DeleteRole", iam.delete_role().role_name(name).send()).await.map(drop))
        }
    }
}

async fn remove_policy(session: Session<'_>, name: &str, policy: &str) -> Result<(), CallError> {
    let request = session.clients.iam.delete_role_policy().role_name(name).policy_name(policy);
    absent_is_done(session.call("iam:DeleteRolePolicy", request.send()).await.map(drop))
}

async fn detach(session: Session<'_>, name: &str, policy_arn: &Arn) -> Result<(), CallError> {
    let request = session.clients.iam.detach_role_policy().role_name(name).policy_arn(policy_arn);
    absent_is_done(session.call("iam:DetachRolePolicy", request.send()).await.map(drop))
}

/// A thing to delete may be absent already.
fn absent_is_done(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.is(ABSENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_document_is_percent_decoded() {
        assert_eq!(document("%7B%22Version%22%3A%222012-10-17%22%7D"), Document::new(r#"{"Version":"2012-10-17"}"#));
    }

    #[test]
    fn only_an_absent_role_counts_as_deleted() {
        let error = |code: &str| CallError {
            operation: "iam:DeleteRole",
            class: crate::error::Class::Terminal,
            code: code.to_owned(),
            message: String::new(),
        };
        assert!(absent_is_done(Err(error("NoSuchEntity"))).is_ok());
        assert!(absent_is_done(Err(error("DeleteConflict"))).is_err());
    }
}
