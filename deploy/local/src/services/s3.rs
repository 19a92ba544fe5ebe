//! S3 with path-style addresses: buckets, objects, conditional writes, listings. Reads are consistent, as in AWS.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::model::Cloud;
use crate::model::s3::{Bucket, Object};
use crate::protocol::api_error::ApiError;
use crate::protocol::paging::{Limits, page};
use crate::protocol::request::header;
use crate::protocol::response::respond;
use crate::protocol::s3::{Target, operation, parameters, target};
use crate::protocol::xml::escape;

const XMLNS: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// Characters that `encoding-type=url` does not encode.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

pub fn run(cloud: &mut Cloud, request: &Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
    let target = target(request);
    match operation(request) {
        "ListBuckets" => Ok(list_buckets(cloud)),
        "CreateBucket" => create_bucket(cloud, &target),
        "HeadBucket" => {
            bucket(cloud, &target)?;
            let region = cloud.rules.region.clone();
            Ok(with(Response::new(Bytes::new()), "x-amz-bucket-region", &region))
        }
        "ListObjectsV2" => list_objects(cloud, &target, &parameters(request)),
        "PutObject" => put_object(cloud, &target, request),
        "GetObject" | "HeadObject" => get_object(cloud, &target, request),
        "DeleteObject" => delete_object(cloud, &target, request.headers()),
        _ => {
            let message = format!("localcloud does not implement s3: {} {}", request.method(), request.uri());
            Err(ApiError::new("NotImplemented", message).with_status(501))
        }
    }
}

pub fn refuse(request: &Request<Bytes>, error: &ApiError, code: &str) -> Response<Bytes> {
    let body = if request.method() == Method::HEAD || error.status == 304 {
        String::new()
    } else {
        let (message, path) = (escape(&error.message), escape(request.uri().path()));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <Resource>{path}</Resource><RequestId>localcloud</RequestId></Error>"
        )
    };
    respond(error.status, "application/xml", body)
}

fn list_buckets(cloud: &Cloud) -> Response<Bytes> {
    let mut body = format!("<ListAllMyBucketsResult xmlns=\"{XMLNS}\"><Owner><ID>localcloud</ID></Owner><Buckets>");
    for (name, bucket) in &cloud.s3.buckets {
        let date = bucket.created_at.iso();
        let _ = write!(body, "<Bucket><Name>{name}</Name><CreationDate>{date}</CreationDate></Bucket>");
    }
    body.push_str("</Buckets></ListAllMyBucketsResult>");
    respond(200, "application/xml", body)
}

fn create_bucket(cloud: &mut Cloud, target: &Target) -> Result<Response<Bytes>, ApiError> {
    let name = &target.bucket;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !(3..=63).contains(&name.len()) || !name.chars().all(legal) {
        return Err(ApiError::new("InvalidBucketName", format!("The specified bucket is not valid: {name}")));
    }
    if cloud.s3.buckets.contains_key(name) {
        let message = "Your previous request to create the named bucket succeeded and you already own it.";
        return Err(ApiError::new("BucketAlreadyOwnedByYou", message).with_status(409));
    }
    let bucket = Bucket { created_at: cloud.now(), objects: BTreeMap::new() };
    cloud.s3.buckets.insert(name.clone(), bucket);
    Ok(with(Response::new(Bytes::new()), "location", &format!("/{name}")))
}

fn put_object(cloud: &mut Cloud, target: &Target, request: &Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
    let now = cloud.now();
    let headers = request.headers();
    let body = if is_chunked(headers) { unchunk(request.body())? } else { request.body().clone() };
    let bucket = bucket(cloud, target)?;
    let known = bucket.objects.get(&target.key);
    if let Some(none) = header(headers, "if-none-match") {
        if none != "*" {
            let message = "A write's If-None-Match can only be *";
            return Err(ApiError::new("NotImplemented", message).with_status(501));
        }
        if known.is_some() {
            return Err(precondition("If-None-Match"));
        }
    }
    if let Some(expected) = header(headers, "if-match") {
        let known = known.ok_or_else(|| no_key(&target.key))?;
        if known.etag.trim_matches('"') != expected.trim_matches('"') {
            return Err(precondition("If-Match"));
        }
    }
    // An ETag is not always MD5. This is half of a SHA-256.
    let etag = format!("\"{}\"", &hex::encode(Sha256::digest(&body))[..32]);
    let kept = |name: &str| {
        name.starts_with("x-amz-meta-") || matches!(name, "content-type" | "cache-control" | "content-disposition")
    };
    let headers = headers.iter().filter(|(name, _)| kept(name.as_str()));
    let headers = headers.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let object = Object { body, etag: etag.clone(), modified_at: now, headers: headers.collect() };
    bucket.objects.insert(target.key.clone(), object);
    Ok(with(Response::new(Bytes::new()), "etag", &etag))
}

fn get_object(cloud: &mut Cloud, target: &Target, request: &Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
    let headers = request.headers();
    let object = bucket(cloud, target)?.objects.get(&target.key).ok_or_else(|| no_key(&target.key))?;
    let same = |name: &str| header(headers, name).map(|etag| etag.trim_matches('"') == object.etag.trim_matches('"'));
    if same("if-none-match") == Some(true) {
        return Err(ApiError::new("NotModified", "Not Modified").with_status(304));
    }
    if same("if-match") == Some(false) {
        return Err(precondition("If-Match"));
    }
    let whole = object.body.len();
    let range = header(headers, "range").map(|range| slice(range, whole)).transpose()?;
    let (body, status) = match &range {
        Some(range) => (object.body.slice(range.clone()), 206),
        None => (object.body.clone(), 200),
    };
    let length = body.len();
    let body = if request.method() == Method::HEAD { Bytes::new() } else { body };
    let mut response = respond(status, "binary/octet-stream", body);
    for (name, value) in &object.headers {
        response = with(response, name, value);
    }
    if let Some(range) = range {
        let last = range.end.saturating_sub(1);
        response = with(response, "content-range", &format!("bytes {}-{last}/{whole}", range.start));
    }
    response = with(response, "content-length", &length.to_string());
    response = with(response, "etag", &object.etag);
    response = with(response, "accept-ranges", "bytes");
    Ok(with(response, "last-modified", &object.modified_at.http_date()))
}

/// `bytes=A-B`, `bytes=A-` or `bytes=-N`.
fn slice(range: &str, whole: usize) -> Result<std::ops::Range<usize>, ApiError> {
    let invalid = || ApiError::new("InvalidRange", "The requested range is not satisfiable").with_status(416);
    let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(invalid)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| invalid());
    let range = match (first, last) {
        ("", last) => whole.saturating_sub(number(last)?)..whole,
        (first, "") => number(first)?..whole,
        (first, last) => number(first)?..number(last)?.saturating_add(1).min(whole),
    };
    if range.start < range.end { Ok(range) } else { Err(invalid()) }
}

fn delete_object(cloud: &mut Cloud, target: &Target, headers: &HeaderMap) -> Result<Response<Bytes>, ApiError> {
    let bucket = bucket(cloud, target)?;
    if let Some(expected) = header(headers, "if-match") {
        let known = bucket.objects.get(&target.key).ok_or_else(|| no_key(&target.key))?;
        if expected != "*" && known.etag.trim_matches('"') != expected.trim_matches('"') {
            return Err(precondition("If-Match"));
        }
    }
    bucket.objects.remove(&target.key);
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    Ok(response)
}

/// An entry of a listing: an object, or the common prefix of keys up to the delimiter.
enum Entry<'a> {
    Object(&'a str, &'a Object),
    Common(&'a str),
}

fn list_objects(
    cloud: &mut Cloud,
    target: &Target,
    parameters: &BTreeMap<String, String>,
) -> Result<Response<Bytes>, ApiError> {
    let given = |name: &str| parameters.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let mut all = entries(bucket(cloud, target)?, given("prefix").unwrap_or_default(), given("delimiter"));
    if let Some(after) = given("start-after") {
        all.retain(|(key, _)| key.as_str() > after);
    }
    let asked = given("max-keys").map(|text| text.parse::<i64>().unwrap_or(-1).min(1000));
    let page = page(all, given("continuation-token"), asked, Limits { default: 1000, max: 1000 })?;
    let truncated = page.next.is_some();
    let url = given("encoding-type") == Some("url");
    let encode = |text: &str| {
        if url { utf8_percent_encode(text, KEY).to_string() } else { escape(text) }
    };
    let fields = [
        ("Name", Some(target.bucket.clone())),
        ("Prefix", Some(encode(given("prefix").unwrap_or_default()))),
        ("Delimiter", given("delimiter").map(encode)),
        ("EncodingType", url.then(|| "url".to_owned())),
        ("KeyCount", Some(page.items.len().to_string())),
        ("MaxKeys", Some(asked.unwrap_or(1000).to_string())),
        ("IsTruncated", Some(truncated.to_string())),
        ("ContinuationToken", given("continuation-token").map(escape)),
        ("NextContinuationToken", page.next),
    ];
    let mut body = format!("<ListBucketResult xmlns=\"{XMLNS}\">");
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(body, "<{name}>{value}</{name}>");
        }
    }
    for entry in &page.items {
        let _ = match entry {
            Entry::Common(common) => {
                write!(body, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", encode(common))
            }
            Entry::Object(key, object) => write!(
                body,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                encode(key),
                object.modified_at.iso(),
                escape(&object.etag),
                object.body.len()
            ),
        };
    }
    body.push_str("</ListBucketResult>");
    Ok(respond(200, "application/xml", body))
}

/// The entries of a listing, in request.
fn entries<'a>(bucket: &'a Bucket, prefix: &str, delimiter: Option<&str>) -> Vec<(String, Entry<'a>)> {
    let mut all: Vec<(String, Entry)> = Vec::new();
    let from = bucket.objects.range(prefix.to_owned()..);
    for (key, object) in from.take_while(|(key, _)| key.starts_with(prefix)) {
        let cut = delimiter.and_then(|delimiter| Some(key[prefix.len()..].find(delimiter)? + delimiter.len()));
        match cut {
            Some(cut) => {
                let common = &key[..prefix.len() + cut];
                if all.last().is_none_or(|(last, _)| last != common) {
                    all.push((common.to_owned(), Entry::Common(common)));
                }
            }
            None => all.push((key.clone(), Entry::Object(key, object))),
        }
    }
    all
}

fn bucket<'a>(cloud: &'a mut Cloud, target: &Target) -> Result<&'a mut Bucket, ApiError> {
    let missing = || {
        let message = format!("The specified bucket does not exist: {}", target.bucket);
        ApiError::new("NoSuchBucket", message).with_status(404)
    };
    cloud.s3.buckets.get_mut(&target.bucket).ok_or_else(missing)
}

fn no_key(key: &str) -> ApiError {
    ApiError::new("NoSuchKey", format!("The specified key does not exist: {key}")).with_status(404)
}

fn precondition(condition: &str) -> ApiError {
    let message = format!("At least one of the pre-conditions you specified did not hold: {condition}");
    ApiError::new("PreconditionFailed", message).with_status(412)
}

fn with(mut response: Response<Bytes>, name: &str, value: &str) -> Response<Bytes> {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn is_chunked(headers: &HeaderMap) -> bool {
    header(headers, "content-encoding").is_some_and(|encoding| encoding.contains("aws-chunked"))
        || header(headers, "x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"))
}

/// Decodes an `aws-chunked` body. Signatures and trailing checksums are not verified.
fn unchunk(framed: &Bytes) -> Result<Bytes, ApiError> {
    let broken = || ApiError::new("IncompleteBody", "The aws-chunked body ends before its last chunk");
    let mut plain = Vec::with_capacity(framed.len());
    let mut rest = &framed[..];
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or_else(broken)?;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| broken())?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| broken())?;
        if size == 0 {
            return Ok(plain.into());
        }
        let start = end + 2;
        let chunk = rest.get(start..start.saturating_add(size)).ok_or_else(broken)?;
        plain.extend_from_slice(chunk);
        rest = rest.get(start + size + 2..).ok_or_else(broken)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_decoded() {
        let framed =
            Bytes::from_static(b"5;chunk-signature=ab\r\nhello\r\n1\r\n!\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n");
        assert_eq!(unchunk(&framed).unwrap(), "hello!");
        assert!(unchunk(&Bytes::from_static(b"5\r\nhel")).is_err());
    }
}
