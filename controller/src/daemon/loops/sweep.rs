//! Reads the whole deployment at the start, at each interval, when locations wait for it, and when the lease is acquired or lost.
//! Nothing is swept before the configs were read.

use std::sync::Arc;
use std::time::Duration;

use codeloc_aws::fence::Epoch;
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
    let mut holding: Option<Epoch> = None;
    let mut resync_at = Instant::now();
    loop {
        let state = lease_state.borrow_and_update().clone();
        let now = (state == LeaseState::Held).then(|| observer.aws.lease.fence().epoch());
        let before = std::mem::replace(&mut holding, now);
        for event in lease_events(&state, before, now) {
            daemon.context.status.recorder.record(event);
        }
        let resyncs = Instant::now() >= resync_at || now != before;
        let pause = if let Some(locations) = daemon.sweep(resyncs).await {
            if resyncs {
                resync_at = Instant::now() + interval;
                let daemon = daemon.clone();
                tokio::spawn(async move { daemon.context.desired.images.builds.look_up_some().await });
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
        let mut waiting = observer.awaiting_sweep.take();
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
        // Those that joined during the sweep need no other one, unless codeloc changed them meanwhile.
        let epoch = observer.aws.memory().epoch;
        waiting.extend(observer.awaiting_sweep.take_seen(|name| observer.store.has_observation(epoch, name)));
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

/// The events of a change of the lease. `before` and `now` are the epochs in which this process held or holds it.
fn lease_events(state: &LeaseState, before: Option<Epoch>, now: Option<Epoch>) -> Vec<NewEvent> {
    let lost = |why: String| NewEvent::of_daemon(EventReason::LeaseLost, why);
    match state {
        LeaseState::Held if before == now => vec![],
        LeaseState::Held => {
            // Another process may have held it during the last sweep.
            let lost = before.map(|_| lost("this process lost the lease during the last sweep".to_owned()));
            let acquired = "this process holds the lease and may change AWS";
            lost.into_iter().chain([NewEvent::of_daemon(EventReason::LeaseAcquired, acquired)]).collect()
        }
        LeaseState::Standby { holder } => vec![lost(format!("{holder} holds the lease"))],
        LeaseState::Unreadable(why) => vec![lost(format!("this process does not hold the lease: {why}"))],
        LeaseState::Unknown => vec![],
    }
}

#[cfg(test)]
mod tests {
    use codeloc_aws::fence::Fence;

    use super::*;

    /// The epochs of a fence that opened twice.
    fn epochs() -> [Option<Epoch>; 2] {
        let fence = Fence::open();
        let first = fence.epoch();
        fence.close();
        fence.open_until(Instant::now() + Duration::from_secs(60));
        [Some(first), Some(fence.epoch())]
    }

    fn reasons(state: &LeaseState, before: Option<Epoch>, now: Option<Epoch>) -> Vec<EventReason> {
        lease_events(state, before, now).into_iter().map(|event| event.reason).collect()
    }

    #[test]
    fn an_acquired_lease_is_an_event_once() {
        let [first, _] = epochs();
        assert_eq!(reasons(&LeaseState::Held, None, first), [EventReason::LeaseAcquired]);
        assert_eq!(reasons(&LeaseState::Held, first, first), []);
    }

    #[test]
    fn a_loss_and_a_return_within_one_sweep_are_events() {
        let [first, second] = epochs();
        let events = reasons(&LeaseState::Held, first, second);
        assert_eq!(events, [EventReason::LeaseLost, EventReason::LeaseAcquired]);
    }

    #[test]
    fn a_lost_lease_names_the_holder() {
        let [first, _] = epochs();
        let events = lease_events(&LeaseState::Standby { holder: "other".to_owned() }, first, None);
        assert_eq!(events[0].reason, EventReason::LeaseLost);
        assert_eq!(events[0].message, "other holds the lease");
    }
}
