//! What a location is to be, from the configs, the branches and the images as they are known at this moment.

use std::collections::BTreeSet;

use codeloc_core::desired::Invalid;
use codeloc_core::image::{Image, load_of_given_image};
use codeloc_core::planner::{Hold, ImageState};
use codeloc_core::resources::{ObservedResources, task_definition};
use codeloc_crds::{ImagePolicy, Location};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_git::refs::RefKey;
use codeloc_images::{Builder, Request};

use super::images::Tag;
use super::pass::Reconciler;

/// What is wanted, owned, as one round sees it.
pub(super) enum Wanted {
    Present(Box<Location>, Box<ImageKnown>, Option<String>),
    Invalid(Invalid),
    Absent,
}

pub(super) enum ImageKnown {
    Ready(Image),
    Kept(Image, String),
    Resolving(String),
    Unresolved(String),
    Building(String),
    Failed(String),
}

impl ImageKnown {
    pub(super) fn state(&self) -> ImageState<'_> {
        match self {
            Self::Ready(image) => ImageState::Ready(image),
            Self::Kept(image, why) => ImageState::Kept(image, why),
            Self::Resolving(text) => ImageState::Resolving(text),
            Self::Unresolved(text) => ImageState::Unresolved(text),
            Self::Building(text) => ImageState::Building(text),
            Self::Failed(text) => ImageState::Failed(text),
        }
    }
}

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    /// What runs decides between configs that take the same prefix, and whether there is something that an invalid config can keep.
    pub(super) fn desired(&self, name: &str, observed: &ObservedResources) -> Wanted {
        // Without a snapshot nothing is known to be gone: the caller does not get here before there is one.
        let Some(snapshot) = self.snapshot() else {
            return Wanted::Invalid(Invalid {
                path: name.to_owned(),
                message: "the configs have not been read yet".to_owned(),
                rendered: "the configs have not been read yet".to_owned(),
            });
        };
        let contested = snapshot.contested.get(name);
        let holder = contested.filter(|location| observed.runs_with_prefix() == Some(location.s3_prefix.as_str()));
        let location = match snapshot.locations.get(name).map(|read| holder.map_or(read.as_ref(), Ok)) {
            None => match snapshot.claimed.get(name) {
                Some(invalid) if observed.any_owned(name, &self.context.deployment.id) => {
                    return Wanted::Invalid(invalid.clone());
                }
                _ => return Wanted::Absent,
            },
            Some(Err(invalid)) => return Wanted::Invalid(invalid.clone()),
            Some(Ok(location)) => location.clone(),
        };
        if location.image_tag().is_some() {
            let image = ImageKnown::Resolving("asking the registry for the image's tag".to_owned());
            return Wanted::Present(Box::new(location), Box::new(image), None);
        }
        if let Some(reference) = &location.image {
            let load = load_of_given_image(&location.code);
            let image = ImageKnown::Ready(Image { reference: reference.clone(), commit: None, load });
            return Wanted::Present(Box::new(location), Box::new(image), None);
        }
        let key = RefKey { git_url: location.git_url.clone(), reference: location.reference.clone() };
        // The last commit that is known stays in force while the git host does not answer.
        let head = self.context.refs.get(&key);
        let commit = head.as_ref().and_then(|head| head.commit.clone());
        let failure = head.and_then(|head| head.failure);
        let image = match (&commit, failure) {
            (Some(_), _) => ImageKnown::Building("waiting for the image repository".to_owned()),
            (None, Some(failure)) => ImageKnown::Unresolved(failure.message),
            (None, None) => ImageKnown::Resolving("asking git for the commit".to_owned()),
        };
        Wanted::Present(Box::new(location), Box::new(image), commit)
    }

    /// The image that a config gives by tag, as it is known now.
    pub(super) fn tagged(
        &self,
        location: &Location,
        tag: &str,
        observed: &ObservedResources,
        hold: Option<&Hold>,
    ) -> ImageKnown {
        let images = &self.context.images;
        if hold == Some(&Hold::Suspended) {
            let known = Tag::default();
            return of_tag(location, tag, observed, || known);
        }
        let name = location.name.as_str();
        of_tag(location, tag, observed, || images.tag(name, tag, location.image_policy, self.urgency(name)))
    }

    /// The same, with an answer that is waited for.
    pub(super) async fn tagged_now(&self, location: &Location, tag: &str, observed: &ObservedResources) -> ImageKnown {
        let known = self.context.images.ask(tag).await;
        of_tag(location, tag, observed, || known)
    }

    /// Tags that configs follow.
    pub(super) fn followed_tags(&self) -> BTreeSet<String> {
        let snapshot = self.snapshot();
        let locations = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        locations
            .filter(|location| location.image_policy == ImagePolicy::Follow)
            .filter_map(|location| location.image_tag().map(str::to_owned))
            .collect()
    }

    /// What to build, once there is a commit, and a repository to push it to.
    pub(super) fn request(
        &self,
        location: &Location,
        commit: Option<&str>,
        observed: &ObservedResources,
    ) -> Option<Request> {
        let build = &self.context.settings.build;
        Some(Request {
            location: location.name.clone(),
            git_url: location.git_url.clone(),
            commit: commit?.to_owned(),
            subdirectory: location.subdirectory.clone(),
            code: location.code.clone(),
            dependencies: location.dependencies.clone(),
            dockerfile: location.dockerfile.clone(),
            python: location.python_version.clone().unwrap_or_else(|| build.python.clone()),
            architecture: location.resources.architecture,
            target: observed.image_repository.as_ref()?.uri.clone(),
        })
    }
}

/// What a tag comes to: by what was rolled out under it, and by what the registry says, which is asked where that matters.
fn of_tag(location: &Location, tag: &str, observed: &ObservedResources, ask: impl FnOnce() -> Tag) -> ImageKnown {
    let load = load_of_given_image(&location.code);
    let image = |reference: String| Image { reference, commit: None, load: load.clone() };
    let rolled_out = task_definition::image_of_tag(&observed.task_definitions, tag).map(str::to_owned);
    if let (ImagePolicy::Pinned, Some(reference)) = (location.image_policy, &rolled_out) {
        return ImageKnown::Ready(image(reference.clone()));
    }
    let Tag { digest, failure } = ask();
    let name = tag.rsplit_once(':').map_or(tag, |(name, _)| name);
    // What runs stays until the registry says another thing.
    match (digest.map(|digest| format!("{name}@{digest}")).or(rolled_out), failure) {
        (Some(reference), None) => ImageKnown::Ready(image(reference)),
        (Some(reference), Some(why)) => ImageKnown::Kept(image(reference), why),
        (None, Some(why)) => ImageKnown::Unresolved(why),
        (None, None) => ImageKnown::Resolving(format!("asking the registry for {tag}")),
    }
}
