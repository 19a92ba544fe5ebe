//! Reads the service, the operation and the input document of an HTTP request.
//!
//! ECS, Cloud Map, ECR, `CodeBuild`, Application Auto Scaling and Logs use JSON 1.1, IAM and STS the query protocol, S3 paths and
//! verbs. Signatures are not verified; only their region is read.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Request};
use serde_json::Value;

use super::api_error::ApiError;
use super::aws_service::AwsService;
use super::{query, s3};

/// A request before its service handles it.
#[derive(Clone, Debug)]
pub struct Call {
    pub service: AwsService,
    pub operation: String,
    pub input: Value,
}

/// A request for an unknown service, or one that cannot be parsed.
#[derive(Debug)]
pub struct Unread {
    pub service: Option<AwsService>,
    pub operation: String,
    pub error: ApiError,
}

pub fn read(request: &Request<Bytes>) -> Result<Call, Unread> {
    if let Some(target) = header(request.headers(), "x-amz-target") {
        return read_json(target, request.body());
    }
    // Some HTTP clients also give a PUT this type.
    let form = header(request.headers(), CONTENT_TYPE.as_str())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if form && request.method() == http::Method::POST {
        return read_query(request.body());
    }
    let operation = s3::operation(request).to_owned();
    Ok(Call { service: AwsService::S3, operation, input: Value::Null })
}

fn read_json(target: &str, body: &[u8]) -> Result<Call, Unread> {
    let (prefix, operation) = target.split_once('.').unwrap_or((target, ""));
    let service = AwsService::by_target(prefix);
    let unread = |error| Unread { service, operation: operation.to_owned(), error };
    let Some(found) = service else {
        let message = format!("localcloud has no service with the target prefix {prefix}");
        return Err(unread(ApiError::new("UnknownOperationException", message)));
    };
    let input = if body.is_empty() { Ok(Value::Object(serde_json::Map::new())) } else { serde_json::from_slice(body) };
    match input {
        Ok(input) => Ok(Call { service: found, operation: operation.to_owned(), input }),
        Err(error) => Err(unread(ApiError::new("SerializationException", format!("the body is not JSON: {error}")))),
    }
}

fn read_query(body: &[u8]) -> Result<Call, Unread> {
    let mut input = query::parse(body);
    let mut take = |name| match input.as_object_mut().and_then(|fields| fields.remove(name)) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (operation, version) = (take("Action"), take("Version"));
    if let Some(service) = AwsService::by_query_version(&version) {
        Ok(Call { service, operation, input })
    } else {
        let message = format!("localcloud has no query service of version '{version}'");
        Err(Unread { service: None, operation, error: ApiError::new("InvalidAction", message) })
    }
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The service and the operation of a request, without parsing a JSON body.
pub fn name(request: &Request<Bytes>) -> Option<(AwsService, String)> {
    if let Some(target) = header(request.headers(), "x-amz-target") {
        let (prefix, operation) = target.split_once('.')?;
        return Some((AwsService::by_target(prefix)?, operation.to_owned()));
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
