//! `/v1/locations/{name}/logs`: the newest lines of a location's log, and a stream of new ones.

mod follow;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use codeloc_crds::LocationName;
use serde::Deserialize;
use utoipa::IntoParams;

use super::locations::known;
use super::problem::{self, Problem};
use super::{App, LAST_EVENT_ID, Line, Logs};
use follow::Follow;

/// Interval between two reads of a log that a client follows.
const POLL: Duration = Duration::from_secs(2);
const MAX_LINES: u16 = 1000;

type Named = Result<Path<String>, PathRejection>;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// Maximum number of lines; the newest ones count.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    lines: Option<u16>,
    /// Only lines after this time, in milliseconds since the epoch.
    after: Option<i64>,
}

impl LogsQuery {
    fn selection(&self) -> Result<Logs, Problem> {
        let lines = self.lines.unwrap_or(100);
        if !(1..=MAX_LINES).contains(&lines) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("`lines` is {lines}; set it to 1 to {MAX_LINES}"),
            ));
        }
        if self.after.is_some_and(|after| after < 0) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "`after` is negative; set it to a time in milliseconds since the epoch",
            ));
        }
        Ok(Logs { lines, after: self.after })
    }
}

/// Return log lines of a location's code server and runs. The oldest line is first.
#[utoipa::path(get, path = "/v1/locations/{name}/logs", tag = "locations", params(("name" = String, Path), LogsQuery),
    responses((status = 200, body = Vec<Line>), problem::Read, problem::OneLocation))]
pub async fn logs(
    State(app): State<App>,
    name: Named,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<Vec<Line>>, Problem> {
    let (Path(name), Query(query)) = (name?, query?);
    let selection = query.selection()?;
    let name = known(&app, &name)?;
    Ok(Json(app.control.logs(&name, selection).await?))
}

/// Stream the same log lines and new ones as server-sent events.
///
/// With the header `Last-Event-ID`, the stream continues from that line, and may repeat lines of the 30 seconds before it.
#[utoipa::path(get, path = "/v1/locations/{name}/logs/stream", tag = "locations",
    params(("name" = String, Path), LogsQuery, ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, body = String, content_type = "text/event-stream"), problem::Read, problem::OneLocation))]
pub async fn follow_logs(
    State(app): State<App>,
    name: Named,
    query: Result<Query<LogsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (Path(name), Query(query)) = (name?, query?);
    let selection = query.selection()?;
    let name = known(&app, &name)?;
    let permit = app.limits.stream()?;
    let resumed = headers.get(LAST_EVENT_ID).and_then(|id| time_in(id.to_str().ok()?));
    let (follow, first) = match resumed {
        Some(at) => (Follow::resume(at), vec![]),
        None => Follow::start(app.control.logs(&name, selection).await?, selection),
    };
    let state = LogStream { app, name, follow, waiting: first.into(), rest: None, _permit: permit };
    let stream = futures::stream::unfold(state, |mut state| async move {
        let event = state.next().await;
        Some((Ok::<_, Infallible>(event), state))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// The id of a line in a stream: its time, and the id that CloudWatch Logs gave it. It means the same to every daemon.
fn id_of(line: &Line) -> String {
    format!("{}-{}", line.at, line.id)
}

fn time_in(id: &str) -> Option<i64> {
    id.split_once('-')?.0.parse().ok()
}

struct LogStream {
    app: App,
    name: LocationName,
    follow: Follow,
    waiting: VecDeque<Line>,
    /// The rest of the current read: where it began, and the token of its next page.
    rest: Option<(i64, String)>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl LogStream {
    /// The next line. Reads a page only after the client took the lines of the last one, so that memory stays bounded.
    async fn next(&mut self) -> Event {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Event::default().event("line").id(id_of(&line)).json_data(line).unwrap_or_default();
            }
            let (from, page) = if let Some((from, page)) = self.rest.take() {
                (from, Some(page))
            } else {
                tokio::time::sleep(POLL).await;
                (self.follow.from(), None)
            };
            match self.app.control.log_page(&self.name, from, page).await {
                Ok(page) => {
                    self.waiting = self.follow.new_lines(page.lines).into();
                    self.rest = page.next.map(|next| (from, next));
                }
                Err(error) => return Event::default().event("fault").data(error.to_string()),
            }
        }
    }
}
