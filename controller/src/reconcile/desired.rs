//! The desired state of a location: its config, the commit of its branch, and its image.

use codeloc_core::desired::{Desired, DesiredLocation};
use codeloc_core::ids::Commit;
use codeloc_core::image::{Image, ImageStatus, load_of_given_image};
use codeloc_core::planner::Hold;
use codeloc_core::resources::{ObservedResources, task_definition};
use codeloc_crds::{ImagePolicy, Location};
use codeloc_git::refs::{RefKey, Refs};
use codeloc_images::{Builder, Request};

use super::configs::{Config, Configs};
use super::images::{Images, Tag};
use super::reason::Reason;

pub struct DesiredState<B> {
    pub configs: Configs,
    pub refs: Refs,
    pub images: Images<B>,
    /// The Python version of configs that name none.
    default_python: String,
}

impl<B: Builder> DesiredState<B> {
    pub fn new(default_python: &str, refs: Refs, images: Images<B>) -> Self {
        Self { configs: Configs::default(), refs, images, default_python: default_python.to_owned() }
    }

    /// The desired state: the commit and the image of a valid config. Starts the build of a missing image unless a hold forbids that.
    /// `changed` is the reason of the pass that follows when the registry answers, `built` of the one that follows the build.
    pub async fn resolve(
        &self,
        config: Config,
        observed: &ObservedResources,
        hold: Option<&Hold>,
        changed: Reason,
        built: Reason,
    ) -> Desired {
        let mut location = match self.located(config) {
            Ok(location) => location,
            Err(other) => return other,
        };
        self.find_image(&mut location, observed, hold, changed, built).await;
        Desired::Present(location)
    }

    /// The same without starting a build or remembering anything.
    pub async fn preview(&self, config: Config, observed: &ObservedResources) -> Desired {
        let mut location = match self.located(config) {
            Ok(location) => location,
            Err(other) => return other,
        };
        self.preview_image(&mut location, observed).await;
        Desired::Present(location)
    }

    /// The config and the commit, before anything is known about the image.
    fn located(&self, config: Config) -> Result<Box<DesiredLocation>, Desired> {
        let config = match config {
            Config::Valid(config) => *config,
            Config::Invalid(invalid) => return Err(Desired::Invalid(invalid)),
            Config::Absent => return Err(Desired::Absent),
        };
        let (image, commit) = match (config.image_tag(), &config.image) {
            (Some(_), _) => (ImageStatus::Resolving("asking the registry for the image of the tag".to_owned()), None),
            (None, Some(reference)) => (ImageStatus::Ready(given_image(&config, reference.clone())), None),
            (None, None) => self.commit(&config),
        };
        Ok(Box::new(DesiredLocation { config, image, commit }))
    }

    /// While the git host does not answer, the last known commit stays in force.
    fn commit(&self, config: &Location) -> (ImageStatus, Option<Commit>) {
        let found = self.refs.get(&key_of(config));
        let commit = found.as_ref().and_then(|found| found.commit.clone());
        let image = match (&commit, found.and_then(|found| found.failure)) {
            (Some(_), _) => ImageStatus::Building("waiting until the image repository exists".to_owned()),
            (None, Some(failure)) => ImageStatus::Unresolved(failure.message),
            (None, None) => ImageStatus::Resolving("asking the git host for the commit".to_owned()),
        };
        (image, commit)
    }

    async fn find_image(
        &self,
        desired: &mut DesiredLocation,
        observed: &ObservedResources,
        hold: Option<&Hold>,
        changed: Reason,
        built: Reason,
    ) {
        let (config, name) = (&desired.config, &desired.config.name);
        if let Some(tag) = config.image_tag() {
            let known = || match hold {
                Some(Hold::Suspended) => Tag::default(),
                _ => self.images.tag(name, tag, config.image_policy, changed),
            };
            desired.image = tagged_image(config, tag, observed, known);
            return;
        }
        self.images.forget_tag(name);
        let Some(request) = self.request(desired, observed) else { return };
        desired.image = match hold {
            Some(Hold::Suspended) => ImageStatus::Building("suspended".to_owned()),
            Some(_) => self.existing_image(&request).await,
            None => self.images.ensure(&request, built),
        };
    }

    async fn preview_image(&self, desired: &mut DesiredLocation, observed: &ObservedResources) {
        let config = &desired.config;
        if let Some(tag) = config.image_tag() {
            let known = self.images.ask(tag).await;
            desired.image = tagged_image(config, tag, observed, || known);
        } else if let Some(request) = self.request(desired, observed)
            && matches!(desired.image, ImageStatus::Building(_))
        {
            desired.image = self.existing_image(&request).await;
        }
    }

    async fn existing_image(&self, request: &Request) -> ImageStatus {
        match self.images.find(request).await {
            Ok(Some(image)) => ImageStatus::Ready(image),
            Ok(None) => ImageStatus::Building("the image is not built yet".to_owned()),
            Err(error) => ImageStatus::Failed(error.to_string()),
        }
    }

    /// The build of this commit; nothing until there is a commit and an image repository.
    fn request(&self, desired: &DesiredLocation, observed: &ObservedResources) -> Option<Request> {
        let config = &desired.config;
        Some(Request {
            location: config.name.clone(),
            git_url: config.git_url.clone(),
            commit: desired.commit.clone()?,
            subdirectory: config.subdirectory.clone(),
            code: config.code.clone(),
            dependencies: config.dependencies.clone(),
            dockerfile: config.dockerfile.clone(),
            python: config.python_version.clone().unwrap_or_else(|| self.default_python.clone()),
            architecture: config.resources.architecture,
            target: observed.image_repository.as_ref()?.uri.clone(),
        })
    }
}

pub fn key_of(config: &Location) -> RefKey {
    RefKey { git_url: config.git_url.clone(), reference: config.reference.clone() }
}

fn given_image(config: &Location, reference: String) -> Image {
    Image { reference, commit: None, load: load_of_given_image(&config.code) }
}

/// The image that a tag names: a pinned tag keeps the digest that was rolled out; otherwise codeloc asks the registry.
fn tagged_image(config: &Location, tag: &str, observed: &ObservedResources, ask: impl FnOnce() -> Tag) -> ImageStatus {
    let rolled_out = task_definition::image_of_tag(&observed.task_definitions, tag).map(str::to_owned);
    if let (ImagePolicy::Pinned, Some(reference)) = (config.image_policy, &rolled_out) {
        return ImageStatus::Ready(given_image(config, reference.clone()));
    }
    let Tag { digest, failure } = ask();
    let repository = tag.rsplit_once(':').map_or(tag, |(repository, _)| repository);
    // The running image stays until the registry names another one.
    match (digest.map(|digest| format!("{repository}@{digest}")).or(rolled_out), failure) {
        (Some(reference), None) => ImageStatus::Ready(given_image(config, reference)),
        (Some(reference), Some(reason)) => ImageStatus::Stale { image: given_image(config, reference), reason },
        (None, Some(reason)) => ImageStatus::Unresolved(reason),
        (None, None) => ImageStatus::Resolving(format!("asking the registry for the image of {tag}")),
    }
}

#[cfg(test)]
mod tests {
    use codeloc_core::ids::Digest;

    use super::*;

    const TAG: &str = "registry.test/orders:latest";

    fn config(policy: &str) -> Location {
        let source = "git_url: https://git.test/orders.git\nmodule: orders.definitions\n";
        let text = format!("name: orders\nimage: {TAG}\nimage_policy: {policy}\n{source}");
        codeloc_crds::parse("orders", &text).expect("a valid config")
    }

    fn tag(digest: Option<&Digest>, failure: Option<&str>) -> Tag {
        Tag { digest: digest.cloned(), failure: failure.map(str::to_owned) }
    }

    #[test]
    fn a_tag_becomes_the_digest_that_the_registry_names() {
        let digest = Digest::from(format!("sha256:{}", "a".repeat(64)));
        let status = tagged_image(&config("follow"), TAG, &ObservedResources::default(), || tag(Some(&digest), None));
        let image = status.image().expect("an image");
        assert_eq!(image.reference, format!("registry.test/orders@{digest}"));
    }

    #[test]
    fn a_registry_that_fails_leaves_the_known_image_in_force() {
        let digest = Digest::from(format!("sha256:{}", "a".repeat(64)));
        let known = || tag(Some(&digest), Some("no answer"));
        let status = tagged_image(&config("follow"), TAG, &ObservedResources::default(), known);
        assert!(matches!(status, ImageStatus::Stale { reason, .. } if reason == "no answer"));
    }

    #[test]
    fn an_unknown_tag_without_an_answer_is_unresolved() {
        let status = tagged_image(&config("pinned"), TAG, &ObservedResources::default(), || tag(None, Some("no tag")));
        assert_eq!(status, ImageStatus::Unresolved("no tag".to_owned()));
    }
}
