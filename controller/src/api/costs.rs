//! `/v1/costs`: estimated costs on Fargate.

use axum::Json;
use axum::extract::State;

use super::App;
use super::problem;
use crate::cost::Cost;

/// Estimate dollars per month for each location: with the fewest tasks, with the running tasks and with the most tasks.
#[utoipa::path(get, path = "/v1/costs", tag = "daemon", responses((status = 200, body = Vec<Cost>), problem::Read))]
pub async fn list(State(app): State<App>) -> Json<Vec<Cost>> {
    Json(app.control.costs())
}
