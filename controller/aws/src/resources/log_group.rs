//! Observe: `DescribeLogGroups` by prefix, 50 a page. Its tags come from a call of their own.

use std::collections::BTreeMap;

use aws_sdk_cloudwatchlogs::types::OrderBy;
use codeloc_core::names;
use codeloc_core::resources::log_group::{Change, Observed};
use codeloc_core::shared::Shared;
use codeloc_core::tags::Tags;

use crate::{CallError, Scope, Session, in_scope};

pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<String, Shared<Observed>>, CallError> {
    let prefix = names::log_group_prefix(&session.deployment.id);
    let searched = match scope {
        Scope::All => prefix.clone(),
        Scope::One(name) => format!("{prefix}{name}"),
    };
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let request =
            session.clients.logs.describe_log_groups().log_group_name_prefix(&searched).limit(50).set_next_token(token);
        let answer = session.call("logs:DescribeLogGroups", request.send()).await?;
        for group in answer.log_groups() {
            let name = group.log_group_name().unwrap_or_default();
            let Some(location) = in_scope(scope, &prefix, name) else { continue };
            let arn = group.arn().unwrap_or_default().trim_end_matches(":*").to_owned();
            let tags = session.cache.tags(scope, name, tags(session, &arn)).await?;
            let observed = Observed { arn, name: name.to_owned(), retention_days: group.retention_in_days(), tags };
            let observed = session.cache.seen(location, |seen| seen.log_group.as_ref(), observed);
            found.insert(location.to_owned(), observed);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(found);
        }
    }
}

async fn tags(session: Session<'_>, arn: &str) -> Result<Tags, CallError> {
    let request = session.clients.logs.list_tags_for_resource().resource_arn(arn);
    match session.call("logs:ListTagsForResource", request.send()).await {
        Ok(answer) => Ok(answer.tags().map(|tags| tags.clone().into_iter().collect()).unwrap_or_default()),
        // Deleted between the two calls: without a tag it is nobody's.
        Err(error) if error.is(&["ResourceNotFoundException"]) => Ok(Tags::new()),
        Err(error) => Err(error),
    }
}

/// Creates also tell what is `live` then.
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
                    let made = Observed {
                        arn: desired.arn(session.deployment),
                        name: desired.name.clone(),
                        retention_days: None,
                        tags: desired.tags.clone().into(),
                    };
                    *observed = Some(made.into());
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
            session.cache.forget_tags(name);
            let request = logs.tag_resource().resource_arn(arn).set_tags(Some(tags.clone().into_iter().collect()));
            session.call("logs:TagResource", request.send()).await.map(drop)
        }
        Change::Delete { name } => {
            match session.call("logs:DeleteLogGroup", logs.delete_log_group().log_group_name(name).send()).await {
                Err(error) if !error.is(&["ResourceNotFoundException"]) => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// The newest lines that tasks of one revision wrote, oldest of them first.
pub async fn tail(
    session: Session<'_>,
    group: &str,
    stream_prefix: &str,
    lines: i32,
) -> Result<Vec<String>, CallError> {
    let logs = &session.clients.logs;
    let request = logs.describe_log_streams().log_group_name(group).log_stream_name_prefix(stream_prefix).limit(50);
    let streams = match session.call("logs:DescribeLogStreams", request.send()).await {
        Ok(streams) => streams,
        Err(error) if error.is(&["ResourceNotFoundException"]) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let newest =
        streams.log_streams().iter().max_by_key(|stream| stream.last_event_timestamp().or(stream.creation_time()));
    let Some(stream) = newest.and_then(|stream| stream.log_stream_name()) else { return Ok(vec![]) };
    let request =
        logs.get_log_events().log_group_name(group).log_stream_name(stream).limit(lines).start_from_head(false);
    let answer = session.call("logs:GetLogEvents", request.send()).await?;
    Ok(answer.events().iter().filter_map(|event| event.message().map(str::to_owned)).collect())
}

/// Streams of one location that are looked into: as many tasks as write at the same time, and some that ended lately.
const STREAMS: i32 = 10;

/// One line that a task wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Milliseconds since the epoch.
    pub at: i64,
    pub stream: String,
    pub text: String,
}

/// The newest lines of all tasks of a location, the oldest of them first; only those after `after` (milliseconds) where that is
/// given.
pub async fn lines(
    session: Session<'_>,
    group: &str,
    lines: i32,
    after: Option<i64>,
) -> Result<Vec<Written>, CallError> {
    let logs = &session.clients.logs;
    let request = logs.describe_log_streams().log_group_name(group).order_by(OrderBy::LastEventTime).descending(true);
    let streams = match session.call("logs:DescribeLogStreams", request.limit(STREAMS).send()).await {
        Ok(streams) => streams,
        Err(error) if error.is(&["ResourceNotFoundException"]) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    // The time of the last event is late by up to an hour (CloudWatch Logs says so), and so decides about nothing here.
    for name in streams.log_streams().iter().filter_map(|stream| stream.log_stream_name()) {
        let request = logs.get_log_events().log_group_name(group).log_stream_name(name).limit(lines);
        let request = request.start_from_head(false).set_start_time(after.map(|after| after.saturating_add(1)));
        let answer = session.call("logs:GetLogEvents", request.send()).await?;
        all.extend(answer.events().iter().map(|event| Written {
            at: event.timestamp().unwrap_or_default(),
            stream: name.to_owned(),
            text: event.message().unwrap_or_default().trim_end().to_owned(),
        }));
    }
    all.sort_by_key(|line| line.at);
    let surplus = all.len().saturating_sub(usize::try_from(lines).unwrap_or(0));
    Ok(all.split_off(surplus))
}
