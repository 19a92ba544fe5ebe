//! The REST API: what is, what is planned, what happened; and writing, which means committing to the config repository.
//!
//! Guarantees: nothing here holds up a reconcile; a request is bounded in size and time, and all of them in number; whoever has no
//! token gets nothing but the two probes, the description and the page, and without any tokens only loopback is served.

pub mod access;
mod connection_slots;
mod control;
mod costs;
mod events;
pub mod hooks;
mod idempotency;
mod limits;
mod locations;
mod problem;
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
pub use control::{Call, Control, DaemonStatus, Line, Logs, PlanError, Readiness, Written};
use hooks::Secret;
use idempotency::Idempotency;
use limits::Limits;
use problem::Problem;

/// The probes of whatever keeps this process alive: they have room of their own, so that no crowd of clients reads as a dead daemon.
const HEALTHY: &str = "/healthz";
const READY: &str = "/readyz";
const HOOKS: &str = "/hooks/git";

/// What every handler may use.
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
        description = "Dagster code locations on AWS ECS, kept as a git folder of configs says. Errors are problem+json (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "locations", description = "Code locations: one config of the config repository each"),
        (name = "daemon", description = "The daemon as a whole"),
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
            .description(Some("A token out of `api.tokens_file`; none where there is no such file"))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Described routes.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(locations::list, locations::add))
        .routes(routes!(locations::show, locations::update, locations::remove))
        .routes(routes!(locations::config))
        .routes(routes!(locations::plan))
        .routes(routes!(locations::logs))
        .routes(routes!(locations::follow_logs))
        .routes(routes!(locations::sync))
        .routes(routes!(locations::suspend))
        .routes(routes!(locations::resume))
        .routes(routes!(locations::rollback))
        .routes(routes!(locations::sync_all))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
        .routes(routes!(costs::list))
        .routes(routes!(status))
}

/// The description, as `/openapi.json` serves it.
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
    // Serialized once: clients without a token may request it without limit.
    let openapi = Bytes::from(serde_json::to_vec(&openapi).expect("a description is JSON"));
    described
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn_with_state(app.clone(), access::require))
        .route(HOOKS, axum::routing::post(hooks::git))
        .route(HEALTHY, get(|| async { "ok\n" }))
        .route(READY, get(readyz))
        .route("/openapi.json", get(move || async move { ([(header::CONTENT_TYPE, "application/json")], openapi) }))
        .route("/", get(ui::show))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path; see /openapi.json") })
        .method_not_allowed_fallback(|method: Method| async move {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for this path; see /openapi.json"))
        })
        .layer(middleware::from_fn(access::refuse_foreign_origins))
        .layer(axum::extract::DefaultBodyLimit::max(limits::LARGEST_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), limits::bound))
        .with_state(app)
}

async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    let Readiness { ready, fault } = app.control.readiness();
    let fault = fault.map_or_else(String::new, |fault| format!("{fault}\n"));
    if ready { (StatusCode::OK, format!("ok\n{fault}")) } else { (StatusCode::SERVICE_UNAVAILABLE, fault) }
}

/// The daemon: its version, mode, lease, and the commit of the configs.
#[utoipa::path(get, path = "/v1/status", tag = "daemon", responses((status = 200, body = DaemonStatus), problem::Read))]
async fn status(State(app): State<App>) -> Json<DaemonStatus> {
    Json(app.control.daemon())
}

async fn metrics(State(app): State<App>) -> Response {
    let scrape = app.control.scrape();
    let text = app.control.recorder().metrics.render(&scrape);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
