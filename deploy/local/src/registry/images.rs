//! The registry as the store of ECR's images.

use super::error::RegistryError;
use super::{ImageDetail, Registry};
use crate::model::images::{Image, Images};
use crate::protocol::api_error::ApiError;

impl Images for Registry {
    fn create(&self, repository: &str) -> Result<(), ApiError> {
        self.create(repository).map(drop).map_err(|error| broken(&error))
    }

    fn delete(&self, repository: &str) -> Result<(), ApiError> {
        self.delete(repository).map(drop).map_err(|error| broken(&error))
    }

    fn images(&self, repository: &str) -> Vec<Image> {
        let image = |detail: ImageDetail| Image {
            digest: detail.digest,
            tags: detail.tags,
            size_bytes: detail.size_bytes,
            pushed_at: detail.pushed_at.into(),
            media_type: detail.media_type,
            parts: detail.parts,
        };
        self.images(repository).into_iter().map(image).collect()
    }

    fn manifest(&self, repository: &str, digest: &str) -> Option<String> {
        String::from_utf8(self.manifest(repository, digest)?.bytes.to_vec()).ok()
    }

    fn delete_image(&self, repository: &str, digest: &str) -> Result<bool, ApiError> {
        self.delete_image(repository, digest).map_err(|error| broken(&error))
    }

    fn untag(&self, repository: &str, tag: &str) -> Result<bool, ApiError> {
        self.untag(repository, tag).map_err(|error| broken(&error))
    }

    fn set_immutable(&self, repository: &str, immutable: bool) -> Result<(), ApiError> {
        self.set_immutable(repository, immutable).map_err(|error| broken(&error))
    }

    fn holds(&self, repository: &str, reference: &str) -> bool {
        self.manifest(repository, reference).is_some()
    }
}

fn broken(error: &RegistryError) -> ApiError {
    ApiError::new("ServerException", error.to_string()).with_status(500)
}
