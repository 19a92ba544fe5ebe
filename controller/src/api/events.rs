//! `/v1/events`: recorded events, and a stream of new ones.

use std::convert::Infallible;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

use super::problem::{self, Problem};
use super::{App, LAST_EVENT_ID};
use crate::settings::Severity;
use crate::status::events::{Event, EventId, Events};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events of this location.
    location: Option<String>,
    /// Only events of at least this severity.
    severity: Option<Severity>,
    /// Only events after the one with this id. With `0`, or the id of an event of another process: all recorded events.
    after: Option<String>,
}

/// From where a client wants the recorded events.
#[derive(Clone, Copy, Debug)]
enum After {
    Start,
    Id(EventId),
}

impl After {
    fn parse(text: &str) -> Result<Self, Problem> {
        if text == "0" {
            return Ok(Self::Start);
        }
        text.parse().map(Self::Id).map_err(|why: String| {
            Problem::new(StatusCode::BAD_REQUEST, format!("`after`: {why}, or 0 for all events"))
        })
    }

    fn includes(self, events: &Events, event: &Event) -> bool {
        match self {
            Self::Start => true,
            Self::Id(id) => events.is_after(event, id),
        }
    }
}

impl EventsQuery {
    fn matches(&self, event: &Event) -> bool {
        self.location.as_ref().is_none_or(|name| event.location.as_ref() == Some(name))
            && self.severity.is_none_or(|least| event.severity >= least)
    }

    fn after(&self) -> Result<Option<After>, Problem> {
        self.after.as_deref().map(After::parse).transpose()
    }
}

/// Return the last thousand events of this process, in the order of their last occurrence.
#[utoipa::path(get, path = "/v1/events", tag = "daemon", params(EventsQuery),
    responses((status = 200, body = Vec<Event>), problem::Read))]
pub async fn list(
    State(app): State<App>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Vec<Event>>, Problem> {
    let Query(query) = query?;
    let after = query.after()?.unwrap_or(After::Start);
    let events = &app.control.recorder().events;
    Ok(Json(events.list(|event| query.matches(event) && after.includes(events, event))))
}

/// Stream events as server-sent events. With `after` or the header `Last-Event-ID`, the stream starts with the recorded events since then.
///
/// The header takes precedence: a browser repeats the query when it reconnects.
#[utoipa::path(get, path = "/v1/events/stream", tag = "daemon",
    params(EventsQuery, ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, body = String, content_type = "text/event-stream"), problem::Read))]
pub async fn stream(
    State(app): State<App>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let after = query.after()?;
    let resumed = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok()).map(After::Id);
    let permit = app.limits.stream()?;
    let events = &app.control.recorder().events;
    // Subscribing before listing loses no event; the numbers remove duplicates.
    let receiver = events.subscribe();
    let mut past = match resumed.or(after) {
        Some(after) => events.list(|event| query.matches(event) && after.includes(events, event)),
        None => vec![],
    };
    // The last id that a client receives is then the highest.
    past.sort_by_key(|event| event.id.number);
    let last = past.last().map_or(0, |event| event.id.number);
    let state = (past.into_iter(), receiver, query, last, permit);
    let stream = futures::stream::unfold(state, |(mut past, mut receiver, query, last, permit)| async move {
        let message = match past.next() {
            Some(event) => message(&event),
            None => loop {
                match receiver.recv().await {
                    Ok(event) if event.id.number > last && query.matches(&event) => break message(&event),
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        break Message::default().event("missed").data(missed.to_string());
                    }
                    Err(RecvError::Closed) => return None,
                }
            },
        };
        Some((Ok::<_, Infallible>(message), (past, receiver, query, last, permit)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

fn message(event: &Event) -> Message {
    Message::default().event("event").id(event.id.to_string()).json_data(event).unwrap_or_default()
}
