//! S3's protocol: verb, path and query of a request name the operation.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use percent_encoding::percent_decode_str;

use super::query;

/// The bucket and key of a request.
pub struct Target {
    pub bucket: String,
    pub key: String,
}

pub fn target(request: &Request<Bytes>) -> Target {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    Target { bucket: bucket.to_owned(), key: key.to_owned() }
}

pub fn parameters(request: &Request<Bytes>) -> BTreeMap<String, String> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(name, value)| (query::decode(name), query::decode(value))).collect()
}

/// The name of the operation; `Unsupported` for operations that localcloud does not implement.
pub fn operation(request: &Request<Bytes>) -> &'static str {
    const PLAIN: [&str; 9] = [
        "x-id",
        "list-type",
        "prefix",
        "delimiter",
        "max-keys",
        "continuation-token",
        "start-after",
        "encoding-type",
        "fetch-owner",
    ];
    let Target { bucket, key } = target(request);
    let parameters = parameters(request);
    let signed =
        |name: &str| name.starts_with("X-Amz-") || name.starts_with("response-") || name.starts_with("max-buckets");
    if parameters.keys().any(|name| !PLAIN.contains(&name.as_str()) && !signed(name)) {
        return "Unsupported";
    }
    match (request.method().as_str(), bucket.is_empty(), key.is_empty()) {
        ("GET", true, _) => "ListBuckets",
        ("PUT", false, true) => "CreateBucket",
        ("HEAD", false, true) => "HeadBucket",
        ("GET", false, true) if parameters.get("list-type").map(String::as_str) == Some("2") => "ListObjectsV2",
        ("PUT", false, false) => "PutObject",
        ("GET", false, false) => "GetObject",
        ("HEAD", false, false) => "HeadObject",
        ("DELETE", false, false) => "DeleteObject",
        _ => "Unsupported",
    }
}
