//! The REST API: statuses, plans, events and logs. A write is a commit to the config repository.
//!
//! Guarantees: no request delays a reconcile; requests are bounded in size, time and number. Without a token, a client gets only the
//! probes, the OpenAPI description and the page; without a tokens file, codeloc answers only loopback.

pub mod access;
mod connection_slots;
mod control;
mod costs;
mod events;
pub mod hooks;
mod idempotency;
mod limits;
mod locations;
mod logs;
mod problem;
mod repository_url;
pub mod serve;
#[cfg(test)]
mod tests;
mod timeouts;
mod ui;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use access::Access;
pub use control::{Call, Control, DaemonStatus, Line, LogPage, Logs, PlanError, Readiness, Written};
use hooks::Secret;
use idempotency::Idempotency;
use limits::Limits;
use problem::Problem;
pub use repository_url::RepositoryUrl;

/// Health probes. They have reserved capacity, so that the daemon does not appear dead because of many clients.
const HEALTHY: &str = "/healthz";
const READY: &str = "/readyz";
const HOOKS: &str = "/hooks/git";
/// The header in which a client of a stream repeats the last id that it received.
const LAST_EVENT_ID: &str = "last-event-id";

/// State of all handlers.
#[derive(Clone)]
pub struct App {
    control: Arc<dyn Control>,
    access: Arc<Access>,
    hooks: Arc<Secret>,
    idempotency: Arc<Idempotency>,
    limits: Arc<Limits>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "codeloc",
        description = "Manage Dagster code locations on AWS ECS that a git folder of configs describes. Errors are problem documents (application/problem+json, RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "locations", description = "Code locations. Each one has a config in the config repository."),
        (name = "daemon", description = "The daemon"),
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Description;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token from `api.tokens_file`. Not needed if this setting is not set."))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Routes of the OpenAPI description.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(locations::list, locations::add))
        .routes(routes!(locations::show, locations::update, locations::remove))
        .routes(routes!(locations::config))
        .routes(routes!(locations::plan))
        .routes(routes!(logs::logs))
        .routes(routes!(logs::follow_logs))
        .routes(routes!(locations::sync))
        .routes(routes!(locations::abandon_runs))
        .routes(routes!(locations::retry))
        .routes(routes!(locations::suspend))
        .routes(routes!(locations::resume))
        .routes(routes!(locations::rollback))
        .routes(routes!(locations::sync_all))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
        .routes(routes!(costs::list))
        .routes(routes!(status))
}

/// The OpenAPI description that `/openapi.json` returns.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

pub fn router(control: Arc<dyn Control>, access: Access, hooks: Secret) -> Router {
    router_within(Limits::default(), control, access, hooks)
}

fn router_within(limits: Limits, control: Arc<dyn Control>, access: Access, hooks: Secret) -> Router {
    let app = App {
        control,
        access: Arc::new(access),
        hooks: Arc::new(hooks),
        idempotency: Arc::default(),
        limits: Arc::new(limits),
    };
    let (described, openapi) = routes().split_for_parts();
    // Serialised once: clients without a token may request it any number of times.
    let openapi = Bytes::from(serde_json::to_vec(&openapi).expect("the description serialises"));
    described
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn_with_state(app.clone(), access::require))
        .route(HOOKS, axum::routing::post(hooks::git))
        .route(HEALTHY, get(|| async { "ok\n" }))
        .route(READY, get(readyz))
        .route("/openapi.json", get(move || async move { ([(header::CONTENT_TYPE, "application/json")], openapi) }))
        .route("/", get(ui::show))
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "this path does not exist; /openapi.json lists all paths")
        })
        .method_not_allowed_fallback(|method: Method| async move {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("this path does not support {method}; see /openapi.json"),
            )
        })
        .layer(middleware::from_fn(access::refuse_foreign_origins))
        .layer(axum::extract::DefaultBodyLimit::max(limits::MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), limits::enforce))
        .with_state(app)
}

async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    let Readiness { ready, fault } = app.control.readiness();
    let fault = fault.map_or_else(String::new, |fault| format!("{fault}\n"));
    if ready { (StatusCode::OK, format!("ok\n{fault}")) } else { (StatusCode::SERVICE_UNAVAILABLE, fault) }
}

/// Return version, mode and lease of the daemon, the commit of the configs, and faults.
#[utoipa::path(get, path = "/v1/status", tag = "daemon", responses((status = 200, body = DaemonStatus), problem::Read))]
async fn status(State(app): State<App>) -> Json<DaemonStatus> {
    Json(app.control.daemon())
}

async fn metrics(State(app): State<App>) -> Response {
    let scrape = app.control.scrape();
    let text = app.control.recorder().metrics.render(&scrape);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
