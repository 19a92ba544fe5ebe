//! `/v1/costs`: what Fargate is estimated to take.

use axum::Json;
use axum::extract::State;

use super::App;
use super::problem;
use crate::cost::Cost;

/// Dollars a month by location: of the fewest tasks, of those that run and of the most.
#[utoipa::path(get, path = "/v1/costs", tag = "daemon", responses((status = 200, body = Vec<Cost>), problem::Read))]
pub async fn list(State(app): State<App>) -> Json<Vec<Cost>> {
    Json(app.control.costs())
}
