//! The parts of a manifest that the registry validates and the process driver reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Media types of a manifest of one image.
const IMAGE: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of an index: a list of manifests, one per platform.
const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// A manifest with `config` and `layers`, or an index with `manifests`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub schema_version: u32,
    pub media_type: Option<String>,
    pub artifact_type: Option<String>,
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    pub subject: Option<Descriptor>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Other locations of a layer that a registry must not distribute. The registry need not have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

impl Document {
    /// Parses and validates a manifest pushed as `content_type`; returns it with its media type. The error is a
    /// message for the client.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<(Self, String), String> {
        let document: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if document.schema_version != 2 {
            return Err(format!("schemaVersion is {}, only 2 is supported", document.schema_version));
        }
        let media_type = match (content_type, document.media_type.as_deref()) {
            (Some(sent), Some(written)) if sent != written => {
                return Err(format!("pushed as {sent}, but the manifest says {written}"));
            }
            (Some(media_type), _) | (None, Some(media_type)) => media_type.to_owned(),
            (None, None) => {
                return Err("the manifest has neither a Content-Type nor a mediaType".to_owned());
            }
        };
        if INDEX.contains(&media_type.as_str()) {
            if document.config.is_some() || !document.layers.is_empty() {
                return Err("an index has no config and no layers".to_owned());
            }
        } else if !IMAGE.contains(&media_type.as_str()) {
            return Err(format!("{media_type} is not a media type of a manifest"));
        } else if document.config.is_none() {
            return Err("an image manifest needs a config".to_owned());
        }
        Ok((document, media_type))
    }

    /// Config and layers that the repository must have before the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers).filter(|blob| blob.urls.is_empty())
    }

    /// The compressed size of config and layers in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }
}
