//! Observe: `DescribeRepositories`, 1,000 a page. The tags take a separate call. The images are read separately and rarely.

use std::collections::BTreeMap;

use aws_sdk_ecr::types::{
    ImageFailureCode, ImageIdentifier, ImageScanningConfiguration, ImageTagMutability, Repository, Tag,
};
use codeloc_core::ids::{Arn, Digest};
use codeloc_core::names;
use codeloc_core::resources::image_repository::garbage::Image;
use codeloc_core::resources::image_repository::{Change, Observed};
use codeloc_core::shared::Shared;
use codeloc_core::tags::{self, Tags};
use codeloc_crds::LocationName;

use crate::error::CallError;
use crate::scope::{Scope, in_scope};
use crate::session::Session;

/// The most images of one call (ECR API reference, `BatchDeleteImage` and `BatchGetImage`).
const IMAGES_PER_CALL: usize = 100;

pub async fn observe(
    session: Session<'_>,
    scope: Scope<'_>,
) -> Result<BTreeMap<LocationName, Shared<Observed>>, CallError> {
    let prefix = names::image_repository_prefix(&session.deployment.id);
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let request = session.clients.ecr.describe_repositories();
        let request = match scope {
            // AWS accepts no page size together with names.
            Scope::One(name) => request.repository_names(format!("{prefix}{name}")),
            Scope::All => request.max_results(1000).set_next_token(token),
        };
        let answer = match session.call("ecr:DescribeRepositories", request.send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(&["RepositoryNotFoundException"]) => return Ok(found),
            Err(error) => return Err(error),
        };
        for repository in answer.repositories() {
            let name = repository.repository_name().unwrap_or_default();
            let Some(location) = in_scope(scope, &prefix, name) else { continue };
            let arn = Arn::from(repository.repository_arn().unwrap_or_default());
            let tags = session.cache.tags(scope, &arn, tags(session, &arn)).await?;
            let observed = Observed {
                name: name.to_owned(),
                uri: repository.repository_uri().unwrap_or_default().to_owned(),
                created_ms: created_ms(repository),
                immutable_tags: repository.image_tag_mutability() == Some(&ImageTagMutability::Immutable),
                scan_on_push: repository
                    .image_scanning_configuration()
                    .is_some_and(ImageScanningConfiguration::scan_on_push),
                tags,
                arn,
            };
            let observed = session.cache.share(&location, |last| last.image_repository.as_ref(), observed);
            found.insert(location, observed);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(found);
        }
    }
}

fn created_ms(repository: &Repository) -> Option<i64> {
    repository.created_at()?.to_millis().ok()
}

/// Every image of one repository.
pub async fn images(session: Session<'_>, name: &str) -> Result<Vec<Image>, CallError> {
    let ecr = &session.clients.ecr;
    let (mut found, mut indexes, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let request = ecr.describe_images().repository_name(name).max_results(1000).set_next_token(token);
        let answer = session.call("ecr:DescribeImages", request.send()).await?;
        for detail in answer.image_details() {
            let (Some(digest), Some(pushed)) = (detail.image_digest(), detail.image_pushed_at()) else { continue };
            let digest = Digest::from(digest);
            // `…image.index…` is OCI's, `…manifest.list…` Docker's.
            if detail.image_manifest_media_type().is_some_and(|kind| kind.contains("index") || kind.contains("list")) {
                indexes.push(digest.clone());
            }
            found.push(Image {
                digest,
                tags: detail.image_tags().to_vec(),
                pushed_ms: pushed.to_millis().map_err(|_| CallError::malformed("ecr:DescribeImages", "date"))?,
                parts: vec![],
                subject: detail.subject_manifest_digest().map(Digest::from),
            });
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    for digests in indexes.chunks(IMAGES_PER_CALL) {
        let parts = parts(session, name, digests).await?;
        for image in &mut found {
            if let Some(parts) = parts.get(&image.digest) {
                image.parts.clone_from(parts);
            }
        }
    }
    Ok(found)
}

/// The parts of each of these indexes. One unreadable index fails the read: its parts would count as unused.
async fn parts(
    session: Session<'_>,
    name: &str,
    digests: &[Digest],
) -> Result<BTreeMap<Digest, Vec<Digest>>, CallError> {
    let ids = digests.iter().map(|digest| ImageIdentifier::builder().image_digest(digest.as_str()).build()).collect();
    let request = session.clients.ecr.batch_get_image().repository_name(name).set_image_ids(Some(ids));
    let answer = session.call("ecr:BatchGetImage", request.send()).await?;
    let mut found = BTreeMap::new();
    for image in answer.images() {
        let parts = image
            .image_manifest()
            .and_then(manifest_parts)
            .ok_or_else(|| CallError::malformed("ecr:BatchGetImage", "manifest"))?;
        found.insert(Digest::from(image.image_id().and_then(|id| id.image_digest()).unwrap_or_default()), parts);
    }
    if digests.iter().all(|digest| found.contains_key(digest)) {
        Ok(found)
    } else {
        Err(CallError::malformed("ecr:BatchGetImage", "one of the images"))
    }
}

/// The digests that an index refers to.
fn manifest_parts(text: &str) -> Option<Vec<Digest>> {
    let manifest: serde_json::Value = serde_json::from_str(text).ok()?;
    let manifests = manifest["manifests"].as_array().into_iter().flatten();
    Some(manifests.filter_map(|part| part["digest"].as_str().map(Digest::from)).collect())
}

async fn delete_images(session: Session<'_>, name: &str, digests: &[Digest]) -> Result<(), CallError> {
    for digests in digests.chunks(IMAGES_PER_CALL) {
        let ids =
            digests.iter().map(|digest| ImageIdentifier::builder().image_digest(digest.as_str()).build()).collect();
        let request = session.clients.ecr.batch_delete_image().repository_name(name).set_image_ids(Some(ids));
        let answer = match session.call("ecr:BatchDeleteImage", request.send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(&["RepositoryNotFoundException"]) => return Ok(()),
            Err(error) => return Err(error),
        };
        for failure in answer.failures() {
            match failure.failure_code() {
                Some(ImageFailureCode::ImageNotFound) => {}
                // An index pushed meanwhile refers to it, or one deleted by the same call. The next observation shows it.
                code => tracing::info!(repository = name, ?code, "ECR did not delete an image; codeloc retries"),
            }
        }
    }
    Ok(())
}

async fn tags(session: Session<'_>, arn: &Arn) -> Result<Tags, CallError> {
    match session
        .call("ecr:ListTagsForResource", session.clients.ecr.list_tags_for_resource().resource_arn(arn).send())
        .await
    {
        Ok(answer) => Ok(answer.tags().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()),
        Err(error) if error.is(&["RepositoryNotFoundException"]) => Ok(Tags::new()),
        Err(error) => Err(error),
    }
}

fn tag_list(tags: &Tags) -> Result<Vec<Tag>, CallError> {
    tags.iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect::<Result<_, _>>()
        .map_err(|_| CallError::malformed("ecr:TagResource", "tag key"))
}

fn mutability(immutable: bool) -> ImageTagMutability {
    if immutable { ImageTagMutability::Immutable } else { ImageTagMutability::Mutable }
}

fn scanning(on_push: bool) -> ImageScanningConfiguration {
    ImageScanningConfiguration::builder().scan_on_push(on_push).build()
}

/// A creation also sets `observed`.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Option<Shared<Observed>>,
) -> Result<(), CallError> {
    let ecr = &session.clients.ecr;
    match change {
        Change::Create(desired) => {
            let request = ecr
                .create_repository()
                .repository_name(&desired.name)
                .image_tag_mutability(mutability(desired.immutable_tags))
                .image_scanning_configuration(scanning(desired.scan_on_push))
                .set_tags(Some(tag_list(&desired.tags)?));
            match session.call("ecr:CreateRepository", request.send()).await {
                Ok(answer) => {
                    let created = answer.repository();
                    let created = created.and_then(|created| {
                        Some((created.repository_arn()?, created.repository_uri()?, created_ms(created)))
                    });
                    if let Some((arn, uri, created_ms)) = created {
                        session.cache.keep_tags(arn, &desired.tags);
                        let created = Observed {
                            arn: arn.into(),
                            name: desired.name.clone(),
                            uri: uri.to_owned(),
                            created_ms,
                            immutable_tags: desired.immutable_tags,
                            scan_on_push: desired.scan_on_push,
                            tags: desired.tags.clone().into(),
                        };
                        *observed = Some(created.into());
                    }
                    Ok(())
                }
                Err(error) if error.is(&["RepositoryAlreadyExistsException"]) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Change::SetImmutableTags { name, to } => {
            let request = ecr.put_image_tag_mutability().repository_name(name).image_tag_mutability(mutability(*to));
            session.call("ecr:PutImageTagMutability", request.send()).await.map(drop)
        }
        Change::SetScanOnPush { name, to } => {
            let request = ecr
                .put_image_scanning_configuration()
                .repository_name(name)
                .image_scanning_configuration(scanning(*to));
            session.call("ecr:PutImageScanningConfiguration", request.send()).await.map(drop)
        }
        Change::Tag { arn, tags, .. } => {
            let _changing = session.cache.changing_tags(arn);
            if !tags.remove.is_empty() {
                let keys = tags.remove.iter().cloned().collect();
                let request = ecr.untag_resource().resource_arn(arn).set_tag_keys(Some(keys));
                session.call("ecr:UntagResource", request.send()).await?;
            }
            if !tags.set.is_empty() {
                let request = ecr.tag_resource().resource_arn(arn).set_tags(Some(tag_list(&tags.set)?));
                session.call("ecr:TagResource", request.send()).await?;
            }
            Ok(())
        }
        Change::DeleteImages { name, digests } => delete_images(session, name, digests).await,
        Change::Delete { arn, name } => {
            // Removing codeloc's tags is how a person keeps a repository, and a sweep reads them only in turns.
            let tags = session.cache.read_tags(arn, tags(session, arn)).await?;
            if !tags::may_delete(&tags, &session.deployment.id) {
                tracing::info!(
                    name,
                    "a person removed the tags of codeloc or set the one that protects; codeloc keeps it"
                );
                return Ok(());
            }
            match session
                .call("ecr:DeleteRepository", ecr.delete_repository().repository_name(name).force(true).send())
                .await
            {
                Err(error) if !error.is(&["RepositoryNotFoundException"]) => Err(error),
                _ => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_lists_the_digests_of_its_parts() {
        let index = r#"{"manifests": [{"digest": "sha256:a"}, {"size": 1}, {"digest": "sha256:b"}]}"#;
        assert_eq!(manifest_parts(index).unwrap(), ["sha256:a", "sha256:b"]);
        assert_eq!(manifest_parts("{}"), Some(vec![]));
        assert_eq!(manifest_parts("not JSON"), None);
    }
}
