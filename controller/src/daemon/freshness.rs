//! Up to which moment a status takes account of every push.

use std::sync::Arc;

use codeloc_core::status::LocationStatus;
use codeloc_crds::{GitReference, LocationName};
use tokio::time::Instant;

use super::Daemon;
use crate::reconcile::{Ports, key_of};

impl<P: Ports> Daemon<P> {
    /// When codeloc last read the configs and the branch behind this status, the earlier of the two. Nothing while a newer config or
    /// commit waits for a pass.
    pub fn as_of(&self, status: &LocationStatus) -> Option<Instant> {
        let read = self.configs_as_of()?;
        let snapshot = self.context.desired.configs.snapshot()?;
        let config = snapshot.locations.get(status.name.as_str());
        if self.context.status.config(&status.name).as_ref() != config {
            return None;
        }
        let Some(Ok(location)) = config else { return Some(read) };
        if location.image.is_some() || matches!(location.reference, GitReference::Commit(_)) {
            return Some(read);
        }
        let (commit, asked) = self.context.desired.refs.asked(&key_of(location))?;
        (status.commit == Some(commit)).then(|| read.min(asked))
    }

    /// When codeloc last read the configs in force.
    fn configs_as_of(&self) -> Option<Instant> {
        let in_force = self.context.desired.configs.snapshot()?;
        let source = self.source.borrow();
        Arc::ptr_eq(&in_force, source.snapshot.as_ref()?).then_some(source.read)?
    }

    /// The same, once each config has a status.
    pub fn whole_as_of(&self) -> Option<Instant> {
        let read = self.configs_as_of()?;
        let has_status = |name: &LocationName| self.context.status.statuses.read(name, |_| ()).is_some();
        let snapshot = self.context.desired.configs.snapshot()?;
        snapshot.locations.keys().all(has_status).then_some(read)
    }
}
