//! Reads the logs of tasks.
//!
//! Guarantee: what people read (`newest`, `since`) uses only `FilterLogEvents`, whose rate limit reconciling does not share.

use aws_sdk_cloudwatchlogs::operation::filter_log_events::builders::FilterLogEventsFluentBuilder;
use aws_sdk_cloudwatchlogs::types::LogStream;

use crate::error::CallError;
use crate::session::Session;

/// 2024-01-01, the earliest start for which `FilterLogEvents` returns the newest lines first.
const EARLIEST: i64 = 1_704_067_200_000;
/// Pages of one read of the newest lines. A page can be empty although more follow.
const MAX_PAGES: usize = 50;
/// Lines of one page of [`since`], which bounds the memory of a reader.
const PAGE: i32 = 2000;
/// Pages of 50 streams. A revision that fails has at most a few hundred tasks before ECS rolls it back.
const MAX_STREAM_PAGES: usize = 20;

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The id that CloudWatch Logs gave the line.
    pub id: String,
    /// Milliseconds since the epoch.
    pub at: i64,
    pub stream: String,
    pub text: String,
}

/// Lines, the oldest first, and the token of the next page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    pub lines: Vec<LogLine>,
    pub next: Option<String>,
}

/// The newest lines of one revision's newest task, the oldest first.
pub async fn tail(
    session: Session<'_>,
    group: &str,
    stream_prefix: &str,
    lines: i32,
) -> Result<Vec<String>, CallError> {
    let Some(stream) = newest_stream(session, group, stream_prefix).await? else { return Ok(vec![]) };
    let request = session.clients.logs.get_log_events().log_group_name(group).log_stream_name(stream);
    let answer = session.call("logs:GetLogEvents", request.limit(lines).start_from_head(false).send()).await?;
    Ok(answer.events().iter().filter_map(|event| event.message().map(str::to_owned)).collect())
}

/// The stream that was created last. CloudWatch Logs updates the time of a stream's last line up to an hour late.
async fn newest_stream(session: Session<'_>, group: &str, prefix: &str) -> Result<Option<String>, CallError> {
    let mut newest: Option<LogStream> = None;
    let mut token = None;
    for _ in 0..MAX_STREAM_PAGES {
        let request = session.clients.logs.describe_log_streams().log_group_name(group).log_stream_name_prefix(prefix);
        let request = request.limit(50).set_next_token(token);
        let answer = match session.call("logs:DescribeLogStreams", request.send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(&["ResourceNotFoundException"]) => return Ok(None),
            Err(error) => return Err(error),
        };
        token = answer.next_token;
        newest = newest.into_iter().chain(answer.log_streams.unwrap_or_default()).max_by_key(LogStream::creation_time);
        if token.is_none() {
            break;
        }
    }
    Ok(newest.and_then(|stream| stream.log_stream_name))
}

/// The newest lines of all tasks of a location, the oldest first. `after` (milliseconds) excludes older lines.
pub async fn newest(
    session: Session<'_>,
    group: &str,
    lines: u16,
    after: Option<i64>,
) -> Result<Vec<LogLine>, CallError> {
    let from = after.map_or(EARLIEST, |after| after.saturating_add(1).max(EARLIEST));
    let mut found = Vec::new();
    let mut token = None;
    for _ in 0..MAX_PAGES {
        let request = session.clients.logs.filter_log_events().log_group_name(group).start_time(from);
        let request = request.start_from_head(false).limit(i32::from(lines)).set_next_token(token);
        let page = filter(session, request).await?;
        found.extend(page.lines);
        token = page.next;
        if token.is_none() || found.len() >= usize::from(lines) {
            break;
        }
    }
    found.truncate(usize::from(lines));
    found.reverse();
    Ok(found)
}

/// A page of the lines of all tasks of a location from a time (milliseconds) on. `page` is the token of the page before it.
pub async fn since(session: Session<'_>, group: &str, from: i64, page: Option<String>) -> Result<LogPage, CallError> {
    let request = session.clients.logs.filter_log_events().log_group_name(group).start_time(from);
    filter(session, request.start_from_head(true).limit(PAGE).set_next_token(page)).await
}

/// One page. A group that does not exist has no lines.
async fn filter(session: Session<'_>, request: FilterLogEventsFluentBuilder) -> Result<LogPage, CallError> {
    let answer = match session.call("logs:FilterLogEvents", request.send()).await {
        Ok(answer) => answer,
        Err(error) if error.is(&["ResourceNotFoundException"]) => return Ok(LogPage::default()),
        Err(error) => return Err(error),
    };
    let lines = answer.events.unwrap_or_default().into_iter().map(|event| LogLine {
        id: event.event_id.unwrap_or_default(),
        at: event.timestamp.unwrap_or_default(),
        stream: event.log_stream_name.unwrap_or_default(),
        text: event.message.unwrap_or_default().trim_end().to_owned(),
    });
    Ok(LogPage { lines: lines.collect(), next: answer.next_token })
}
