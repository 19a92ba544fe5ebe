//! How current a status is: every push before its `as_of` is in it.

use codeloc_core::desired::Invalid;
use codeloc_core::lock::lock;
use codeloc_core::status::LocationStatus;
use codeloc_crds::{GitReference, Location};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_git::refs::RefKey;
use codeloc_images::Builder;
use tokio::time::Instant;

use super::desired::Wanted;
use super::pass::Reconciler;
use crate::config_source::SourceState;

/// The config that a status was computed from; `None` for a location without one.
pub(super) type Config = Option<Result<Location, Invalid>>;

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    /// Remembers what a status was computed from.
    pub(super) fn rests_on(&self, name: &str, desired: &Wanted) {
        let config: Config = match desired {
            Wanted::Present(location, ..) => Some(Ok((**location).clone())),
            Wanted::Invalid(invalid) => Some(Err(invalid.clone())),
            Wanted::Absent => None,
        };
        match config {
            Some(config) => lock(&self.configs_told).insert(name.to_owned(), config),
            None => lock(&self.configs_told).remove(name),
        };
    }

    /// When the configs and the branch behind this status were last read, the earlier of the two. `None` while a newer config or
    /// commit waits for a pass.
    pub fn as_of(&self, status: &LocationStatus, source: &SourceState) -> Option<Instant> {
        let read = self.configs_as_of(source)?;
        let snapshot = self.snapshot()?;
        let config = snapshot.locations.get(status.name.as_str());
        if lock(&self.configs_told).get(&status.name) != config {
            return None;
        }
        let Some(Ok(location)) = config else { return Some(read) };
        if location.image.is_some() || matches!(location.reference, GitReference::Commit(_)) {
            return Some(read);
        }
        let key = RefKey { git_url: location.git_url.clone(), reference: location.reference.clone() };
        let (commit, asked) = self.context.refs.asked(&key)?;
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
        let told = |name: &str| self.context.statuses.read(name, |_| ()).is_some();
        self.snapshot()?.locations.keys().all(|name| told(name.as_str())).then_some(read)
    }
}
