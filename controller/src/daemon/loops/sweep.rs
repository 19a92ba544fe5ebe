//! Reads the whole deployment at the start, at each interval, when locations wait for it, and when the lease is acquired or lost.
//! Nothing is swept before the configs were read.

use std::sync::Arc;
use std::time::Duration;

use codeloc_aws::lease::LeaseState;
use tokio::time::Instant;

use super::{AFTER_FAILURE, pause_after};
use crate::daemon::Daemon;
use crate::reconcile::{Ports, Reason};
use crate::status::events::{EventReason, NewEvent};
use crate::status::metrics::SweepOutcome;

/// The pause for each location that a sweep reads.
const FOR_EACH: Duration = Duration::from_millis(60);

pub async fn run<P: Ports>(daemon: Arc<Daemon<P>>) {
    daemon.context.desired.configs.read().await;
    let interval = Duration::from_secs(daemon.settings.reconcile.resync_seconds);
    let observer = &daemon.context.observer;
    let mut lease_state = observer.aws.lease.watch();
    if lease_state.wait_for(|state| *state != LeaseState::Unknown).await.is_err() {
        std::future::pending::<()>().await;
    }
    let mut held = false;
    let mut resync_at = Instant::now();
    loop {
        let state = lease_state.borrow_and_update().clone();
        let was_held = std::mem::replace(&mut held, state == LeaseState::Held);
        if let Some(event) = lease_event(&state, was_held) {
            daemon.context.status.recorder.record(event);
        }
        if held
            && !was_held
            && let Err(error) = observer.take_over().await
        {
            tracing::warn!(%error, "this process acquired the lease, but cannot read workspace.yaml");
        }
        let resyncs = Instant::now() >= resync_at || held != was_held;
        let pause = if let Some(locations) = daemon.sweep(resyncs).await {
            if resyncs {
                resync_at = Instant::now() + interval;
            }
            pause_after(locations, FOR_EACH)
        } else {
            resync_at = Instant::now() + AFTER_FAILURE.min(interval);
            AFTER_FAILURE
        };
        let soonest = Instant::now() + pause;
        tokio::select! {
            () = tokio::time::sleep_until(resync_at) => {}
            () = async { observer.awaiting_sweep.wait().await; tokio::time::sleep_until(soonest).await } => {}
            _ = lease_state.changed() => {}
        }
    }
}

impl<P: Ports> Daemon<P> {
    /// Sweeps, and enqueues the waiting locations; at a resync, all of them. Returns the number of locations, or nothing after a failure.
    async fn sweep(&self, resyncs: bool) -> Option<usize> {
        let (context, observer) = (&self.context, &self.context.observer);
        let waiting = observer.awaiting_sweep.take();
        let started = Instant::now();
        let names = context.desired.configs.names().into_iter().chain(waiting.keys().cloned());
        let swept = observer.sweep(names).await;
        let metrics = &context.status.recorder.metrics;
        let outcome = if swept.is_ok() { SweepOutcome::Done } else { SweepOutcome::Failed };
        metrics.observe_sweep(outcome, started.elapsed());
        let names = match swept {
            Ok(names) => names,
            Err(error) => {
                self.progress.sweep_failed(started, error.to_string());
                context.status.recorder.record(NewEvent::of_daemon(EventReason::SweepFailed, error.to_string()));
                tracing::warn!(%error, "the sweep could not read all of AWS; codeloc deletes nothing and retries");
                observer.awaiting_sweep.put_back(waiting);
                return None;
            }
        };
        self.progress.sweep_succeeded();
        for (name, reason) in &waiting {
            self.queue.add_now(name, *reason);
        }
        if resyncs {
            self.progress.expect(&names);
            for name in &names {
                self.queue.add_now(name, Reason::Resync);
            }
        } else {
            self.progress.expect(&[]);
        }
        Some(names.len())
    }
}

/// The event of a change of the lease.
fn lease_event(state: &LeaseState, was_held: bool) -> Option<NewEvent> {
    let lost = |why: String| Some(NewEvent::of_daemon(EventReason::LeaseLost, why));
    match state {
        LeaseState::Held if was_held => None,
        LeaseState::Held => {
            Some(NewEvent::of_daemon(EventReason::LeaseAcquired, "this process holds the lease and may change AWS"))
        }
        LeaseState::Standby { holder } => lost(format!("{holder} holds the lease")),
        LeaseState::Unreadable(why) => lost(format!("this process does not hold the lease: {why}")),
        LeaseState::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acquired_lease_is_an_event_once() {
        let event = lease_event(&LeaseState::Held, false).expect("an event");
        assert_eq!(event.reason, EventReason::LeaseAcquired);
        assert!(lease_event(&LeaseState::Held, true).is_none());
    }

    #[test]
    fn a_lost_lease_names_the_holder() {
        let event = lease_event(&LeaseState::Standby { holder: "other".to_owned() }, true).expect("an event");
        assert_eq!((event.reason, event.message.as_str()), (EventReason::LeaseLost, "other holds the lease"));
    }
}
