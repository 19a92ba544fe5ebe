//! Reads the logs of tasks.

use aws_sdk_cloudwatchlogs::types::OrderBy;

use crate::error::CallError;
use crate::session::Session;

/// Streams of one location that are read: the tasks that write at the same time, and some that ended recently.
const STREAMS: i32 = 10;

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Milliseconds since the epoch.
    pub at: i64,
    pub stream: String,
    pub text: String,
}

/// The newest lines of one revision's newest task, the oldest first.
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

/// The newest lines of all tasks of a location, the oldest first. `after` (milliseconds) excludes older lines.
pub async fn lines(
    session: Session<'_>,
    group: &str,
    lines: i32,
    after: Option<i64>,
) -> Result<Vec<LogLine>, CallError> {
    let logs = &session.clients.logs;
    let request = logs.describe_log_streams().log_group_name(group).order_by(OrderBy::LastEventTime).descending(true);
    let streams = match session.call("logs:DescribeLogStreams", request.limit(STREAMS).send()).await {
        Ok(streams) => streams,
        Err(error) if error.is(&["ResourceNotFoundException"]) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    // CloudWatch Logs updates a stream's last event time up to an hour late, so it excludes no stream here.
    for name in streams.log_streams().iter().filter_map(|stream| stream.log_stream_name()) {
        let request = logs.get_log_events().log_group_name(group).log_stream_name(name).limit(lines);
        let request = request.start_from_head(false).set_start_time(after.map(|after| after.saturating_add(1)));
        let answer = session.call("logs:GetLogEvents", request.send()).await?;
        all.extend(answer.events().iter().map(|event| LogLine {
            at: event.timestamp().unwrap_or_default(),
            stream: name.to_owned(),
            text: event.message().unwrap_or_default().trim_end().to_owned(),
        }));
    }
    Ok(newest(all, usize::try_from(lines).unwrap_or(0)))
}

/// The last `lines` in the order of their time.
fn newest(mut all: Vec<LogLine>, lines: usize) -> Vec<LogLine> {
    all.sort_by_key(|line| line.at);
    let surplus = all.len().saturating_sub(lines);
    all.split_off(surplus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_streams_are_merged_by_time() {
        let line = |at, stream: &str| LogLine { at, stream: stream.to_owned(), text: String::new() };
        let all = vec![line(1, "a"), line(4, "a"), line(2, "b"), line(3, "b")];
        assert_eq!(newest(all.clone(), 3), [line(2, "b"), line(3, "b"), line(4, "a")]);
        assert_eq!(newest(all, 9).len(), 4);
    }
}
