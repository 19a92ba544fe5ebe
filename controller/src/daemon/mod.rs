//! The daemon: the loops that feed the queue, and the workers that reconcile. Events are hints that enqueue; they carry no data.

mod deployment;
mod faults;
mod freshness;
pub mod handle;
mod loops;
mod progress;
mod requests;
pub mod wiring;

use std::sync::Arc;

use codeloc_core::priority::Priority;
use codeloc_git::refs::RefKey;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use codeloc_aws::deployment::DeploymentError;
pub use deployment::find as find_deployment;
pub use faults::{Cause, Fault};
pub use progress::Progress;

use crate::config_source::SourceState;
use crate::reconcile::queue::Queue;
use crate::reconcile::{Context, Ports, WorkspacePublisher};
use crate::runtime::Clock;
use crate::settings::Settings;

/// Workers that only take changes of locations that serve. Creating a thousand locations waits for AWS's rates; a commit does not wait
/// for them.
const RESERVED_WORKERS: usize = 4;

/// Branches whose commit has changed.
pub type MovedRefs = UnboundedReceiver<RefKey>;

pub struct Daemon<P: Ports> {
    pub settings: Settings,
    pub context: Context<P>,
    pub publisher: Arc<WorkspacePublisher<P::Webserver>>,
    pub queue: Arc<Queue>,
    pub progress: Progress,
    pub clock: Clock,
    source: watch::Receiver<SourceState>,
}

impl<P: Ports> Daemon<P> {
    /// Runs until the future is dropped. The next start continues a pass that was interrupted.
    pub async fn run(self: &Arc<Self>, moved: MovedRefs) {
        let mut tasks = JoinSet::new();
        tasks.spawn(loops::source::run(self.clone()));
        tasks.spawn(loops::refs::run(self.clone(), moved));
        tasks.spawn(loops::tags::run(self.clone()));
        tasks.spawn(loops::sweep::run(self.clone()));
        tasks.spawn(loops::refresh::run(self.clone()));
        let daemon = self.clone();
        tasks.spawn(async move { daemon.context.observer.aws.lease.keep().await });
        let daemon = self.clone();
        tasks.spawn(async move { daemon.publisher.keep().await });
        for _ in 0..self.settings.reconcile.workers {
            tasks.spawn(loops::worker::run(self.clone(), Priority::Resync));
        }
        // Deleting garbage uses the slowest rates last, so it needs a worker that delays no other location.
        tasks.spawn(loops::worker::run(self.clone(), Priority::Garbage));
        for _ in 0..RESERVED_WORKERS {
            tasks.spawn(loops::worker::run(self.clone(), Priority::Commit));
        }
        // No loop ends by itself. If one panics, the process ends, and its supervisor starts it again.
        if let Some(Err(error)) = tasks.join_next().await {
            tracing::error!(%error, "a loop of the daemon panicked; the process ends");
        }
    }
}
