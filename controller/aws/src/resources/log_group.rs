//! Observe: `DescribeLogGroups` by prefix, 50 a page. The tags take a separate call.

use std::collections::BTreeMap;

use codeloc_core::ids::Arn;
use codeloc_core::names;
use codeloc_core::resources::log_group::{Change, Observed};
use codeloc_core::shared::Shared;
use codeloc_core::tags::{self, Tags};
use codeloc_crds::LocationName;

use crate::error::CallError;
use crate::scope::{Scope, in_scope};
use crate::session::Session;

pub async fn observe(
    session: Session<'_>,
    scope: Scope<'_>,
) -> Result<BTreeMap<LocationName, Shared<Observed>>, CallError> {
    let prefix = names::log_group_prefix(&session.deployment.id);
    let search = match scope {
        Scope::All => prefix.clone(),
        Scope::One(name) => format!("{prefix}{name}"),
    };
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let request =
            session.clients.logs.describe_log_groups().log_group_name_prefix(&search).limit(50).set_next_token(token);
        let answer = session.call("logs:DescribeLogGroups", request.send()).await?;
        for group in answer.log_groups() {
            let name = group.log_group_name().unwrap_or_default();
            let Some(location) = in_scope(scope, &prefix, name) else { continue };
            let arn = Arn::from(group.arn().unwrap_or_default().trim_end_matches(":*"));
            let tags = session.cache.tags(scope, name, tags(session, &arn)).await?;
            let observed = Observed { arn, name: name.to_owned(), retention_days: group.retention_in_days(), tags };
            let observed = session.cache.share(&location, |last| last.log_group.as_ref(), observed);
            found.insert(location, observed);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(found);
        }
    }
}

async fn tags(session: Session<'_>, arn: &Arn) -> Result<Tags, CallError> {
    let request = session.clients.logs.list_tags_for_resource().resource_arn(arn);
    match session.call("logs:ListTagsForResource", request.send()).await {
        Ok(answer) => Ok(answer.tags().map(|tags| tags.clone().into_iter().collect()).unwrap_or_default()),
        // Deleted between the two calls: without tags it has no owner.
        Err(error) if error.is(&["ResourceNotFoundException"]) => Ok(Tags::new()),
        Err(error) => Err(error),
    }
}

/// A creation also sets `observed`.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Option<Shared<Observed>>,
) -> Result<(), CallError> {
    let logs = &session.clients.logs;
    match change {
        Change::Create(desired) => {
            let tags = desired.tags.clone().into_iter().collect();
            let request = logs.create_log_group().log_group_name(&desired.name).set_tags(Some(tags));
            match session.call("logs:CreateLogGroup", request.send()).await {
                Ok(_) => {
                    session.cache.keep_tags(&desired.name, &desired.tags);
                    let created = Observed {
                        arn: desired.arn(session.deployment),
                        name: desired.name.clone(),
                        retention_days: None,
                        tags: desired.tags.clone().into(),
                    };
                    *observed = Some(created.into());
                }
                Err(error) if error.is(&["ResourceAlreadyExistsException"]) => {}
                Err(error) => return Err(error),
            }
            let request =
                logs.put_retention_policy().log_group_name(&desired.name).retention_in_days(desired.retention_days);
            session.call("logs:PutRetentionPolicy", request.send()).await?;
            if let Some(observed) = observed {
                observed.retention_days = Some(desired.retention_days);
            }
            Ok(())
        }
        Change::SetRetention { name, to, .. } => {
            let request = logs.put_retention_policy().log_group_name(name).retention_in_days(*to);
            session.call("logs:PutRetentionPolicy", request.send()).await.map(drop)
        }
        Change::Tag { arn, name, tags } => {
            let _changing = session.cache.changing_tags(name);
            if !tags.remove.is_empty() {
                let keys = tags.remove.iter().cloned().collect();
                let request = logs.untag_resource().resource_arn(arn).set_tag_keys(Some(keys));
                session.call("logs:UntagResource", request.send()).await?;
            }
            if !tags.set.is_empty() {
                let set = tags.set.clone().into_iter().collect();
                let request = logs.tag_resource().resource_arn(arn).set_tags(Some(set));
                session.call("logs:TagResource", request.send()).await?;
            }
            Ok(())
        }
        Change::Delete { arn, name } => {
            // Removing codeloc's tags is how a person keeps a log group, and a sweep reads them only in turns.
            let tags = session.cache.read_tags(name, tags(session, arn)).await?;
            if !tags::may_delete(&tags, &session.deployment.id) {
                tracing::info!(
                    name,
                    "a person removed the tags of codeloc or set the one that protects; codeloc keeps it"
                );
                return Ok(());
            }
            match session.call("logs:DeleteLogGroup", logs.delete_log_group().log_group_name(name).send()).await {
                Err(error) if !error.is(&["ResourceNotFoundException"]) => Err(error),
                _ => Ok(()),
            }
        }
    }
}
