//! Reads the services of locations that wait for a rollout, many per call.

use std::sync::Arc;
use std::time::Duration;

use super::{AFTER_FAILURE, pause_after};
use crate::daemon::Daemon;
use crate::reconcile::Ports;

/// The pause for each location whose service a refresh reads.
const FOR_EACH: Duration = Duration::from_millis(200);

pub async fn run<P: Ports>(daemon: Arc<Daemon<P>>) {
    let observer = &daemon.context.observer;
    loop {
        observer.awaiting_refresh.wait().await;
        let batch = observer.awaiting_refresh.take();
        let pause = match observer.refresh_services(batch.keys()).await {
            Ok(()) => {
                for (name, reason) in &batch {
                    daemon.queue.add_now(name, *reason);
                }
                pause_after(batch.len(), FOR_EACH)
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot read the ECS services of locations that are rolling out; codeloc retries"
                );
                observer.awaiting_refresh.put_back(batch);
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
