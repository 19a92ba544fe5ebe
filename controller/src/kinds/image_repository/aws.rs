//! Observe: `DescribeRepositories`, 1,000 a page. Its tags come from a call of their own.

use std::collections::BTreeMap;

use aws_sdk_ecr::types::{ImageScanningConfiguration, ImageTagMutability, Tag};

use super::{Change, Live};
use crate::kinds::aws::{CallError, Scope, Session, in_scope};
use crate::kinds::names;
use crate::kinds::tags::Tags;

pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<String, Live>, CallError> {
    let prefix = names::image_repository_prefix(&session.place.deployment);
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let request = session.clients.ecr.describe_repositories();
        let request = match scope {
            // AWS takes no page size together with names.
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
            let arn = repository.repository_arn().unwrap_or_default().to_owned();
            let tags = session.cache.tags(scope, &arn, tags(session, &arn)).await?;
            let live = Live {
                name: name.to_owned(),
                uri: repository.repository_uri().unwrap_or_default().to_owned(),
                immutable_tags: repository.image_tag_mutability() == Some(&ImageTagMutability::Immutable),
                scan_on_push: repository
                    .image_scanning_configuration()
                    .is_some_and(ImageScanningConfiguration::scan_on_push),
                tags,
                arn,
            };
            found.insert(location.to_owned(), live);
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(found);
        }
    }
}

async fn tags(session: Session<'_>, arn: &str) -> Result<Tags, CallError> {
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

/// A create also tells what is `live` then.
pub async fn apply(session: Session<'_>, change: &Change, live: &mut Option<Live>) -> Result<(), CallError> {
    let ecr = &session.clients.ecr;
    match change {
        Change::Create(want) => {
            let request = ecr
                .create_repository()
                .repository_name(&want.name)
                .image_tag_mutability(mutability(want.immutable_tags))
                .image_scanning_configuration(scanning(want.scan_on_push))
                .set_tags(Some(tag_list(&want.tags)?));
            match session.call("ecr:CreateRepository", request.send()).await {
                Ok(answer) => {
                    let made =
                        answer.repository().and_then(|made| Some((made.repository_arn()?, made.repository_uri()?)));
                    if let Some((arn, uri)) = made {
                        session.cache.keep_tags(arn, &want.tags);
                        *live = Some(Live {
                            arn: arn.to_owned(),
                            name: want.name.clone(),
                            uri: uri.to_owned(),
                            immutable_tags: want.immutable_tags,
                            scan_on_push: want.scan_on_push,
                            tags: want.tags.clone(),
                        });
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
            session.cache.forget_tags(arn);
            let request = ecr.tag_resource().resource_arn(arn).set_tags(Some(tag_list(tags)?));
            session.call("ecr:TagResource", request.send()).await.map(drop)
        }
        Change::Delete { name } => {
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
