//! How current a status is: every push before its `as_of` is in it.

use codeloc_core::desired::Invalid;
use codeloc_core::lock::lock;
use codeloc_core::status::RepositoryStatus;
use codeloc_crds::{GitReference, Repository};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_git::heads::HeadKey;
use codeloc_images::Builder;
use tokio::time::Instant;

use super::pass::Reconciler;
use super::wanted::Wanted;
use crate::config_source::SourceState;

/// The config that a status was computed from; `None` for a location without one.
pub(super) type Config = Option<Result<Repository, Invalid>>;

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    /// Remembers what a status was computed from.
    pub(super) fn rests_on(&self, name: &str, wanted: &Wanted) {
        let config: Config = match wanted {
            Wanted::Present(repository, ..) => Some(Ok((**repository).clone())),
            Wanted::Frozen(invalid) => Some(Err(invalid.clone())),
            Wanted::Absent => None,
        };
        match config {
            Some(config) => lock(&self.configs_told).insert(name.to_owned(), config),
            None => lock(&self.configs_told).remove(name),
        };
    }

    /// When the configs and the branch behind this status were last read, the earlier of the two. `None` while a newer config or
    /// commit waits for a pass.
    pub fn as_of(&self, status: &RepositoryStatus, source: &SourceState) -> Option<Instant> {
        let read = self.configs_as_of(source)?;
        let snapshot = self.snapshot()?;
        let config = snapshot.repositories.get(status.name.as_str());
        if lock(&self.configs_told).get(&status.name) != config {
            return None;
        }
        let Some(Ok(repository)) = config else { return Some(read) };
        if repository.image.is_some() || matches!(repository.reference, GitReference::Commit(_)) {
            return Some(read);
        }
        let key = HeadKey { git_url: repository.git_url.clone(), reference: repository.reference.clone() };
        let (commit, asked) = self.world.heads.asked(&key)?;
        (status.commit == Some(commit)).then(|| read.min(asked))
    }

    /// When the configs in force were last read.
    fn configs_as_of(&self, source: &SourceState) -> Option<Instant> {
        let in_force = self.snapshot()?;
        let read = source.snapshot.as_ref()?;
        std::sync::Arc::ptr_eq(&in_force, read).then_some(source.read)?
    }

    /// The same, once each config has a status.
    pub fn whole_as_of(&self, source: &SourceState) -> Option<Instant> {
        let read = self.configs_as_of(source)?;
        let told = |name: &str| self.world.board.read(name, |_| ()).is_some();
        self.snapshot()?.repositories.keys().all(|name| told(name.as_str())).then_some(read)
    }
}
