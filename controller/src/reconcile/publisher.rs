//! The only writer of `workspace.yaml`. Many passes publish through it. Each write is atomic, and one reload of the webserver serves all
//! writes before it.
//!
//! Guarantees: no pass waits for a reload longer than [`PATIENCE`], nor for a webserver that does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use codeloc_aws::fence::Epoch;
use codeloc_aws::pulse::{Pulse, Silence};
use codeloc_core::dagster::Entry;
use codeloc_core::dagster::WebLocation;
use codeloc_core::lock::lock;
use codeloc_core::resources::workspace::{Change, Observed};
use codeloc_crds::LocationName;
use codeloc_dagster::workspace_file::{Entries, Publisher};
use codeloc_dagster::{WebError, Webserver, WorkspaceError};
use tokio::sync::{Mutex, watch};
use tokio::time::{Duration, Instant};

use super::reload_pauses::ReloadPauses;
use crate::status::Recorder;
use crate::status::events::{EventReason, NewEvent};
use crate::status::metrics::ReloadOutcome;

/// How long an answer of the webserver is valid, and how long a failure is.
const FRESH: Duration = Duration::from_secs(1);
const STILL_UNREACHABLE: Duration = Duration::from_secs(5);
/// How long a pass waits for its reload. A longer reload continues in the background.
const PATIENCE: Duration = Duration::from_secs(1);
/// The interval of pings, and the timeout of one.
const PING: Duration = Duration::from_secs(5);
const LONGEST_PING: Duration = Duration::from_secs(10);
/// How long the webserver may be silent before passes stop waiting for it, and before codeloc reports a fault. Together with [`PING`], the
/// latter stays below 15 s.
const SILENT_FOR_PASSES: Duration = Duration::from_secs(2);
const SILENT: Duration = Duration::from_secs(8);
/// The pause after a failed reload; doubles up to the longest pause.
const RELOAD_AGAIN: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("workspace.yaml: {0}")]
    File(#[from] WorkspaceError),
    #[error(transparent)]
    Web(#[from] WebError),
}

/// What the webserver shows.
#[derive(Clone, Debug)]
pub enum View {
    NotConfigured,
    Unreachable(String),
    /// Shared, because every pass reads one of them.
    Locations(Arc<BTreeMap<String, WebLocation>>),
}

pub struct WorkspacePublisher<W> {
    publisher: Publisher,
    webserver: Option<W>,
    entries: Mutex<Entries>,
    /// The epoch in which the entries were read.
    epoch: std::sync::Mutex<Epoch>,
    view: std::sync::Mutex<Cached>,
    /// At most one request for the view runs at a time.
    asking: Mutex<()>,
    pulse: Pulse,
    /// The number of the last write that added, removed or moved a location.
    written: AtomicU64,
    /// The number of the last write with a requested reload.
    wanted: watch::Sender<u64>,
    reloads: watch::Sender<Reloads>,
    pub reload_pauses: ReloadPauses,
    /// The number of entries, readable without waiting.
    count: AtomicUsize,
    recorder: Arc<Recorder>,
}

/// The last answer of the webserver.
#[derive(Default)]
struct Cached {
    view: Option<(Instant, View)>,
    /// Increases when the answer is discarded, so that an answer to an earlier request is not stored.
    forgotten: u64,
}

/// How far the webserver has read the file.
#[derive(Clone, Debug, Default)]
struct Reloads {
    /// The number of the last write that it has read.
    done: u64,
    /// The number of the last write that it failed to read, and why.
    failed: Option<(u64, String)>,
}

impl<W: Webserver> WorkspacePublisher<W> {
    /// Starts from the existing file, so that published locations stay published. Writes nothing.
    pub fn open(publisher: Publisher, webserver: Option<W>, recorder: Arc<Recorder>) -> Result<Self, WorkspaceError> {
        let entries = publisher.read()?;
        Ok(Self {
            publisher,
            webserver,
            count: AtomicUsize::new(entries.len()),
            entries: Mutex::new(entries),
            epoch: std::sync::Mutex::default(),
            view: std::sync::Mutex::default(),
            asking: Mutex::default(),
            pulse: Pulse::default(),
            written: AtomicU64::new(0),
            wanted: watch::Sender::default(),
            reloads: watch::Sender::default(),
            reload_pauses: ReloadPauses::default(),
            recorder,
        })
    }

    /// Reads the file again in a new epoch, because another process may have written it. Call before anything that is based on the entries.
    /// After an error, nothing may be based on them, and the next call reads again.
    pub async fn enter(&self, epoch: Epoch) -> Result<(), WorkspaceError> {
        let mut entries = self.entries.lock().await;
        if *lock(&self.epoch) >= epoch {
            return Ok(());
        }
        match self.publisher.read() {
            Ok(found) => {
                *entries = found;
                self.count.store(entries.len(), Ordering::SeqCst);
                self.written.fetch_add(1, Ordering::SeqCst);
            }
            // `check_file` writes the entries that this process knows.
            Err(error @ WorkspaceError::Malformed { .. }) => {
                tracing::warn!(%error, "this process acquired the lease, and cannot use workspace.yaml");
            }
            Err(error) => return Err(error),
        }
        *lock(&self.epoch) = epoch;
        Ok(())
    }

    /// Takes over changes by others, because Dagster reads them too. Rewrites a file that codeloc cannot read.
    pub async fn check_file(&self) -> Result<(), WorkspaceError> {
        let mut entries = self.entries.lock().await;
        // The usual case. To compare bytes is far cheaper than to parse YAML.
        if self.publisher.matches(&entries) {
            return Ok(());
        }
        match self.publisher.read() {
            Ok(found) if found == *entries => {}
            Ok(found) => {
                tracing::warn!("another process changed workspace.yaml; codeloc repairs its entries");
                *entries = found;
                self.count.store(entries.len(), Ordering::SeqCst);
                self.written.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read workspace.yaml; codeloc writes it again");
                self.publisher.publish(&entries)?;
            }
        }
        Ok(())
    }

    /// Creates the file if it does not exist: Dagster does not start without one.
    pub async fn create(&self) -> Result<(), WorkspaceError> {
        self.publisher.publish(&*self.entries.lock().await).map(drop)
    }

    /// The number of locations in the file.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// The locations in the file. An entry whose name no location can have stays until the next write.
    pub async fn names(&self) -> Vec<LocationName> {
        self.entries.lock().await.keys().filter_map(|name| LocationName::new(name).ok()).collect()
    }

    pub async fn entry(&self, name: &LocationName) -> Option<Entry> {
        self.entries.lock().await.get(name.as_str()).cloned()
    }

    pub async fn observed(&self, name: &LocationName) -> (Observed, View) {
        let entry = self.entry(name).await;
        let view = self.view().await;
        let View::Locations(locations) = &view else { return (Observed { entry, web: None }, view) };
        if let Some(web) = locations.get(name.as_str()) {
            return (Observed { entry, web: Some(web.clone()) }, view);
        }
        let reloads = self.reloads.borrow().clone();
        if reloads.done >= *self.wanted.borrow() {
            return (Observed { entry, web: None }, view);
        }
        // A reload in progress may add it.
        match reloads.failed {
            None => (Observed { entry, web: Some(WebLocation::Loading) }, view),
            Some((_, why)) => (Observed { entry, web: None }, View::Unreachable(why)),
        }
    }

    /// Since when the webserver has not answered, if for longer than a moment.
    pub fn silence(&self) -> Option<Silence> {
        self.pulse.silence(SILENT)
    }

    fn fresh_view(&self) -> Option<View> {
        let cached = lock(&self.view);
        let (at, view) = cached.view.as_ref()?;
        let serves = if matches!(view, View::Unreachable(_)) { STILL_UNREACHABLE } else { FRESH };
        (at.elapsed() < serves).then(|| view.clone())
    }

    async fn view(&self) -> View {
        let Some(webserver) = &self.webserver else { return View::NotConfigured };
        if let Some(view) = self.fresh_view() {
            return view;
        }
        tokio::select! {
            biased;
            silence = self.pulse.until_silent(SILENT_FOR_PASSES) => {
                View::Unreachable(silence.why.unwrap_or_else(|| "the webserver does not answer".to_owned()))
            }
            view = self.ask(webserver) => view,
        }
    }

    async fn ask(&self, webserver: &W) -> View {
        let _alone = self.asking.lock().await;
        if let Some(view) = self.fresh_view() {
            return view;
        }
        loop {
            let forgotten = lock(&self.view).forgotten;
            let view = match webserver.locations().await {
                Ok(locations) => View::Locations(Arc::new(locations)),
                Err(error) => View::Unreachable(error.to_string()),
            };
            let mut cached = lock(&self.view);
            // Otherwise the answer may be older than a reload.
            if cached.forgotten == forgotten {
                cached.view = Some((Instant::now(), view.clone()));
                return view;
            }
        }
    }

    /// Pings the webserver, and reloads it after writes. Runs until the future is dropped.
    pub async fn keep(&self) {
        match &self.webserver {
            Some(webserver) => {
                tokio::join!(self.keep_pinging(webserver), self.keep_reloading(webserver));
            }
            None => std::future::pending().await,
        }
    }

    async fn keep_pinging(&self, webserver: &W) {
        loop {
            self.pulse.ask();
            match tokio::time::timeout(LONGEST_PING, webserver.ping()).await {
                Ok(Ok(())) => self.pulse.heard(),
                Ok(Err(error)) => self.pulse.failed(error.to_string()),
                Err(_) => {
                    self.pulse.failed(format!("the webserver did not answer within {} s", LONGEST_PING.as_secs()));
                }
            }
            tokio::time::sleep(PING).await;
        }
    }

    /// Runs one reload at a time; each serves all writes before its start.
    async fn keep_reloading(&self, webserver: &W) {
        let mut wanted = self.wanted.subscribe();
        let mut pause = RELOAD_AGAIN;
        loop {
            let done = self.reloads.borrow().done;
            // The sender is in this value, so the wait cannot fail.
            let _ = wanted.wait_for(|wanted| *wanted > done).await;
            let written = self.written.load(Ordering::SeqCst);
            let result = webserver.reload_workspace().await;
            self.count_reload(result.is_ok());
            self.forget_view();
            match result {
                Ok(()) => {
                    self.reloads.send_replace(Reloads { done: written, failed: None });
                    pause = RELOAD_AGAIN;
                }
                Err(error) => {
                    tracing::warn!(%error, "the webserver did not reload workspace.yaml; codeloc retries");
                    let why = format!("codeloc wrote workspace.yaml, but the webserver did not load it: {error}");
                    let new_event = NewEvent::of_daemon(EventReason::ReloadFailed, why.clone()).about(error.topic());
                    self.recorder.record(new_event);
                    self.reloads.send_modify(|reloads| reloads.failed = Some((written, why)));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // Wait until the webserver answers again.
                    if self.pulse.silence(SILENT_FOR_PASSES).is_some() {
                        self.pulse.until_heard().await;
                        pause = RELOAD_AGAIN;
                    }
                }
            }
        }
    }

    /// Whether Dagster reports a queued or a running run of this location; nothing without a webserver to ask.
    pub async fn has_unfinished_runs(&self, name: &LocationName) -> Option<Result<bool, WebError>> {
        Some(self.webserver.as_ref()?.has_unfinished_runs(name).await)
    }

    /// Errors: the file cannot be written, or the reload of one location failed. A webserver that does not reload the workspace does not
    /// prevent a publication or a removal; codeloc retries the reload.
    pub async fn apply(&self, change: &Change) -> Result<(), PublishError> {
        match change {
            Change::Publish { name, host, port, .. } => {
                self.reload_pauses.forget(name);
                let entry = Entry { host: host.clone(), port: *port };
                self.edit(|entries| {
                    entries.insert(name.to_string(), entry);
                })
                .await?;
                self.reload().await;
            }
            Change::Remove { name } | Change::Withdraw { name, .. } => {
                self.reload_pauses.forget(name);
                self.edit(|entries| {
                    entries.remove(name.as_str());
                })
                .await?;
                self.reload().await;
            }
            Change::ReloadWorkspace { .. } => {
                self.written.fetch_add(1, Ordering::SeqCst);
                self.reload().await;
            }
            Change::Reload { name, expected, .. } => {
                let Some(webserver) = &self.webserver else { return Ok(()) };
                let answer = webserver.reload_location(name).await;
                self.count_reload(answer.is_ok());
                let shown = answer?;
                self.forget_view();
                match &shown {
                    WebLocation::Error { .. } => self.reload_pauses.failed(name, expected),
                    WebLocation::Loaded { .. } => self.reload_pauses.forget(name),
                    WebLocation::Loading => {}
                }
                // The webserver uses the host that it knows. If another server answers there, it has missed the reload with the new host.
                if matches!(shown, WebLocation::Loaded { server_id } if server_id.as_deref() != Some(expected.as_str()))
                {
                    self.written.fetch_add(1, Ordering::SeqCst);
                    self.reload().await;
                }
            }
        }
        Ok(())
    }

    /// Also removes the entries whose name no location can have, because no plan removes them.
    async fn edit(&self, edit: impl FnOnce(&mut Entries)) -> Result<(), WorkspaceError> {
        let mut entries = self.entries.lock().await;
        let mut edited = entries.clone();
        edit(&mut edited);
        edited.retain(|name, _| LocationName::new(name).is_ok());
        if self.publisher.publish(&edited)? {
            self.recorder.metrics.count_workspace_write();
            self.written.fetch_add(1, Ordering::SeqCst);
        }
        *entries = edited;
        self.count.store(entries.len(), Ordering::SeqCst);
        Ok(())
    }

    /// Requests a reload for every write so far, and waits up to [`PATIENCE`]: most reloads are faster.
    async fn reload(&self) {
        if self.webserver.is_none() {
            return;
        }
        let written = self.written.load(Ordering::SeqCst);
        self.wanted.send_if_modified(|wanted| {
            let more = *wanted < written;
            *wanted = written.max(*wanted);
            more
        });
        let mut reloads = self.reloads.subscribe();
        let tried = |reloads: &Reloads| {
            let failed = reloads.failed.as_ref().is_some_and(|(failed, _)| *failed >= written);
            reloads.done >= written || failed
        };
        // The next pass sees the result.
        let _ = tokio::time::timeout(PATIENCE, reloads.wait_for(tried)).await;
    }

    fn count_reload(&self, done: bool) {
        self.recorder.metrics.count_reload(if done { ReloadOutcome::Done } else { ReloadOutcome::Failed });
    }

    fn forget_view(&self) {
        let mut cached = lock(&self.view);
        cached.view = None;
        cached.forgotten += 1;
    }
}

#[cfg(test)]
mod tests;
