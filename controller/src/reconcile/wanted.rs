//! What a location is to be, from the configs, the branches and the images as they are known at this moment.

use codeloc_crds::Repository;

use super::pass::Reconciler;
use crate::build::{Builder, Image, Request};
use crate::dagster::{CodeServer, Webserver};
use crate::kinds::{Live, task_definition};
use crate::plan::ImageState;
use crate::source::{HeadKey, Invalid};

/// What is wanted, owned, as one round sees it.
pub(super) enum Wanted {
    Present(Box<Repository>, Box<ImageKnown>, Option<String>),
    Frozen(Invalid),
    Absent,
}

pub(super) enum ImageKnown {
    Ready(Image),
    Resolving(String),
    Unresolved(String),
    Building(String),
    Failed(String),
}

impl ImageKnown {
    pub(super) fn state(&self) -> ImageState<'_> {
        match self {
            Self::Ready(image) => ImageState::Ready(image),
            Self::Resolving(text) => ImageState::Resolving(text),
            Self::Unresolved(text) => ImageState::Unresolved(text),
            Self::Building(text) => ImageState::Building(text),
            Self::Failed(text) => ImageState::Failed(text),
        }
    }
}

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    pub(super) fn wanted(&self, name: &str) -> Wanted {
        // Without a snapshot nothing is known to be gone: the caller does not get here before there is one.
        let Some(snapshot) = self.snapshot() else {
            return Wanted::Frozen(Invalid {
                path: name.to_owned(),
                message: "the configs have not been read yet".to_owned(),
                rendered: "the configs have not been read yet".to_owned(),
            });
        };
        let repository = match snapshot.repositories.get(name) {
            None => return Wanted::Absent,
            Some(Err(invalid)) => return Wanted::Frozen(invalid.clone()),
            Some(Ok(repository)) => repository.clone(),
        };
        if let Some(reference) = &repository.image {
            let load = task_definition::load_of_given_image(&repository);
            let image = ImageKnown::Ready(Image { reference: reference.clone(), load });
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
            python: repository.python_version.clone().unwrap_or_else(|| build.python.clone()),
            architecture: repository.resources.architecture,
            target: live.image_repository.as_ref()?.uri.clone(),
        })
    }
}
