//! What people ask of the daemon: to look again, to build again, and to wait no longer. A request only adds locations to the queue.

use codeloc_crds::LocationName;

use super::Daemon;
use crate::reconcile::{Ports, Reason};

impl<P: Ports> Daemon<P> {
    /// Reads the branch of a location again, repeats its failed builds, and reconciles it.
    pub fn sync(&self, name: &LocationName) {
        let desired = &self.context.desired;
        let snapshot = desired.configs.snapshot();
        let location = snapshot.as_ref().and_then(|snapshot| snapshot.in_force().find(|one| one.name == *name));
        if let Some(location) = location {
            desired.refs.trigger(&location.git_url);
        }
        desired.images.builds.retry_failed(name);
        self.queue.add_now(name, self.context.change_reason(name));
    }

    pub fn sync_all(&self) {
        let desired = &self.context.desired;
        desired.refs.trigger_all();
        let snapshot = desired.configs.snapshot();
        for name in snapshot.iter().flat_map(|snapshot| snapshot.locations.keys()) {
            desired.images.builds.retry_failed(name);
            self.queue.add_now(name, Reason::Progress);
        }
    }

    /// Looks for the image of a location again, and builds it if the registry does not have it.
    pub fn retry(&self, name: &LocationName) {
        self.context.desired.images.builds.retry(name);
        self.sync(name);
    }

    /// Ends the wait for the runs of a removed location.
    pub fn abandon_runs(&self, name: &LocationName) {
        self.context.desired.configs.abandon_runs(name);
        self.queue.add_now(name, Reason::Progress);
    }
}
