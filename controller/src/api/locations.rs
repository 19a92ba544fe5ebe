//! `/v1/locations`: reads return the status store, writes are commits.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use codeloc_core::ids::Commit;
use codeloc_core::status::{LocationStatus, Reason};
use codeloc_crds::LocationName;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::access::Caller;
use super::idempotency::idempotent;
use super::problem::{self, Problem};
use super::{App, Written};
use crate::config_source::write::{Change, WriteError};
use crate::status::events::{EventReason, NewEvent};
use crate::status::metrics::WriteOutcome;

type Named = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

/// Return the statuses of all locations.
#[utoipa::path(get, path = "/v1/locations", tag = "locations",
    responses((status = 200, body = Vec<LocationStatus>), problem::Read))]
pub async fn list(State(app): State<App>) -> Json<Vec<LocationStatus>> {
    Json(app.control.statuses())
}

/// Return the status of one location.
#[utoipa::path(get, path = "/v1/locations/{name}", tag = "locations", params(("name" = String, Path)),
    responses((status = 200, body = LocationStatus), problem::Read, problem::OneLocation))]
pub async fn show(State(app): State<App>, name: Named) -> Result<Json<LocationStatus>, Problem> {
    let Path(name) = name?;
    app.control.status(&name).map(Json).ok_or_else(|| Problem::no_such_location(&name))
}

/// Fields of a config: see the schema of `config.yml`.
#[derive(ToSchema)]
#[schema(value_type = Object, example = json!({"name": "orders", "git_url": "https://github.com/shop/orders.git", "module": "orders.definitions"}))]
#[expect(dead_code, reason = "describes a body in the OpenAPI document")]
pub struct ConfigFields(Map<String, Value>);

/// Add a location: commit its config.
///
/// The body is the config, as JSON or as the text of a `config.yml`.
#[utoipa::path(post, path = "/v1/locations", tag = "locations",
    params(("Idempotency-Key" = Option<String>, Header, description = "codeloc performs a write with this key once; it performs a write that failed again")),
    request_body(content((ConfigFields = "application/json"), (String = "application/yaml"))),
    responses((status = 201, body = Written, description = "The config is committed; codeloc creates the location"),
        problem::Read, problem::OneLocation, problem::Write))]
pub async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = body?;
    let kind = content_type(&headers);
    let (name, change) = if kind.ends_with("yaml") || kind == "text/plain" {
        let text = String::from_utf8(body.to_vec())
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the config is not UTF-8 text; encode it as UTF-8"))?;
        (name_in(&text)?, Change::AddText(text))
    } else {
        let fields = object(&headers, &body)?;
        let Some(Value::String(name)) = fields.get("name") else {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the config has no text field `name`; add it"));
        };
        (name.clone(), Change::Add(fields))
    };
    let message = format!("Add location {name}");
    let location = format!("/v1/locations/{name}");
    let written = write(app, caller, &headers, name, Request::Change(change, message)).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(written)).into_response())
}

/// Change fields of a config. Objects are merged, lists are replaced, and null removes a field.
#[utoipa::path(patch, path = "/v1/locations/{name}", tag = "locations",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body = ConfigFields,
    responses((status = 200, body = Written), problem::Read, problem::OneLocation, problem::Write))]
pub async fn update(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    name: Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Written>, Problem> {
    let Path(name) = name?;
    let fields = object(&headers, &body?)?;
    let named: Vec<&str> = fields.keys().map(String::as_str).collect();
    let message = format!("Change {} of location {name}", named.join(", "));
    write(app, caller, &headers, name, Request::Change(Change::Set(fields), message)).await.map(Json)
}

/// Remove a location: commit the removal of its config. codeloc then deletes its AWS resources, but not its objects in S3.
#[utoipa::path(delete, path = "/v1/locations/{name}", tag = "locations",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Written), problem::Read, problem::OneLocation, problem::Write))]
pub async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    name: Named,
    headers: HeaderMap,
) -> Result<Json<Written>, Problem> {
    let Path(name) = name?;
    let message = format!("Remove location {name}");
    write(app, caller, &headers, name, Request::Change(Change::Remove, message)).await.map(Json)
}

/// Return the config from the config repository.
#[utoipa::path(get, path = "/v1/locations/{name}/config", tag = "locations", params(("name" = String, Path)),
    responses((status = 200, body = Object, content_type = "application/yaml"), problem::Read, problem::OneLocation, problem::Write))]
pub async fn config(State(app): State<App>, name: Named) -> Result<Response, Problem> {
    let Path(name) = name?;
    let name = LocationName::new(&name).map_err(WriteError::from)?;
    let text = app.control.config(&name).await?.ok_or_else(|| Problem::from(WriteError::Missing(name)))?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

/// Plan one location without changing anything.
#[utoipa::path(get, path = "/v1/locations/{name}/plan", tag = "locations", params(("name" = String, Path)),
    responses((status = 200, body = Object, description = "The plan in the format of `codeloc plan --json`"), problem::Read, problem::OneLocation))]
pub async fn plan(State(app): State<App>, name: Named) -> Result<Json<Value>, Problem> {
    let Path(name) = name?;
    let name = known(&app, &name)?;
    Ok(Json(app.control.plan(&name).await?))
}

/// Reconcile a location now: read its config, its branch and AWS.
#[utoipa::path(post, path = "/v1/locations/{name}/sync", tag = "locations", params(("name" = String, Path)),
    responses((status = 202, description = "codeloc reconciles the location"), problem::Read, problem::OneLocation))]
pub async fn sync(State(app): State<App>, name: Named) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let name = known(&app, &name)?;
    app.control.trigger(Some(&name));
    Ok(StatusCode::ACCEPTED)
}

/// Delete a removed location now, without waiting until its runs end. These runs fail.
#[utoipa::path(post, path = "/v1/locations/{name}/abandon-runs", tag = "locations", params(("name" = String, Path)),
    responses((status = 202, description = "codeloc deletes the location"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The location does not wait for runs, or another daemon holds the lease"),
        problem::Read, problem::OneLocation))]
pub async fn abandon_runs(State(app): State<App>, name: Named) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let name = known(&app, &name)?;
    let waits = app
        .control
        .status(&name)
        .is_some_and(|status| status.conditions.iter().any(|dated| dated.condition.reason == Reason::WaitingForRuns));
    if !waits {
        let detail = format!("`{name}` does not wait for runs; remove its config first, with `codeloc remove {name}`");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    app.control.abandon_runs(&name);
    Ok(StatusCode::ACCEPTED)
}

/// Look for the image of a location again, and build it if the registry does not have it.
///
/// Use it after a failed build, or after the tag of the base image has moved.
#[utoipa::path(post, path = "/v1/locations/{name}/retry", tag = "locations", params(("name" = String, Path)),
    responses((status = 202, description = "codeloc reconciles the location"), problem::Read, problem::OneLocation))]
pub async fn retry(State(app): State<App>, name: Named) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let name = known(&app, &name)?;
    app.control.retry(&name);
    Ok(StatusCode::ACCEPTED)
}

/// Reconcile all locations now.
#[utoipa::path(post, path = "/v1/sync", tag = "daemon",
    responses((status = 202, description = "codeloc reconciles all locations"), problem::Read))]
pub async fn sync_all(State(app): State<App>) -> StatusCode {
    app.control.trigger(None);
    StatusCode::ACCEPTED
}

/// Suspend a location: commit `mode: suspended` and the previous mode as `mode_when_resumed`.
#[utoipa::path(post, path = "/v1/locations/{name}/suspend", tag = "locations",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Written), problem::Read, problem::OneLocation, problem::Write))]
pub async fn suspend(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    name: Named,
    headers: HeaderMap,
) -> Result<Json<Written>, Problem> {
    let Path(name) = name?;
    let message = format!("Suspend location {name}");
    write(app, caller, &headers, name, Request::Change(Change::Suspend, message)).await.map(Json)
}

/// Resume a suspended location: commit its previous mode. Does nothing if the location is not suspended.
#[utoipa::path(post, path = "/v1/locations/{name}/resume", tag = "locations",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Written), problem::Read, problem::OneLocation, problem::Write))]
pub async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    name: Named,
    headers: HeaderMap,
) -> Result<Json<Written>, Problem> {
    let Path(name) = name?;
    let message = format!("Resume location {name}");
    write(app, caller, &headers, name, Request::Change(Change::Resume, message)).await.map(Json)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// All 40 digits of the commit; by default, the commit that served before the current one.
    #[schema(value_type = Option<String>, pattern = "^[0-9a-f]{40}$")]
    commit: Option<Commit>,
}

/// Roll a location back to an earlier commit: commit `commit:` instead of `branch:`.
#[utoipa::path(post, path = "/v1/locations/{name}/rollback", tag = "locations",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    request_body(content = Option<Rollback>, content_type = "application/json"),
    responses((status = 200, body = Written), problem::Read, problem::OneLocation, problem::Write))]
pub async fn rollback(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    name: Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Written>, Problem> {
    let Path(name) = name?;
    let body = body?;
    let rollback = if body.is_empty() { Rollback::default() } else { from_json(&headers, &body)? };
    write(app, caller, &headers, name, Request::Rollback(rollback.commit)).await.map(Json)
}

/// A write as the client asked for it. A repetition of the request is equal, even if codeloc knows more then.
#[derive(Debug)]
enum Request {
    Change(Change, String),
    /// To this commit; by default, the one that served before the current one.
    Rollback(Option<Commit>),
}

impl Request {
    /// The change and its message.
    fn resolve(self, app: &App, name: &str) -> Result<(Change, String), Problem> {
        let commit = match self {
            Self::Change(change, message) => return Ok((change, message)),
            Self::Rollback(commit) => commit,
        };
        let status = app.control.status(name).ok_or_else(|| Problem::no_such_location(name))?;
        let commit = commit.or(status.previous_commit).ok_or_else(|| {
            let detail = "codeloc knows no earlier commit that served this location; set `commit`, or pass --to COMMIT";
            Problem::new(StatusCode::CONFLICT, detail)
        })?;
        let change = Change::Set(fields(json!({"branch": null, "tag": null, "commit": commit})));
        Ok((change, format!("Roll location {name} back to {commit}")))
    }
}

/// Commits a change and reconciles the location, also if the client leaves meanwhile.
async fn write(
    app: App,
    caller: Caller,
    headers: &HeaderMap,
    name: String,
    request: Request,
) -> Result<Written, Problem> {
    let digested = [caller.name.clone(), name.clone(), format!("{request:?}")];
    let writing = app.clone();
    idempotent(&app, headers, &digested.each_ref().map(String::as_str), async move {
        let written = perform(&writing, &caller, &name, request).await;
        let outcome = match &written {
            Ok(written) if written.changed => WriteOutcome::Written,
            Ok(_) => WriteOutcome::Unchanged,
            Err(problem) if problem.status >= 500 => WriteOutcome::Failed,
            Err(_) => WriteOutcome::Refused,
        };
        writing.control.recorder().metrics.count_config_write(outcome);
        written
    })
    .await
}

async fn perform(app: &App, caller: &Caller, name: &str, request: Request) -> Result<Written, Problem> {
    let (change, message) = request.resolve(app, name)?;
    let name = LocationName::new(name).map_err(WriteError::from)?;
    let written = app.control.write(&name, &change, &message, &caller.author()).await?;
    if written.changed {
        let new_event = NewEvent::of(&name, EventReason::ConfigWritten, format!("{}: {message}", caller.name));
        app.control.recorder().record(new_event.from_commit(written.commit.clone()));
    }
    app.control.trigger(Some(&name));
    Ok(Written::from(written))
}

/// The name of a location that has a status.
pub(super) fn known(app: &App, name: &str) -> Result<LocationName, Problem> {
    let name_of = |_| LocationName::new(name).ok();
    app.control.status(name).and_then(name_of).ok_or_else(|| Problem::no_such_location(name))
}

fn content_type(headers: &HeaderMap) -> String {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_lowercase()
}

fn from_json<T: for<'de> Deserialize<'de>>(headers: &HeaderMap, body: &[u8]) -> Result<T, Problem> {
    let kind = content_type(headers);
    // A form on a foreign page can send other types, but not this one.
    if kind != "application/json" && kind != "application/merge-patch+json" {
        let detail = format!("the content type is `{kind}`; send `Content-Type: application/json`");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the body is not valid JSON for this request: {error}"))
    })
}

fn object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, Problem> {
    from_json(headers, body)
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The `name` in the text of a config.
fn name_in(text: &str) -> Result<String, Problem> {
    // The writer checks the rest of the config, and that the name equals the folder.
    let unnamed = || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the config has no `name`; add it");
    let line = text.lines().find_map(|line| line.strip_prefix("name:")).ok_or_else(unnamed)?;
    let name = line.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    if name.is_empty() { Err(unnamed()) } else { Ok(name.to_owned()) }
}
