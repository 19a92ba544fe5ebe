//! Asks the registry for the image tags that locations follow, as often as git for branches.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::reconcile::Ports;

pub async fn run<P: Ports>(daemon: Arc<Daemon<P>>) {
    let interval = Duration::from_secs(daemon.settings.git.poll_seconds.max(1));
    let desired = &daemon.context.desired;
    loop {
        tokio::time::sleep(interval).await;
        for name in desired.images.tags.refresh(desired.configs.followed_tags()).await {
            daemon.queue.add_now(&name, daemon.context.change_reason(&name));
        }
    }
}
