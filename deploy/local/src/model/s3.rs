//! S3: buckets and objects.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::time::Time;

#[derive(Default, Serialize, Deserialize)]
pub struct S3 {
    pub buckets: BTreeMap<String, Bucket>,
}

#[derive(Serialize, Deserialize)]
pub struct Bucket {
    pub created_at: Time,
    pub objects: BTreeMap<String, Object>,
}

#[derive(Serialize, Deserialize)]
pub struct Object {
    #[serde(with = "base64_body")]
    pub body: Bytes,
    pub etag: String,
    pub modified_at: Time,
    /// The stored request headers: `content-type`, `cache-control`, `content-disposition` and `x-amz-meta-*`.
    pub headers: BTreeMap<String, String>,
}

/// Serializes bodies as Base64 in the JSON of the saved state.
mod base64_body {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(body: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(body))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Bytes::from).map_err(de::Error::custom)
    }
}
