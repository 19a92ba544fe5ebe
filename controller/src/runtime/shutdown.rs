//! The orderly end of a process that may change AWS.

use std::io;

use codeloc_aws::fence::Fence;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT, then shuts the fence: it resolves when no change is in flight, so that another process may
/// take over. Signals count from the call on, not from the first poll.
pub fn shut_on_signal(fence: &Fence) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        fence.shut().await;
    })
}
