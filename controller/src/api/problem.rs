//! Errors as problem documents (RFC 9457).

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use super::PlanError;
use super::timeouts::was_slow;
use crate::config_source::write::WriteError;

/// The error of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status is the type of the problem.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What is wrong and how to fix it.
    pub detail: String,
    /// The error of an invalid config with file, line, caret and hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            config: None,
        }
    }

    pub fn no_such_location(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no location `{name}`; `codeloc list` or GET /v1/locations shows all of them"),
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let status = match &error {
            WriteError::Exists(_) | WriteError::NoBranch | WriteError::Busy => StatusCode::CONFLICT,
            WriteError::Missing(_) => StatusCode::NOT_FOUND,
            WriteError::Name(_) | WriteError::Invalid(_) | WriteError::NotInPlace(_) | WriteError::NotUtf8 { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            WriteError::Git(_) | WriteError::File { .. } => StatusCode::BAD_GATEWAY,
        };
        let config = match &error {
            WriteError::Invalid(error) => Some(error.render(false)),
            _ => None,
        };
        Self { config, ..Self::new(status, error.to_string()) }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, error.to_string())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if was_slow(&rejection) {
            return Self::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not arrive in time; retry");
        }
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// Errors of all routes.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers in the OpenAPI document")]
pub enum Read {
    #[response(status = 400, description = "The request is malformed.", content_type = "application/problem+json")]
    BadRequest(Problem),
    #[response(
        status = 401,
        description = "The token is missing or unknown.",
        content_type = "application/problem+json"
    )]
    Unauthorized(Problem),
    #[response(
        status = 403,
        description = "The role of the token does not allow the request, or the request comes from a page of another site.",
        content_type = "application/problem+json"
    )]
    Forbidden(Problem),
    #[response(
        status = 405,
        description = "The path does not support the method.",
        content_type = "application/problem+json"
    )]
    Method(Problem),
    #[response(
        status = 503,
        description = "Too many requests, or a timeout.",
        content_type = "application/problem+json"
    )]
    Busy(Problem),
}

/// Additional errors of routes on one location.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers in the OpenAPI document")]
pub enum OneLocation {
    #[response(status = 404, description = "The location does not exist.", content_type = "application/problem+json")]
    NotFound(Problem),
    #[response(
        status = 502,
        description = "AWS or the git host returned an error.",
        content_type = "application/problem+json"
    )]
    Upstream(Problem),
}

/// Additional errors of routes that write.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers in the OpenAPI document")]
pub enum Write {
    #[response(
        status = 409,
        description = "The location already exists, or other pushes interfered.",
        content_type = "application/problem+json"
    )]
    Conflict(Problem),
    #[response(
        status = 408,
        description = "The body was not complete in time.",
        content_type = "application/problem+json"
    )]
    Slow(Problem),
    #[response(status = 413, description = "The body is too large.", content_type = "application/problem+json")]
    TooLarge(Problem),
    #[response(
        status = 415,
        description = "The body is neither JSON nor YAML.",
        content_type = "application/problem+json"
    )]
    MediaType(Problem),
    #[response(status = 422, description = "The config is invalid.", content_type = "application/problem+json")]
    Invalid(Problem),
}
