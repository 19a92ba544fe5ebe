//! Whether a remote side answers, judged by the clock: it gets a request at short intervals, and a request that hangs counts as
//! one that fails.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Pulse {
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// When the first request since the last success started.
    pending_since: Option<Instant>,
    /// Why the last request failed. `None` while the first one is pending.
    why: Option<String>,
}

/// No success since a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    pub since: Instant,
    /// The error of the last request. `None` if none has ended.
    pub why: Option<String>,
}

impl Pulse {
    /// Call before each request.
    pub fn ask(&self) {
        self.state.send_if_modified(|state| {
            let first = state.pending_since.is_none();
            state.pending_since.get_or_insert_with(Instant::now);
            first
        });
    }

    pub fn heard(&self) {
        self.state.send_if_modified(|state| std::mem::take(state).pending_since.is_some());
    }

    pub fn failed(&self, why: String) {
        self.state.send_if_modified(|state| {
            state.pending_since.get_or_insert_with(Instant::now);
            state.why = Some(why);
            true
        });
    }

    /// `None` while the oldest pending request is younger than `patience`.
    pub fn silence(&self, patience: Duration) -> Option<Silence> {
        let State { pending_since, why } = self.state.borrow().clone();
        let since = pending_since.filter(|since| since.elapsed() >= patience)?;
        Some(Silence { since, why })
    }

    /// Waits until a request is as old as `patience`.
    pub async fn until_silent(&self, patience: Duration) -> Silence {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(silence) = self.silence(patience) {
                return silence;
            }
            let pending_since = changes.borrow_and_update().pending_since;
            let due = async {
                match pending_since {
                    Some(since) => tokio::time::sleep_until(since + patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                // Never an error: this value owns the sender.
                _ = changes.changed() => {}
            }
        }
    }

    /// Waits until no request is unanswered.
    pub async fn until_heard(&self) {
        // Never an error: this value owns the sender.
        let _ = self.state.subscribe().wait_for(|state| state.pending_since.is_none()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(4);

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_hangs_is_a_silence() {
        let pulse = Pulse::default();
        let start = Instant::now();
        pulse.ask();
        assert_eq!(pulse.silence(PATIENCE), None);
        assert_eq!(pulse.until_silent(PATIENCE).await, Silence { since: start, why: None });
        pulse.heard();
        assert_eq!(pulse.silence(PATIENCE), None);
        pulse.until_heard().await;
    }

    #[tokio::test(start_paused = true)]
    async fn failing_requests_are_one_silence_since_the_first() {
        let pulse = Pulse::default();
        let start = Instant::now();
        for why in ["refused", "reset"] {
            pulse.ask();
            pulse.failed(why.to_owned());
            pass(3).await;
        }
        assert_eq!(pulse.silence(PATIENCE), Some(Silence { since: start, why: Some("reset".to_owned()) }));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_request_there_is_no_silence() {
        let pulse = Pulse::default();
        pulse.ask();
        pulse.heard();
        pass(3600).await;
        assert_eq!(pulse.silence(PATIENCE), None);
    }
}
