//! HTTP responses with JSON documents.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::api_error::ApiError;

pub fn json(document: &Value) -> Response<Bytes> {
    respond(200, "application/x-amz-json-1.1", document.to_string())
}

pub fn json_error(error: &ApiError, code: &str) -> Response<Bytes> {
    let body = serde_json::json!({"__type": code, "message": error.message});
    let mut response = respond(error.status, "application/x-amz-json-1.1", body.to_string());
    if let Ok(code) = HeaderValue::from_str(code) {
        response.headers_mut().insert("x-amzn-errortype", code);
    }
    response
}

/// A response with a body.
pub fn respond(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
