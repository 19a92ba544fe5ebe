//! `/v1/events`: recorded events, and a stream of new ones.

use std::convert::Infallible;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

use super::App;
use super::problem::{self, Problem};
use crate::settings::Severity;
use crate::status::events::Event;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events of this location.
    location: Option<String>,
    /// Only events of at least this severity.
    severity: Option<Severity>,
    /// Only events with a higher number.
    after: Option<u64>,
}

impl EventsQuery {
    fn matches(&self, event: &Event) -> bool {
        self.location.as_ref().is_none_or(|name| event.location.as_ref() == Some(name))
            && self.severity.is_none_or(|least| event.severity >= least)
            && self.after.is_none_or(|after| event.number > after)
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
    Ok(Json(app.control.recorder().events.list(|event| query.matches(event))))
}

/// Stream events as server-sent events. With `after`, the stream starts with the recorded events since that number.
#[utoipa::path(get, path = "/v1/events/stream", tag = "daemon", params(EventsQuery),
    responses((status = 200, body = String, content_type = "text/event-stream"), problem::Read))]
pub async fn stream(
    State(app): State<App>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let permit = app.limits.stream()?;
    let events = &app.control.recorder().events;
    // Subscribing before listing loses no event; the numbers remove duplicates.
    let receiver = events.subscribe();
    let past = if query.after.is_some() { events.list(|event| query.matches(event)) } else { vec![] };
    let last = past.iter().map(|event| event.number).max().unwrap_or(0);
    let state = (past.into_iter(), receiver, query, last, permit);
    let stream = futures::stream::unfold(state, |(mut past, mut receiver, query, last, permit)| async move {
        let message = match past.next() {
            Some(event) => message(&event),
            None => loop {
                match receiver.recv().await {
                    Ok(event) if event.number > last && query.matches(&event) => break message(&event),
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
    Message::default().event("event").id(event.number.to_string()).json_data(event).unwrap_or_default()
}
