//! ECR: repositories and their images. The registry's `/v2/` stores the images.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::model::Cloud;
use crate::model::ecr::Repository;
use crate::model::images::Image;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::{Fields, Tags, upper_tags};
use crate::protocol::paging::{Limits, page};
use crate::protocol::tags;

const TOKEN_HOURS: u64 = 12;
const IMMUTABLE: &str = "IMMUTABLE";

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreateRepository" => create(cloud, input),
        "DescribeRepositories" => describe(cloud, input),
        "DeleteRepository" => delete(cloud, input),
        "GetAuthorizationToken" => Ok(authorize(cloud)),
        "DescribeImages" => describe_images(cloud, input),
        "ListImages" => list_images(cloud, input),
        "BatchGetImage" => get_images(cloud, input),
        "BatchDeleteImage" => delete_images(cloud, input),
        "PutImageTagMutability" => {
            let mutability = mutability(input)?;
            let (name, repository) = repository(cloud, input)?;
            repository.mutability.clone_from(&mutability);
            cloud.images.set_immutable(&name, mutability == IMMUTABLE)?;
            Ok(json!({"repositoryName": name, "imageTagMutability": mutability, "registryId": cloud.rules.account}))
        }
        "PutImageScanningConfiguration" => {
            let scan = scan_on_push(input);
            let (name, repository) = repository(cloud, input)?;
            repository.scan_on_push = scan;
            let configuration = json!({"scanOnPush": scan});
            Ok(json!({
                "repositoryName": name,
                "imageScanningConfiguration": configuration,
                "registryId": cloud.rules.account,
            }))
        }
        "TagResource" => {
            let added = input.tags("tags");
            tags::add(AwsService::Ecr, tagged(cloud, input)?, added)?;
            Ok(json!({}))
        }
        "UntagResource" => {
            let tags = tagged(cloud, input)?;
            input.texts("tagKeys").into_iter().for_each(|key| drop(tags.remove(key)));
            Ok(json!({}))
        }
        "ListTagsForResource" => Ok(json!({"tags": upper_tags(tagged(cloud, input)?)})),
        _ => Err(AwsService::Ecr.unknown(operation)),
    }
}

fn create(cloud: &mut Cloud, input: &Value) -> Reply {
    let name = input.need("repositoryName")?;
    if !is_repository_name(name) {
        return Err(ApiError::invalid(format!(
            "Invalid parameter at 'repositoryName' failed to satisfy constraint: '{name}' must satisfy regular expression \
             '(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*' and have 2 to 256 characters"
        )));
    }
    if cloud.ecr.repositories.contains_key(name) {
        let account = &cloud.rules.account;
        let message = format!("The repository with name '{name}' already exists in the registry with id '{account}'");
        return Err(ApiError::new("RepositoryAlreadyExistsException", message));
    }
    let most = cloud.rules.quotas.image_repositories;
    if cloud.ecr.repositories.len() >= most {
        let message = format!("The registry has reached its quota of {most} repositories");
        return Err(ApiError::new("LimitExceededException", message));
    }
    let tags = input.tags("tags");
    tags::check(AwsService::Ecr, &tags)?;
    let repository = Repository {
        arn: cloud.arn("ecr", &format!("repository/{name}")),
        created_at: cloud.now(),
        mutability: mutability(input)?,
        scan_on_push: scan_on_push(input),
        encryption: input
            .get("encryptionConfiguration")
            .cloned()
            .unwrap_or_else(|| json!({"encryptionType": "AES256"})),
        tags,
    };
    cloud.images.create(name)?;
    cloud.images.set_immutable(name, repository.mutability == IMMUTABLE)?;
    let shown = show(cloud, name, &repository);
    cloud.ecr.repositories.insert(name.to_owned(), repository);
    Ok(json!({"repository": shown}))
}

fn mutability(input: &Value) -> Result<String, ApiError> {
    match input.text("imageTagMutability") {
        None => Ok("MUTABLE".to_owned()),
        Some(known @ ("MUTABLE" | IMMUTABLE)) => Ok(known.to_owned()),
        Some(other) => Err(ApiError::invalid(format!(
            "localcloud supports the imageTagMutability MUTABLE and IMMUTABLE, not {other}"
        ))),
    }
}

fn scan_on_push(input: &Value) -> bool {
    let configuration = input.get("imageScanningConfiguration");
    configuration.and_then(|configuration| configuration.flag("scanOnPush")).unwrap_or(false)
}

/// Whether each part of the path has lower-case letters and digits, separated by single `.`, `_` or `-`.
fn is_repository_name(name: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let part = |part: &str| part.split(['.', '_', '-']).all(word);
    (2..=256).contains(&name.len()) && name.split('/').all(part)
}

fn show(cloud: &Cloud, name: &str, repository: &Repository) -> Value {
    json!({
        "repositoryArn": repository.arn,
        "registryId": cloud.rules.account,
        "repositoryName": name,
        "repositoryUri": format!("{}/{name}", cloud.rules.registry),
        "createdAt": repository.created_at.epoch_seconds(),
        "imageTagMutability": repository.mutability,
        "imageScanningConfiguration": {"scanOnPush": repository.scan_on_push},
        "encryptionConfiguration": repository.encryption,
    })
}

fn describe(cloud: &mut Cloud, input: &Value) -> Reply {
    let named = input.texts("repositoryNames");
    if let Some(name) = named.iter().find(|name| !cloud.ecr.repositories.contains_key(**name)) {
        return Err(no_repository(cloud, name));
    }
    let all = cloud.ecr.repositories.iter();
    let all = all.filter(|(name, _)| named.is_empty() || named.contains(&name.as_str()));
    let all = all.map(|(name, repository)| (name.clone(), (name, repository))).collect();
    let page = page(all, input.text("nextToken"), input.number("maxResults"), Limits { default: 100, max: 1000 })?;
    Ok(page.map(|(name, repository)| show(cloud, name, repository)).document("repositories", "nextToken"))
}

fn delete(cloud: &mut Cloud, input: &Value) -> Reply {
    let (name, _) = repository(cloud, input)?;
    if input.flag("force") != Some(true) && !cloud.images.images(&name).is_empty() {
        let account = &cloud.rules.account;
        let message = format!(
            "The repository with name '{name}' in registry with id '{account}' cannot be deleted because it still contains images"
        );
        return Err(ApiError::new("RepositoryNotEmptyException", message));
    }
    cloud.images.delete(&name)?;
    let gone = cloud.ecr.repositories.remove(&name);
    Ok(json!({"repository": gone.map(|repository| show(cloud, &name, &repository))}))
}

fn authorize(cloud: &Cloud) -> Value {
    let token = STANDARD.encode(format!("AWS:{}", cloud.rules.registry_token()));
    let expires = cloud.now() + std::time::Duration::from_secs(TOKEN_HOURS * 3600);
    json!({"authorizationData": [{
        "authorizationToken": token,
        "expiresAt": expires.epoch_seconds(),
        "proxyEndpoint": format!("http://{}", cloud.rules.registry),
    }]})
}

/// Whether an image matches an id `{imageDigest, imageTag}`.
fn matches_id(id: &Value, image: &Image) -> bool {
    let digest = id.text("imageDigest").is_none_or(|digest| digest == image.digest);
    let tag = id.text("imageTag").is_none_or(|tag| image.tags.iter().any(|other| other == tag));
    digest && tag
}

fn matches_filter(input: &Value, image: &Image) -> bool {
    match input.get("filter").and_then(|filter| filter.text("tagStatus")) {
        Some("TAGGED") => !image.tags.is_empty(),
        Some("UNTAGGED") => image.tags.is_empty(),
        _ => true,
    }
}

fn describe_images(cloud: &mut Cloud, input: &Value) -> Reply {
    let (name, _) = repository(cloud, input)?;
    let images = cloud.images.images(&name);
    let ids = input.items("imageIds");
    if let Some(id) = ids.iter().find(|id| !images.iter().any(|image| matches_id(id, image))) {
        let message = format!("The image with imageId {id} does not exist within the repository with name '{name}'");
        return Err(ApiError::new("ImageNotFoundException", message));
    }
    let wanted =
        |image: &&Image| matches_filter(input, image) && (ids.is_empty() || ids.iter().any(|id| matches_id(id, image)));
    let show = |image: &Image| {
        let mut shown = json!({
            "registryId": cloud.rules.account,
            "repositoryName": name,
            "imageDigest": image.digest,
            "imageSizeInBytes": image.size_bytes,
            "imagePushedAt": image.pushed_at.epoch_seconds(),
            "imageManifestMediaType": image.media_type,
        });
        if !image.tags.is_empty() {
            shown["imageTags"] = json!(image.tags);
        }
        (image.digest.clone(), shown)
    };
    let mut all: Vec<_> = images.iter().filter(wanted).map(show).collect();
    all.sort_by(|left, right| left.0.cmp(&right.0));
    let page = page(all, input.text("nextToken"), input.number("maxResults"), Limits { default: 100, max: 1000 })?;
    Ok(page.document("imageDetails", "nextToken"))
}

fn list_images(cloud: &mut Cloud, input: &Value) -> Reply {
    let (name, _) = repository(cloud, input)?;
    let mut all = Vec::new();
    for image in cloud.images.images(&name).iter().filter(|image| matches_filter(input, image)) {
        if image.tags.is_empty() {
            all.push((image.digest.clone(), json!({"imageDigest": image.digest})));
        }
        for tag in &image.tags {
            let id = json!({"imageDigest": image.digest, "imageTag": tag});
            all.push((format!("{} {tag}", image.digest), id));
        }
    }
    all.sort_by(|left, right| left.0.cmp(&right.0));
    let page = page(all, input.text("nextToken"), input.number("maxResults"), Limits { default: 100, max: 1000 })?;
    Ok(page.document("imageIds", "nextToken"))
}

fn get_images(cloud: &mut Cloud, input: &Value) -> Reply {
    let (name, _) = repository(cloud, input)?;
    let ids = input.items("imageIds");
    if ids.is_empty() || ids.len() > 100 {
        return Err(ApiError::invalid("imageIds must have 1 to 100 elements"));
    }
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for id in ids {
        let image = cloud.images.images(&name).into_iter().find(|image| matches_id(id, image));
        let read = image.and_then(|image| Some((cloud.images.manifest(&name, &image.digest)?, image)));
        match read {
            Some((manifest, image)) => found.push(json!({
                "registryId": cloud.rules.account,
                "repositoryName": name,
                "imageId": {"imageDigest": image.digest},
                "imageManifest": manifest,
                "imageManifestMediaType": image.media_type,
            })),
            None => failures.push(json!({
                "imageId": id,
                "failureCode": "ImageNotFound",
                "failureReason": "Requested image not found",
            })),
        }
    }
    Ok(json!({"images": found, "failures": failures}))
}

/// The failure to delete an image that an index names (ECR API reference, `ImageFailure`).
fn part_of_another(cloud: &Cloud, repository: &str, image: &Image, id: &Value) -> Option<Value> {
    let index = cloud.images.images(repository).into_iter().find(|other| other.parts.contains(&image.digest))?;
    let reason = format!("Requested image referenced by manifest list: [{}]", index.digest);
    Some(json!({"imageId": id, "failureCode": "ImageReferencedByManifestList", "failureReason": reason}))
}

/// A tag removes the tag, and with the last tag the image; a digest removes the image.
fn delete_images(cloud: &mut Cloud, input: &Value) -> Reply {
    let (name, _) = repository(cloud, input)?;
    let ids = input.items("imageIds");
    if ids.is_empty() || ids.len() > 100 {
        return Err(ApiError::invalid("imageIds must have 1 to 100 elements"));
    }
    let (mut gone, mut failures) = (Vec::new(), Vec::new());
    for id in ids {
        let found = cloud.images.images(&name).into_iter().find(|image| matches_id(id, image));
        match (found, id.text("imageDigest"), id.text("imageTag")) {
            (Some(image), None, Some(tag)) => {
                let last = image.tags.len() == 1;
                if last && let Some(refusal) = part_of_another(cloud, &name, &image, id) {
                    failures.push(refusal);
                    continue;
                }
                let done = if last {
                    cloud.images.delete_image(&name, &image.digest)?
                } else {
                    cloud.images.untag(&name, tag)?
                };
                if done {
                    gone.push(json!({"imageDigest": image.digest, "imageTag": tag}));
                }
            }
            (Some(image), Some(_), _) => {
                if let Some(refusal) = part_of_another(cloud, &name, &image, id) {
                    failures.push(refusal);
                    continue;
                }
                if cloud.images.delete_image(&name, &image.digest)? {
                    gone.push(json!({"imageDigest": image.digest}));
                }
            }
            _ => failures.push(json!({
                "imageId": id,
                "failureCode": "ImageNotFound",
                "failureReason": "Requested image not found",
            })),
        }
    }
    Ok(json!({"imageIds": gone, "failures": failures}))
}

fn repository<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<(String, &'a mut Repository), ApiError> {
    let name = input.need("repositoryName")?;
    let missing = no_repository(cloud, name);
    Ok((name.to_owned(), cloud.ecr.repositories.get_mut(name).ok_or(missing)?))
}

fn tagged<'a>(cloud: &'a mut Cloud, input: &Value) -> Result<&'a mut Tags, ApiError> {
    let arn = input.need("resourceArn")?;
    let missing = no_repository(cloud, arn);
    let found = cloud.ecr.repositories.values_mut().find(|repository| repository.arn == arn);
    Ok(&mut found.ok_or(missing)?.tags)
}

fn no_repository(cloud: &Cloud, name: &str) -> ApiError {
    let account = &cloud.rules.account;
    let message = format!("The repository with name '{name}' does not exist in the registry with id '{account}'");
    ApiError::new("RepositoryNotFoundException", message)
}
