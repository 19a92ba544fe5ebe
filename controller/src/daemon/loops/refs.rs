//! Enqueues the locations that follow a branch whose commit has changed.

use std::sync::Arc;

use crate::daemon::{Daemon, MovedRefs};
use crate::reconcile::Ports;

pub async fn run<P: Ports>(daemon: Arc<Daemon<P>>, mut moved: MovedRefs) {
    while let Some(key) = moved.recv().await {
        for name in daemon.context.desired.configs.followers(&key) {
            daemon.queue.add_now(&name, daemon.context.change_reason(&name));
        }
    }
    // The sender lives until the process ends.
    std::future::pending::<()>().await;
}
