//! The loops around the passes: configs, branches, sweeps and workers. Events are hints that enqueue; they carry no data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use codeloc_aws::lease::LeaseState;
use codeloc_core::lock::lock;
use codeloc_core::priority::Priority;
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_git::refs::RefKey;
use codeloc_images::Builder;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pass::{Outcome, Reconciler};
use super::queue::Due;
use crate::config_source::{Snapshot, SourceState};
use crate::status::events::{EventReason, NewEvent};

/// Workers that take nothing but fresh commits.
const RESERVED: usize = 4;
/// The shortest and the longest time between two looks at those that wait for one.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const LAST_LOOK: Duration = Duration::from_secs(60);
/// Looks come so rarely that they cost few of the calls that AWS admits: for each location that a sweep reads, and for each of
/// which a glance reads the service.
const SWEEP_FOR_EACH: Duration = Duration::from_millis(60);
const REFRESH_FOR_EACH: Duration = Duration::from_millis(200);
/// After a sweep that failed.
const SWEEP_AGAIN: Duration = Duration::from_secs(5);

/// How far the daemon has come since it started.
#[derive(Debug, Default)]
pub struct Progress {
    swept: Mutex<Option<Instant>>,
    /// When the first sweep began of those that failed since, and why the last one did.
    sweeps_fail: Mutex<Option<(Instant, String)>>,
    outcomes: Mutex<BTreeMap<String, Outcome>>,
    changed: Notify,
}

impl Progress {
    fn outcomes(&self) -> MutexGuard<'_, BTreeMap<String, Outcome>> {
        lock(&self.outcomes)
    }

    /// Whether live state was read whole once.
    pub fn swept(&self) -> bool {
        self.last_sweep().is_some()
    }

    /// When it was last read whole.
    pub fn last_sweep(&self) -> Option<Instant> {
        *lock(&self.swept)
    }

    fn sweep_ended(&self) {
        *lock(&self.swept) = Some(Instant::now());
        *lock(&self.sweeps_fail) = None;
    }

    fn sweep_failed(&self, begun: Instant, why: String) {
        let mut failing = lock(&self.sweeps_fail);
        let since = failing.as_ref().map_or(begun, |(since, _)| *since);
        *failing = Some((since, why));
    }

    /// Since when no sweep has ended well, where the last one failed, and why.
    pub fn sweeps_fail(&self) -> Option<(Instant, String)> {
        lock(&self.sweeps_fail).clone()
    }

    fn set(&self, name: &str, outcome: Outcome) {
        self.outcomes().insert(name.to_owned(), outcome);
        self.changed.notify_waiters();
    }

    /// Until `settled` says so of the outcomes, asked whenever one changes.
    pub async fn until(&self, settled: impl Fn(&BTreeMap<String, Outcome>) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.swept() && settled(&self.outcomes()) {
                return;
            }
            changed.await;
        }
    }
}

pub struct Daemon<B, C, W> {
    pub reconciler: Arc<Reconciler<B, C, W>>,
    pub progress: Arc<Progress>,
    source: watch::Receiver<SourceState>,
}

impl<B: Builder, C: CodeServer, W: Webserver> Daemon<B, C, W> {
    pub fn new(reconciler: Reconciler<B, C, W>, source: watch::Receiver<SourceState>) -> Self {
        Self { reconciler: Arc::new(reconciler), progress: Arc::default(), source }
    }

    /// Runs until it is dropped. What a pass is at when that happens is found and continued by the next start.
    pub async fn run(&self, moved: UnboundedReceiver<RefKey>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_source(self.reconciler.clone(), self.source.clone()));
        tasks.spawn(follow_heads(self.reconciler.clone(), moved));
        tasks.spawn(sweeps(self.reconciler.clone(), self.progress.clone(), self.source.clone()));
        tasks.spawn(refresh_loop(self.reconciler.clone()));
        tasks.spawn(follow_tags(self.reconciler.clone()));
        let lease = self.reconciler.context.lease.clone();
        tasks.spawn(async move { lease.keep().await });
        let reconciler = self.reconciler.clone();
        tasks.spawn(async move { reconciler.context.workspace.keep().await });
        for _ in 0..self.reconciler.context.settings.reconcile.workers {
            tasks.spawn(work(self.reconciler.clone(), self.progress.clone(), Priority::Resync));
        }
        // What collects garbage waits behind everybody for the same rates, and so holds up nobody else.
        tasks.spawn(work(self.reconciler.clone(), self.progress.clone(), Priority::Garbage));
        // Passes on a thousand new locations spend their time waiting for AWS's rates: a fresh commit does not wait for them.
        for _ in 0..RESERVED {
            tasks.spawn(work(self.reconciler.clone(), self.progress.clone(), Priority::Commit));
        }
        // None of them ends by itself; one that panicked takes the daemon with it, so that it is started afresh.
        if let Some(Err(error)) = tasks.join_next().await {
            tracing::error!(%error, "a loop of the daemon ended");
        }
    }
}

/// Takes each new snapshot, and enqueues what it changes.
async fn follow_source<B: Builder, C: CodeServer, W: Webserver>(
    reconciler: Arc<Reconciler<B, C, W>>,
    mut source: watch::Receiver<SourceState>,
) {
    loop {
        let (snapshot, unread) = {
            let state = source.borrow_and_update();
            (state.snapshot.clone(), state.failure.as_ref().map(|failure| failure.message.clone()))
        };
        if let Some(why) = &unread {
            reconciler.context.recorder.record(NewEvent::of_daemon(EventReason::ConfigsUnreadable, why));
        }
        reconciler.set_unread(unread);
        if let Some(snapshot) = snapshot {
            take(&reconciler, snapshot);
        }
        if source.changed().await.is_err() {
            // The watcher is gone only when the process ends.
            std::future::pending::<()>().await;
        }
    }
}

/// Enqueues whoever follows a branch that moved.
async fn follow_heads<B: Builder, C: CodeServer, W: Webserver>(
    reconciler: Arc<Reconciler<B, C, W>>,
    mut moved: UnboundedReceiver<RefKey>,
) {
    while let Some(key) = moved.recv().await {
        for name in reconciler.followers(&key) {
            reconciler.context.queue.add_now(&name, reconciler.urgency(&name));
        }
    }
    // The resolver is gone only when the process ends.
    std::future::pending::<()>().await;
}

/// Asks again, as often as for branches, for the image tags that are followed, and enqueues whoever's moved.
async fn follow_tags<B: Builder, C: CodeServer, W: Webserver>(reconciler: Arc<Reconciler<B, C, W>>) {
    let interval = Duration::from_secs(reconciler.context.settings.git.poll_seconds.max(1));
    loop {
        tokio::time::sleep(interval).await;
        for name in reconciler.context.images.look_at_tags(reconciler.followed_tags()).await {
            reconciler.context.queue.add_now(&name, reconciler.urgency(&name));
        }
    }
}

fn take<B: Builder, C: CodeServer, W: Webserver>(reconciler: &Reconciler<B, C, W>, snapshot: Arc<Snapshot>) {
    let before = reconciler.snapshot();
    if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &snapshot)) {
        return;
    }
    let invalid_dirs_before = before.as_ref().map_or(&[][..], |before| &before.invalid_dirs);
    reconciler.record_invalid_dirs(invalid_dirs_before, &snapshot.invalid_dirs);
    let context = &reconciler.context;
    context.refs.track(
        snapshot
            .in_force()
            .filter(|location| location.image.is_none())
            .map(|location| RefKey { git_url: location.git_url.clone(), reference: location.reference.clone() }),
    );
    let empty = BTreeMap::new();
    let old = before.as_ref().map_or(&empty, |before| &before.locations);
    let names: BTreeSet<_> = old.keys().chain(snapshot.locations.keys()).collect();
    let changed: Vec<String> = names
        .into_iter()
        .filter(|name| old.get(*name) != snapshot.locations.get(*name))
        .map(ToString::to_string)
        .collect();
    let other = other_reasons(before.as_deref(), &snapshot);
    let told = format!("{} configs, of which {} are new, changed or gone", snapshot.locations.len(), changed.len());
    context.recorder.record(NewEvent::of_daemon(EventReason::ConfigsRead, told).from_commit(snapshot.commit.clone()));
    tracing::info!(
        commit = snapshot.commit.as_deref().unwrap_or("none"),
        locations = snapshot.locations.len(),
        changed = changed.len(),
        "configs read"
    );
    // The snapshot is in force before its keys are due.
    reconciler.set_snapshot(snapshot);
    let known = |name: &String| context.statuses.read(name, |_| ()).is_some();
    for name in changed.into_iter().chain(other.into_iter().filter(known)) {
        context.queue.add_now(&name, reconciler.urgency(&name));
    }
}

/// Locations whose own config is as it was, and for which another one says something new.
fn other_reasons(before: Option<&Snapshot>, now: &Snapshot) -> Vec<String> {
    let nothing = Snapshot::default();
    let before = before.unwrap_or(&nothing);
    let claimed = before.claimed.keys().chain(now.claimed.keys());
    let claimed = claimed.filter(|name| before.claimed.get(*name) != now.claimed.get(*name));
    let contested = before.contested.keys().chain(now.contested.keys());
    let contested = contested.filter(|name| before.contested.get(*name) != now.contested.get(*name));
    claimed.chain(contested).map(ToString::to_string).collect()
}

/// Enqueues everything there is, at the start and then on an interval. Nothing is swept before the configs were read: what
/// cannot be read is never taken for absent.
async fn sweeps<B: Builder, C: CodeServer, W: Webserver>(
    reconciler: Arc<Reconciler<B, C, W>>,
    progress: Arc<Progress>,
    mut source: watch::Receiver<SourceState>,
) {
    if source.wait_for(|state| state.snapshot.is_some()).await.is_err() {
        std::future::pending::<()>().await;
    }
    while reconciler.snapshot().is_none() {
        tokio::task::yield_now().await;
    }
    let interval = Duration::from_secs(reconciler.context.settings.reconcile.resync_seconds);
    let mut lease_state = reconciler.context.lease.watch();
    if lease_state.wait_for(|lease_state| *lease_state != LeaseState::Unknown).await.is_err() {
        std::future::pending::<()>().await;
    }
    let mut held = false;
    let mut resync_at = Instant::now();
    loop {
        let now = lease_state.borrow_and_update().clone();
        let was_held = std::mem::replace(&mut held, now == LeaseState::Held);
        if let Some(new_event) = of_lease(&now, was_held) {
            reconciler.context.recorder.record(new_event);
        }
        if held
            && !was_held
            && let Err(error) = reconciler.take_over().await
        {
            tracing::warn!(%error, "the workspace file was not read again");
        }
        let resyncs = Instant::now() >= resync_at || held != was_held;
        let awaiting = reconciler.awaiting_sweep.take();
        let mut pause = SWEEP_AGAIN;
        let begun = Instant::now();
        let swept = reconciler.sweep(awaiting.keys()).await;
        let recorder = &reconciler.context.recorder;
        let outcome = if swept.is_ok() { "done" } else { "failed" };
        recorder.metrics.sweeps.with_label_values(&[outcome]).observe(begun.elapsed().as_secs_f64());
        match swept {
            Ok(names) => {
                progress.sweep_ended();
                pause = pause_after(names.len(), SWEEP_FOR_EACH);
                for (name, priority) in &awaiting {
                    reconciler.context.queue.add_now(name, *priority);
                }
                if resyncs {
                    for name in names {
                        progress.outcomes().entry(name.clone()).or_insert(Outcome::Waiting(Duration::ZERO));
                        reconciler.context.queue.add_now(&name, Priority::Resync);
                    }
                    resync_at = Instant::now() + interval;
                }
                progress.changed.notify_waiters();
            }
            Err(error) => {
                progress.sweep_failed(begun, error.to_string());
                recorder.record(NewEvent::of_daemon(EventReason::SweepFailed, error.to_string()));
                tracing::warn!(%error, "the sweep failed; nothing is done on half of an observation");
                reconciler.awaiting_sweep.put_back(awaiting);
                resync_at = Instant::now() + SWEEP_AGAIN.min(interval);
            }
        }
        let soonest = Instant::now() + pause;
        tokio::select! {
            () = tokio::time::sleep_until(resync_at) => {}
            () = async { reconciler.awaiting_sweep.any().await; tokio::time::sleep_until(soonest).await } => {}
            // Who takes over looks at everything afresh; who lost the lease says so.
            _ = lease_state.changed() => {}
        }
    }
}

/// Looks at those whose service is on its way and that are known otherwise.
async fn refresh_loop<B: Builder, C: CodeServer, W: Webserver>(reconciler: Arc<Reconciler<B, C, W>>) {
    loop {
        reconciler.rolling_out.any().await;
        let rolling_out = reconciler.rolling_out.take();
        let mut pause = SWEEP_AGAIN;
        match reconciler.refresh_services(rolling_out.keys()).await {
            Ok(()) => {
                pause = pause_after(rolling_out.len(), REFRESH_FOR_EACH);
                for (name, priority) in &rolling_out {
                    reconciler.context.queue.add_now(name, *priority);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the services that are on their way were not read");
                reconciler.rolling_out.put_back(rolling_out);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// What a new standing is told as.
fn of_lease(lease_state: &LeaseState, was_held: bool) -> Option<NewEvent> {
    let lost = |why: String| Some(NewEvent::of_daemon(EventReason::LeaseLost, why));
    match lease_state {
        LeaseState::Held if was_held => None,
        LeaseState::Held => Some(NewEvent::of_daemon(EventReason::LeaseAcquired, "this process may change things")),
        LeaseState::Standby { holder } => lost(format!("{holder} holds the lease")),
        LeaseState::Unreadable(why) => lost(format!("the lease cannot be read: {why}")),
        LeaseState::Unknown => None,
    }
}

/// How long the next look waits after one at so many.
fn pause_after(number: usize, for_each: Duration) -> Duration {
    (for_each * u32::try_from(number).unwrap_or(u32::MAX)).clamp(FIRST_LOOK, LAST_LOOK)
}

/// Works on what is at least as urgent as `least`.
async fn work<B: Builder, C: CodeServer, W: Webserver>(
    reconciler: Arc<Reconciler<B, C, W>>,
    progress: Arc<Progress>,
    least: Priority,
) {
    let queue = &reconciler.context.queue;
    loop {
        let Due { name, priority, waited } = queue.next(least).await;
        if reconciler.snapshot().is_some() {
            let metrics = &reconciler.context.recorder.metrics;
            metrics.queue_wait.with_label_values(&[priority.name()]).observe(waited.as_secs_f64());
            let begun = Instant::now();
            let outcome = reconciler.pass(&name, priority).await;
            metrics.reconciles.with_label_values(&[outcome.name()]).observe(begun.elapsed().as_secs_f64());
            if let Outcome::Waiting(after) | Outcome::Failed(after) = outcome {
                queue.add(&name, priority.again(), Instant::now() + after);
            }
            progress.set(&name, outcome);
        }
        queue.done(&name);
    }
}
