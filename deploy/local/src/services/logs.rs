//! `CloudWatch` Logs: groups, streams and their events.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::Cloud;
use crate::model::logs::{Event, Group, Stream};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, Tags};
use crate::protocol::paging::{Limits, page};
use crate::protocol::tags;

/// Retention periods in days that AWS accepts.
const RETENTION: [i64; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// 2024-01-01 in milliseconds: the earliest `startTime` of a `FilterLogEvents` that returns the newest events first.
const NEWEST_FIRST_FROM: i64 = 1_704_067_200_000;

/// Appends a line of a container. Without the group the line is lost, as in AWS.
pub fn append(cloud: &mut Cloud, group: &str, stream: &str, line: String) {
    let now = cloud.now();
    if let Some(group) = cloud.logs.groups.get_mut(group) {
        let fresh = || Stream { created_at: now, ..Stream::default() };
        let timestamp = i64::try_from(now.millis()).unwrap_or(i64::MAX);
        let stream = group.streams.entry(stream.to_owned()).or_insert_with(fresh);
        stream.push(Event { timestamp, ingested_at: now, message: line });
    }
}

/// Creates a log group for the container option `awslogs-create-group`, unless it exists.
pub fn ensure_group(cloud: &mut Cloud, name: &str) {
    if !cloud.logs.groups.contains_key(name) {
        insert_group(cloud, name, Tags::new());
    }
}

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreateLogGroup" => create_group(cloud, input),
        "DescribeLogGroups" => describe_groups(cloud, input),
        "DeleteLogGroup" => {
            let name = input.need("logGroupName")?;
            cloud.logs.groups.remove(name).map(|_| json!({})).ok_or_else(no_group)
        }
        "PutRetentionPolicy" => put_retention(cloud, input),
        "DeleteRetentionPolicy" => {
            group_mut(cloud, input)?.retention_days = None;
            Ok(json!({}))
        }
        "TagResource" => {
            let added = input.text_map("tags");
            tags::add(AwsService::Logs, tagged(cloud, input)?, added)?;
            Ok(json!({}))
        }
        "UntagResource" => {
            let tags = tagged(cloud, input)?;
            input.texts("tagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListTagsForResource" => Ok(json!({"tags": tagged(cloud, input)?})),
        "CreateLogStream" => create_stream(cloud, input),
        "DescribeLogStreams" => describe_streams(cloud, input),
        "PutLogEvents" => put_events(cloud, input),
        "GetLogEvents" => get_events(cloud, input),
        "FilterLogEvents" => filter_events(cloud, input),
        _ => Err(AwsService::Logs.unknown(operation)),
    }
}

fn create_group(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.need("logGroupName")?;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-/.#".contains(c);
    if name.len() > 512 || !name.chars().all(legal) {
        return Err(ApiError::invalid(format!(
            "1 validation error detected: Value '{name}' at 'logGroupName' failed to satisfy constraint: \
             Member must have length at most 512 and satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+"
        )));
    }
    if name.starts_with("aws/") {
        return Err(ApiError::invalid("Log groups starting with AWS/ are reserved for AWS."));
    }
    if cloud.logs.groups.contains_key(name) {
        return Err(ApiError::new("ResourceAlreadyExistsException", "The specified log group already exists"));
    }
    if cloud.logs.groups.len() >= cloud.rules.quotas.log_groups {
        return Err(ApiError::new("LimitExceededException", "Resource limit exceeded."));
    }
    let tags = input.text_map("tags");
    // CreateLogGroup has no separate code for too many tags.
    tags::check(AwsService::Logs, &tags).map_err(|error| ApiError { code: None, ..error })?;
    insert_group(cloud, name, tags);
    Ok(json!({}))
}

fn insert_group(cloud: &mut Cloud, name: &str, tags: Tags) {
    let group = Group {
        arn: cloud.arn("logs", &format!("log-group:{name}")),
        created_at: cloud.now(),
        retention_days: None,
        tags,
        streams: BTreeMap::new(),
    };
    cloud.logs.groups.insert(name.to_owned(), group);
}

fn describe_groups(cloud: &mut Cloud, input: &Value) -> Reply {
    let prefix = input.text("logGroupNamePrefix").unwrap_or_default();
    let pattern = input.text("logGroupNamePattern").unwrap_or_default();
    let fits = |name: &str| name.starts_with(prefix) && name.contains(pattern);
    let all = cloud.logs.groups.iter().filter(|(name, _)| fits(name)).map(|(name, group)| (name.clone(), group));
    let page = page(all.collect(), input.text("nextToken"), input.number("limit"), Limits { default: 50, max: 50 })?;
    let show = |group: &Group, name: &str| {
        let mut shown = json!({
            "logGroupName": name,
            "arn": format!("{}:*", group.arn),
            "logGroupArn": group.arn,
            "creationTime": group.created_at.millis(),
            "metricFilterCount": 0,
            "storedBytes": 0,
            "logGroupClass": "STANDARD",
        });
        if let Some(days) = group.retention_days {
            shown["retentionInDays"] = days.into();
        }
        shown
    };
    Ok(page.map(|group| show(group, name_of(&group.arn))).document("logGroups", "nextToken"))
}

/// The name of a group: the part of its ARN after the sixth colon.
fn name_of(arn: &str) -> &str {
    arn.splitn(7, ':').nth(6).unwrap_or_default()
}

fn put_retention(cloud: &mut Cloud, input: &Value) -> Reply {
    let days = input.number("retentionInDays").ok_or_else(|| ApiError::missing("retentionInDays"))?;
    if !RETENTION.contains(&days) {
        return Err(ApiError::invalid(format!("{days} is not a retention in days that CloudWatch Logs offers")));
    }
    group_mut(cloud, input)?.retention_days = Some(days);
    Ok(json!({}))
}

fn create_stream(cloud: &mut Cloud, input: &Value) -> Reply {
    let created_at = cloud.now();
    let name = input.need("logStreamName")?;
    if name.len() > 512 || name.contains([':', '*']) {
        return Err(ApiError::invalid(format!(
            "1 validation error detected: Value '{name}' at 'logStreamName' failed to satisfy constraint: \
             Member must have length at most 512 and satisfy regular expression pattern: [^:*]*"
        )));
    }
    let group = group_mut(cloud, input)?;
    if group.streams.contains_key(name) {
        return Err(ApiError::new("ResourceAlreadyExistsException", "The specified log stream already exists"));
    }
    group.streams.insert(name.to_owned(), Stream { created_at, ..Stream::default() });
    Ok(json!({}))
}

fn describe_streams(cloud: &mut Cloud, input: &Value) -> Reply {
    let prefix = input.text("logStreamNamePrefix").unwrap_or_default();
    let group = group_mut(cloud, input)?;
    let mut all: Vec<(String, Value)> = Vec::new();
    for (name, stream) in group.streams.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let mut shown = json!({
            "logStreamName": name,
            "creationTime": stream.created_at.millis(),
            "arn": format!("{}:log-stream:{name}", group.arn),
            "storedBytes": 0,
        });
        if let (Some(first), Some(last)) = (stream.events.front(), stream.events.back()) {
            shown["firstEventTimestamp"] = first.timestamp.into();
            shown["lastEventTimestamp"] = last.timestamp.into();
            shown["lastIngestionTime"] = last.ingested_at.millis().into();
        }
        let by_time = input.text("orderBy") == Some("LastEventTime");
        let last = stream.events.back().map_or(0, |event| event.timestamp);
        let key = if by_time { format!("{last:020} {name}") } else { name.clone() };
        all.push((key, shown));
    }
    all.sort_by(|left, right| left.0.cmp(&right.0));
    if input.flag("descending") == Some(true) {
        all.reverse();
    }
    let page = page(all, input.text("nextToken"), input.number("limit"), Limits { default: 50, max: 50 })?;
    Ok(page.document("logStreams", "nextToken"))
}

fn put_events(cloud: &mut Cloud, input: &Value) -> Reply {
    let ingested_at = cloud.now();
    let stream = stream_mut(cloud, input)?;
    for event in input.items("logEvents") {
        let timestamp = event.number("timestamp").ok_or_else(|| ApiError::missing("timestamp"))?;
        stream.push(Event { timestamp, ingested_at, message: event.need("message")?.to_owned() });
    }
    Ok(json!({"nextSequenceToken": (stream.dropped + stream.events.len()).to_string()}))
}

/// Tokens are positions: `f/` reads forward, `b/` backward. At the end of the stream the token stays the same.
fn get_events(cloud: &mut Cloud, input: &Value) -> Reply {
    let limit = limit(input)?;
    let (from, until) = window(input);
    let stream = stream_mut(cloud, input)?;
    let end = stream.dropped + stream.events.len();
    let position =
        |text: &str| text.parse::<usize>().map_err(|_| ApiError::invalid("The specified nextToken is invalid."));
    let (first, last) = match input.text("nextToken") {
        Some(token) if token.starts_with("f/") => {
            let first = position(&token[2..])?.clamp(stream.dropped, end);
            (first, (first + limit).min(end))
        }
        Some(token) if token.starts_with("b/") => {
            let last = position(&token[2..])?.clamp(stream.dropped, end);
            (last.saturating_sub(limit).max(stream.dropped), last)
        }
        Some(_) => return Err(ApiError::invalid("The specified nextToken is invalid.")),
        None if input.flag("startFromHead") == Some(true) => (stream.dropped, (stream.dropped + limit).min(end)),
        None => (end.saturating_sub(limit).max(stream.dropped), end),
    };
    let shown = stream.events.range(first - stream.dropped..last - stream.dropped);
    let shown = shown.filter(|event| (from..until).contains(&event.timestamp));
    let events: Vec<Value> = shown
        .map(|event| {
            json!({"timestamp": event.timestamp, "message": event.message, "ingestionTime": event.ingested_at.millis()})
        })
        .collect();
    Ok(json!({
        "events": events,
        "nextForwardToken": format!("f/{last}"),
        "nextBackwardToken": format!("b/{first}"),
    }))
}

fn filter_events(cloud: &mut Cloud, input: &Value) -> Reply {
    let limit = limit(input)?;
    let (from, until) = window(input);
    let pattern = input.text("filterPattern").unwrap_or_default().trim_matches('"');
    let prefix = input.text("logStreamNamePrefix").unwrap_or_default();
    let named = input.texts("logStreamNames");
    let group = group_mut(cloud, input)?;
    let mut found: Vec<(String, Value)> = Vec::new();
    for (name, stream) in &group.streams {
        if !name.starts_with(prefix) || !(named.is_empty() || named.contains(&name.as_str())) {
            continue;
        }
        let stream_digits = name.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        for (index, event) in stream.events.iter().enumerate() {
            if (from..until).contains(&event.timestamp) && event.message.contains(pattern) {
                let position = stream.dropped + index;
                let key = format!("{:020} {:020} {name} {position:012}", event.timestamp, event.ingested_at.millis());
                let shown = json!({
                    "logStreamName": name,
                    "timestamp": event.timestamp,
                    "message": event.message,
                    "ingestionTime": event.ingested_at.millis(),
                    "eventId": format!("{:020}{stream_digits:024}{position:012}", event.timestamp),
                });
                found.push((key, shown));
            }
        }
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    if input.flag("startFromHead") == Some(false) {
        if from < NEWEST_FIRST_FROM {
            return Err(ApiError::invalid("startFromHead can be false only if startTime is on or after Jan 1, 2024."));
        }
        found.reverse();
    }
    let limit = i64::try_from(limit).ok();
    let page = page(found, input.text("nextToken"), limit, Limits { default: 10_000, max: 10_000 })?;
    Ok(page.document("events", "nextToken"))
}

fn limit(input: &Value) -> Result<usize, ApiError> {
    let asked = input.number("limit").unwrap_or(10_000);
    let fits = usize::try_from(asked).ok().filter(|limit| (1..=10_000).contains(limit));
    fits.ok_or_else(|| ApiError::invalid("limit must be between 1 and 10000"))
}

fn window(input: &Value) -> (i64, i64) {
    (input.number("startTime").unwrap_or(0), input.number("endTime").unwrap_or(i64::MAX))
}

/// The group, by name or ARN.
fn group_mut<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Group, ApiError> {
    let name = match input.text("logGroupIdentifier") {
        Some(identifier) if identifier.starts_with("arn:") => name_of(identifier).trim_end_matches(":*"),
        Some(identifier) => identifier,
        None => input.need("logGroupName")?,
    };
    cloud.logs.groups.get_mut(name).ok_or_else(no_group)
}

fn stream_mut<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Stream, ApiError> {
    let name = input.need("logStreamName")?;
    let missing = || ApiError::new("ResourceNotFoundException", "The specified log stream does not exist.");
    group_mut(cloud, input)?.streams.get_mut(name).ok_or_else(missing)
}

/// Tag operations take the ARN without the `:*` at the end of `arn` in [`describe_groups`].
fn tagged<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Tags, ApiError> {
    let arn = input.need("resourceArn")?;
    if arn.ends_with(":*") {
        return Err(ApiError::invalid(format!("{arn} ends in :*; use the ARN without it for tags")));
    }
    let group = cloud.logs.groups.get_mut(name_of(arn)).filter(|group| group.arn == arn);
    Ok(&mut group.ok_or_else(no_group)?.tags)
}

fn no_group() -> ApiError {
    ApiError::new("ResourceNotFoundException", "The specified log group does not exist.")
}
