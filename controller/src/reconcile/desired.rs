//! The desired state of a location: its config, the commit of its branch, and its image.

use codeloc_core::desired::{Desired, DesiredLocation};
use codeloc_core::ids::Commit;
use codeloc_core::image::{Image, ImageStatus, load_of_given_image};
use codeloc_core::planner::Hold;
use codeloc_core::resources::{ObservedResources, task_definition};
use codeloc_core::tags;
use codeloc_crds::{ImagePolicy, Location};
use codeloc_git::refs::{RefKey, Refs};
use codeloc_images::{Builder, Request};

use super::configs::{Config, Configs};
use super::image_builds::Wanted;
use super::image_tags::Tag;
use super::images::Images;
use super::reason::Reason;

pub struct DesiredState<B> {
    pub configs: Configs,
    pub refs: Refs,
    pub images: Images<B>,
    /// The deployment's id.
    deployment: String,
}

impl<B: Builder> DesiredState<B> {
    pub fn new(deployment: &str, refs: Refs, images: Images<B>) -> Self {
        Self { configs: Configs::default(), refs, images, deployment: deployment.to_owned() }
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
        if hold.is_none() {
            self.keep_serving_image(&location, observed, built);
        }
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
            Config::Valid(config) => config,
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
        if config.image.is_some() {
            self.images.builds.forget_desired(name);
        }
        if let Some(tag) = config.image_tag() {
            let known = || match hold {
                Some(Hold::Suspended) => Tag::default(),
                _ => self.images.tags.get(name, tag, config.image_policy, changed),
            };
            desired.image = tagged_image(config, tag, observed, known);
            return;
        }
        self.images.tags.forget(name);
        let Some(wanted) = self.wanted(config, desired.commit.as_ref(), observed) else { return };
        desired.image = match hold {
            Some(Hold::Suspended) => ImageStatus::Building("suspended".to_owned()),
            Some(_) => self.existing_image(&wanted).await,
            None => self.images.builds.ensure(&wanted, built),
        };
    }

    /// Until the desired image runs, the one that serves stays in the registry: tasks and runs that start from its definition need it. The
    /// image of a Dockerfile cannot be built again: another build gives another digest.
    fn keep_serving_image(&self, desired: &DesiredLocation, observed: &ObservedResources, built: Reason) {
        let config = &desired.config;
        let serving = observed.serving().filter(|serving| {
            let is_reproducible = config.dockerfile.is_none();
            let image = serving.content.as_ref().map(|content| &content.image);
            is_reproducible && image != desired.image.image().map(|image| &image.reference)
        });
        let wanted = serving.and_then(|serving| {
            let image = &serving.content.as_ref()?.image;
            let wanted = self.wanted(config, serving.commit().as_ref(), observed)?;
            let built_here = image.strip_prefix(&wanted.request.target).is_some_and(|rest| rest.starts_with('@'));
            built_here.then(|| Wanted { deployed: Some(image.clone()), ..wanted })
        });
        self.images.builds.keep(&config.name, wanted.as_ref(), built);
    }

    async fn preview_image(&self, desired: &mut DesiredLocation, observed: &ObservedResources) {
        let config = &desired.config;
        if let Some(tag) = config.image_tag() {
            let known = self.images.tags.ask(tag).await;
            desired.image = tagged_image(config, tag, observed, || known);
        } else if let Some(wanted) = self.wanted(config, desired.commit.as_ref(), observed)
            && matches!(desired.image, ImageStatus::Building(_))
        {
            desired.image = self.existing_image(&wanted).await;
        }
    }

    async fn existing_image(&self, wanted: &Wanted) -> ImageStatus {
        match self.images.builds.find(wanted).await {
            Ok(Some(image)) => ImageStatus::Ready(image),
            Ok(None) => ImageStatus::Building("the image is not built yet".to_owned()),
            Err(error) => ImageStatus::Failed(error.to_string()),
        }
    }

    /// The build of a commit; nothing until there is a commit and an image repository of this location.
    fn wanted(&self, config: &Location, commit: Option<&Commit>, observed: &ObservedResources) -> Option<Wanted> {
        let repository = observed.image_repository.as_ref()?;
        if !tags::may_manage(&repository.tags, &self.deployment, &config.name, config.adopt) {
            return None;
        }
        let request = Request {
            location: config.name.clone(),
            git_url: config.git_url.clone(),
            commit: commit?.clone(),
            subdirectory: config.subdirectory.clone(),
            code: config.code.clone(),
            dependencies: config.dependencies.clone(),
            dockerfile: config.dockerfile.clone(),
            commands: config.build_commands.clone(),
            python: config.python_version.clone(),
            architecture: config.resources.architecture,
            target: repository.uri.clone(),
        };
        let deployed = observed.runs().and_then(|runs| Some(runs.content.as_ref()?.image.clone()));
        Some(Wanted { request, repository_created_ms: repository.created_ms, deployed })
    }
}

pub fn key_of(config: &Location) -> RefKey {
    RefKey { git_url: config.git_url.clone(), reference: config.reference.clone() }
}

fn given_image(config: &Location, reference: String) -> Image {
    Image { reference, commit: None, load: load_of_given_image(&config.code), notes: vec![] }
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
