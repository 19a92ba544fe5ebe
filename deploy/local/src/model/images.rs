//! Images of ECR repositories: the port that a registry implements, and images in memory for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::time::Time;
use crate::lock::lock;
use crate::protocol::api_error::ApiError;

/// One pushed manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub digest: String,
    pub tags: Vec<String>,
    pub size_bytes: u64,
    pub pushed_at: Time,
    pub media_type: String,
    /// The digests of the manifests in an index.
    pub parts: Vec<String>,
}

/// Port: the store of the images of a repository. Its errors are failures of the service, not of the caller.
pub trait Images: Send + Sync {
    /// Creates a repository, unless it exists.
    fn create(&self, repository: &str) -> Result<(), ApiError>;
    /// Deletes a repository with its images, if it exists.
    fn delete(&self, repository: &str) -> Result<(), ApiError>;
    fn images(&self, repository: &str) -> Vec<Image>;
    /// The text of a manifest.
    fn manifest(&self, repository: &str, digest: &str) -> Option<String>;
    /// False when there is no such image.
    fn delete_image(&self, repository: &str, digest: &str) -> Result<bool, ApiError>;
    /// Removes a tag; false when no image has it.
    fn untag(&self, repository: &str, tag: &str) -> Result<bool, ApiError>;
    /// Sets whether a tag can move to another image.
    fn set_immutable(&self, repository: &str, immutable: bool) -> Result<(), ApiError>;
    /// Whether a repository has an image with this tag or digest.
    fn holds(&self, repository: &str, reference: &str) -> bool;
}

/// Images in memory, for tests.
#[derive(Default)]
pub struct MemoryImages(Mutex<BTreeMap<String, Vec<Image>>>);

impl MemoryImages {
    pub fn shared() -> Arc<dyn Images> {
        Arc::new(Self::default())
    }

    pub fn put(&self, repository: &str, image: Image) {
        self.with(|all| {
            let images = all.entry(repository.to_owned()).or_default();
            for other in images.iter_mut() {
                other.tags.retain(|tag| !image.tags.contains(tag));
            }
            images.retain(|other| other.digest != image.digest);
            images.push(image);
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Vec<Image>>) -> T) -> T {
        act(&mut lock(&self.0))
    }
}

impl Images for MemoryImages {
    fn create(&self, repository: &str) -> Result<(), ApiError> {
        self.with(|all| {
            all.entry(repository.to_owned()).or_default();
        });
        Ok(())
    }

    fn delete(&self, repository: &str) -> Result<(), ApiError> {
        self.with(|all| all.remove(repository));
        Ok(())
    }

    fn images(&self, repository: &str) -> Vec<Image> {
        self.with(|all| all.get(repository).cloned().unwrap_or_default())
    }

    fn manifest(&self, repository: &str, digest: &str) -> Option<String> {
        let image = self.images(repository).into_iter().find(|image| image.digest == digest)?;
        let parts: Vec<Value> = image.parts.iter().map(|digest| json!({"digest": digest})).collect();
        Some(json!({"schemaVersion": 2, "mediaType": image.media_type, "manifests": parts}).to_string())
    }

    fn delete_image(&self, repository: &str, digest: &str) -> Result<bool, ApiError> {
        Ok(self.with(|all| {
            let Some(images) = all.get_mut(repository) else { return false };
            let before = images.len();
            images.retain(|image| image.digest != digest);
            images.len() < before
        }))
    }

    fn untag(&self, repository: &str, tag: &str) -> Result<bool, ApiError> {
        Ok(self.with(|all| {
            let images = all.get_mut(repository).map_or(&mut [][..], Vec::as_mut_slice);
            let found = images.iter_mut().find(|image| image.tags.iter().any(|other| other == tag));
            found.map(|image| image.tags.retain(|other| other != tag)).is_some()
        }))
    }

    fn set_immutable(&self, _: &str, _: bool) -> Result<(), ApiError> {
        // Images in memory are not pushed.
        Ok(())
    }

    fn holds(&self, repository: &str, reference: &str) -> bool {
        let is_named = |image: &Image| image.digest == reference || image.tags.iter().any(|tag| tag == reference);
        self.images(repository).iter().any(is_named)
    }
}
