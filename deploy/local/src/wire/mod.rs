//! From an HTTP request to a service, an operation and an input document, and back again.
//!
//! ECS, Cloud Map, ECR, Application Auto Scaling and Logs speak JSON 1.1, IAM and STS the query protocol; S3 has paths
//! and verbs of its own and is only recognised here. Signatures are not checked, but the region they name is.

pub mod query;
pub mod xml;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use serde_json::Value;

use crate::fault::Fault;
use crate::services::Service;

/// A request, understood as far as one can without its service.
#[derive(Clone, Debug)]
pub struct Call {
    pub service: Service,
    pub operation: String,
    pub input: Value,
}

/// A request nobody here answers, or that cannot be read.
#[derive(Debug)]
pub struct Unread {
    pub service: Option<Service>,
    pub operation: String,
    pub fault: Fault,
}

pub fn read(request: &Request<Bytes>) -> Result<Call, Unread> {
    if let Some(target) = header(request.headers(), "x-amz-target") {
        return read_json(target, request.body());
    }
    let form = header(request.headers(), CONTENT_TYPE.as_str())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if form {
        return read_query(request.body());
    }
    let operation = crate::services::s3::operation(request).to_owned();
    Ok(Call { service: Service::S3, operation, input: Value::Null })
}

fn read_json(target: &str, body: &[u8]) -> Result<Call, Unread> {
    let (prefix, operation) = target.split_once('.').unwrap_or((target, ""));
    let service = Service::by_target(prefix);
    let unread = |fault| Unread { service, operation: operation.to_owned(), fault };
    let Some(found) = service else {
        let message = format!("localcloud has no service with the target prefix {prefix}");
        return Err(unread(Fault::new("UnknownOperationException", message)));
    };
    let input = if body.is_empty() { Ok(Value::Object(serde_json::Map::new())) } else { serde_json::from_slice(body) };
    match input {
        Ok(input) => Ok(Call { service: found, operation: operation.to_owned(), input }),
        Err(error) => Err(unread(Fault::new("SerializationException", format!("the body is not JSON: {error}")))),
    }
}

fn read_query(body: &[u8]) -> Result<Call, Unread> {
    let mut input = query::parse(body);
    let mut take = |name| match input.as_object_mut().and_then(|fields| fields.remove(name)) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (operation, version) = (take("Action"), take("Version"));
    if let Some(service) = Service::by_query_version(&version) {
        Ok(Call { service, operation, input })
    } else {
        let message = format!("localcloud has no query service of version '{version}'");
        Err(Unread { service: None, operation, fault: Fault::new("InvalidAction", message) })
    }
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Service and operation of a request, without reading more of it than that takes.
pub fn name(request: &Request<Bytes>) -> Option<(Service, String)> {
    if let Some(target) = header(request.headers(), "x-amz-target") {
        let (prefix, operation) = target.split_once('.')?;
        return Some((Service::by_target(prefix)?, operation.to_owned()));
    }
    match read(request) {
        Ok(call) => Some((call.service, call.operation)),
        Err(_) => None,
    }
}

/// The access key id in the signature's credential scope, when the request is signed.
pub fn signed_by(headers: &HeaderMap) -> Option<&str> {
    let (_, credential) = header(headers, AUTHORIZATION.as_str())?.split_once("Credential=")?;
    credential.split('/').next()
}

/// The region in the signature's credential scope, when the request is signed.
pub fn signed_region(headers: &HeaderMap) -> Option<&str> {
    let (_, credential) = header(headers, AUTHORIZATION.as_str())?.split_once("Credential=")?;
    credential.split(',').next()?.split('/').nth(2)
}

pub fn json(document: &Value) -> Response<Bytes> {
    respond(200, "application/x-amz-json-1.1", document.to_string())
}

pub fn json_fault(fault: &Fault, code: &str) -> Response<Bytes> {
    let body = serde_json::json!({"__type": code, "message": fault.message});
    let mut response = respond(fault.status, "application/x-amz-json-1.1", body.to_string());
    if let Ok(code) = HeaderValue::from_str(code) {
        response.headers_mut().insert("x-amzn-errortype", code);
    }
    response
}

/// A response with a body; `content_type` is one of this crate's own constants.
pub fn respond(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
