//! What a location is to be, from the configs, the branches and the images as they are known at this moment.

use std::collections::BTreeSet;

use codeloc_core::desired::Invalid;
use codeloc_core::image::{Image, load_of_given_image};
use codeloc_core::planner::{Hold, ImageState};
use codeloc_core::resources::{Live, task_definition};
use codeloc_crds::{ImagePolicy, Repository};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_git::heads::HeadKey;
use codeloc_images::{Builder, Request};

use super::images::Tag;
use super::pass::Reconciler;

/// What is wanted, owned, as one round sees it.
pub(super) enum Wanted {
    Present(Box<Repository>, Box<ImageKnown>, Option<String>),
    Frozen(Invalid),
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
    pub(super) fn wanted(&self, name: &str, live: &Live) -> Wanted {
        // Without a snapshot nothing is known to be gone: the caller does not get here before there is one.
        let Some(snapshot) = self.snapshot() else {
            return Wanted::Frozen(Invalid {
                path: name.to_owned(),
                message: "the configs have not been read yet".to_owned(),
                rendered: "the configs have not been read yet".to_owned(),
            });
        };
        let contested = snapshot.contested.get(name);
        let holder = contested.filter(|repository| live.runs_with_prefix() == Some(repository.s3_prefix.as_str()));
        let repository = match snapshot.repositories.get(name).map(|read| holder.map_or(read.as_ref(), Ok)) {
            None => match snapshot.claimed.get(name) {
                Some(invalid) if live.any_owned(name, &self.world.place.deployment) => {
                    return Wanted::Frozen(invalid.clone());
                }
                _ => return Wanted::Absent,
            },
            Some(Err(invalid)) => return Wanted::Frozen(invalid.clone()),
            Some(Ok(repository)) => repository.clone(),
        };
        if repository.image_tag().is_some() {
            let image = ImageKnown::Resolving("asking the registry for the image's tag".to_owned());
            return Wanted::Present(Box::new(repository), Box::new(image), None);
        }
        if let Some(reference) = &repository.image {
            let load = load_of_given_image(&repository.code);
            let image = ImageKnown::Ready(Image { reference: reference.clone(), commit: None, load });
            return Wanted::Present(Box::new(repository), Box::new(image), None);
        }
        let key = HeadKey { git_url: repository.git_url.clone(), reference: repository.reference.clone() };
        // The last commit that is known stays in force while the git host does not answer.
        let head = self.world.heads.get(&key);
        let commit = head.as_ref().and_then(|head| head.commit.clone());
        let failure = head.and_then(|head| head.failure);
        let image = match (&commit, failure) {
            (Some(_), _) => ImageKnown::Building("waiting for the image repository".to_owned()),
            (None, Some(failure)) => ImageKnown::Unresolved(failure.message),
            (None, None) => ImageKnown::Resolving("asking git for the commit".to_owned()),
        };
        Wanted::Present(Box::new(repository), Box::new(image), commit)
    }

    /// The image that a config gives by tag, as it is known now.
    pub(super) fn tagged(&self, repository: &Repository, tag: &str, live: &Live, hold: Option<&Hold>) -> ImageKnown {
        let images = &self.world.images;
        if hold == Some(&Hold::Suspended) {
            let known = Tag::default();
            return of_tag(repository, tag, live, || known);
        }
        let name = repository.name.as_str();
        of_tag(repository, tag, live, || images.tag(name, tag, repository.image_policy, self.urgency(name)))
    }

    /// The same, with an answer that is waited for.
    pub(super) async fn tagged_now(&self, repository: &Repository, tag: &str, live: &Live) -> ImageKnown {
        let known = self.world.images.ask(tag).await;
        of_tag(repository, tag, live, || known)
    }

    /// Tags that configs follow.
    pub(super) fn followed_tags(&self) -> BTreeSet<String> {
        let snapshot = self.snapshot();
        let repositories = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        repositories
            .filter(|repository| repository.image_policy == ImagePolicy::Follow)
            .filter_map(|repository| repository.image_tag().map(str::to_owned))
            .collect()
    }

    /// What to build, once there is a commit, and a repository to push it to.
    pub(super) fn request(&self, repository: &Repository, commit: Option<&str>, live: &Live) -> Option<Request> {
        let build = &self.world.settings.build;
        Some(Request {
            repository: repository.name.clone(),
            git_url: repository.git_url.clone(),
            commit: commit?.to_owned(),
            subdirectory: repository.subdirectory.clone(),
            code: repository.code.clone(),
            dependencies: repository.dependencies.clone(),
            dockerfile: repository.dockerfile.clone(),
            python: repository.python_version.clone().unwrap_or_else(|| build.python.clone()),
            architecture: repository.resources.architecture,
            target: live.image_repository.as_ref()?.uri.clone(),
        })
    }
}

/// What a tag comes to: by what was rolled out under it, and by what the registry says, which is asked where that matters.
fn of_tag(repository: &Repository, tag: &str, live: &Live, ask: impl FnOnce() -> Tag) -> ImageKnown {
    let load = load_of_given_image(&repository.code);
    let image = |reference: String| Image { reference, commit: None, load: load.clone() };
    let rolled_out = task_definition::image_of_tag(&live.task_definitions, tag).map(str::to_owned);
    if let (ImagePolicy::Pinned, Some(reference)) = (repository.image_policy, &rolled_out) {
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
