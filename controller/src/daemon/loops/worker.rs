//! Reconciles the locations that are due, the most urgent first.

use std::sync::Arc;

use codeloc_core::priority::Priority;
use tokio::time::Instant;

use crate::daemon::Daemon;
use crate::reconcile::queue::Due;
use crate::reconcile::{Outcome, Ports, Reason, reconcile};

/// Takes the locations that are at least as urgent as `least`.
pub async fn run<P: Ports>(daemon: Arc<Daemon<P>>, least: Priority) {
    let queue = &daemon.queue;
    loop {
        let Due { name, reason, waited } = queue.next(least).await;
        if daemon.context.desired.configs.snapshot().is_some() {
            let metrics = &daemon.context.status.recorder.metrics;
            metrics.observe_queue_wait(reason.priority(), waited);
            let started = Instant::now();
            let action = reconcile(&daemon.context, &name, reason).await;
            metrics.observe_reconcile(action.outcome.label(), started.elapsed());
            if action.collect_garbage {
                queue.add_now(&name, Reason::CollectGarbage);
            }
            match action.outcome {
                Outcome::Waiting(after) => queue.add(&name, reason.after_wait(), Instant::now() + after),
                Outcome::Failed(after) => queue.add(&name, reason.after_failure(), Instant::now() + after),
                Outcome::Converged | Outcome::Held | Outcome::Unleased | Outcome::AwaitingSweep | Outcome::Gone => {}
            }
            daemon.progress.set(&name, action.outcome);
        }
        queue.done(&name);
    }
}
