//! The only writer of `workspace.yaml`. Many passes publish through it; each write is whole, and the webserver is asked to
//! reload once for as many of them as came together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::dagster::workspace::{Entries, Entry, Publisher, WorkspaceError};
use crate::dagster::{WebError, WebLocation, Webserver};
use crate::kinds::workspace::{Change, Live};
use crate::status::Journal;

/// How long one answer of the webserver serves all passes.
const FRESH: Duration = Duration::from_secs(1);

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
    /// Shared: every pass looks at one of them.
    Locations(Arc<BTreeMap<String, WebLocation>>),
}

pub struct Workspace<W> {
    publisher: Publisher,
    webserver: Option<W>,
    entries: Mutex<Entries>,
    view: Mutex<Option<(Instant, View)>>,
    /// Number of the last write that changed membership or a host, and of the last that the webserver has read.
    written: AtomicU64,
    reloaded: Mutex<u64>,
    /// Entries of the file, for whoever may not wait.
    count: AtomicUsize,
    journal: Arc<Journal>,
}

impl<W: Webserver> Workspace<W> {
    /// Starts from the file as it is, so that what was published stays published. Writes nothing.
    pub fn open(publisher: Publisher, webserver: Option<W>, journal: Arc<Journal>) -> Result<Self, WorkspaceError> {
        let entries = publisher.read()?;
        Ok(Self {
            publisher,
            webserver,
            count: AtomicUsize::new(entries.len()),
            entries: Mutex::new(entries),
            view: Mutex::new(None),
            written: AtomicU64::new(0),
            reloaded: Mutex::new(0),
            journal,
        })
    }

    /// Reads the file again: another process may have written it since.
    pub async fn reread(&self) -> Result<(), PublishError> {
        let mut entries = self.entries.lock().await;
        *entries = self.publisher.read()?;
        self.count.store(entries.len(), Ordering::SeqCst);
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What somebody else wrote into the file is what Dagster reads: it is live state like any other. A file that cannot be
    /// read, or is none of ours, is written anew.
    pub async fn look(&self) -> Result<(), WorkspaceError> {
        let mut entries = self.entries.lock().await;
        // Nearly always; and to compare letters takes a fraction of what it takes to read them as YAML.
        if self.publisher.says(&entries) {
            return Ok(());
        }
        match self.publisher.read() {
            Ok(found) if found == *entries => {}
            Ok(found) => {
                tracing::warn!("workspace.yaml was changed by somebody else");
                *entries = found;
                self.count.store(entries.len(), Ordering::SeqCst);
                self.written.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::warn!(%error, "workspace.yaml is written anew");
                self.publisher.publish(&entries)?;
            }
        }
        Ok(())
    }

    /// Makes the file where there is none: Dagster does not start without one.
    pub async fn create(&self) -> Result<(), WorkspaceError> {
        self.publisher.publish(&*self.entries.lock().await).map(drop)
    }

    /// Locations in the file.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub async fn names(&self) -> Vec<String> {
        self.entries.lock().await.keys().cloned().collect()
    }

    pub async fn entry(&self, name: &str) -> Option<Entry> {
        self.entries.lock().await.get(name).cloned()
    }

    pub async fn live(&self, name: &str) -> (Live, View) {
        let entry = self.entry(name).await;
        let view = self.view().await;
        let web = match &view {
            View::Locations(locations) => locations.get(name).cloned(),
            View::NotConfigured | View::Unreachable(_) => None,
        };
        (Live { entry, web }, view)
    }

    async fn view(&self) -> View {
        let Some(webserver) = &self.webserver else { return View::NotConfigured };
        let mut cached = self.view.lock().await;
        if let Some((at, view)) = cached.as_ref()
            && at.elapsed() < FRESH
        {
            return view.clone();
        }
        let view = match webserver.locations().await {
            Ok(locations) => View::Locations(Arc::new(locations)),
            Err(error) => View::Unreachable(error.to_string()),
        };
        *cached = Some((Instant::now(), view.clone()));
        view
    }

    /// Whether Dagster says that no run of this location is queued or runs. Where nobody can be asked, one may be.
    pub async fn has_no_runs(&self, name: &str) -> bool {
        let Some(webserver) = &self.webserver else { return false };
        match webserver.has_unfinished_runs(name).await {
            Ok(some) => !some,
            Err(error) => {
                tracing::debug!(repository = name, %error, "nobody knows whether runs are under way");
                false
            }
        }
    }

    pub async fn apply(&self, change: &Change) -> Result<(), PublishError> {
        match change {
            Change::Publish { name, host, port, .. } => {
                let entry = Entry { host: host.clone(), port: *port };
                self.edit(|entries| {
                    entries.insert(name.clone(), entry);
                })
                .await?;
                self.reload().await
            }
            Change::Remove { name } | Change::Withdraw { name, .. } => {
                self.edit(|entries| {
                    entries.remove(name);
                })
                .await?;
                // A webserver that is away must not keep a location from being removed; it reads the file when it is back.
                if let Err(error) = self.reload().await {
                    tracing::warn!(repository = %name, %error, "the webserver did not reload the workspace");
                }
                Ok(())
            }
            Change::ReloadWorkspace { .. } => {
                self.written.fetch_add(1, Ordering::SeqCst);
                self.reload().await
            }
            Change::Reload { name, expected, .. } => {
                let Some(webserver) = &self.webserver else { return Ok(()) };
                let answer = webserver.reload_location(name).await;
                self.count_reload(answer.is_ok());
                let shown = answer?;
                self.forget_view().await;
                // It connects to the host that it knows. If that has somebody else by now, it missed the reload that told the new one.
                if matches!(shown, WebLocation::Loaded { server_id } if server_id.as_ref() != Some(expected)) {
                    self.written.fetch_add(1, Ordering::SeqCst);
                    self.reload().await?;
                }
                Ok(())
            }
        }
    }

    async fn edit(&self, edit: impl FnOnce(&mut Entries)) -> Result<(), WorkspaceError> {
        let mut entries = self.entries.lock().await;
        let mut edited = entries.clone();
        edit(&mut edited);
        if self.publisher.publish(&edited)? {
            self.journal.metrics.workspace_writes.with_label_values::<&str>(&[]).inc();
            self.written.fetch_add(1, Ordering::SeqCst);
        }
        *entries = edited;
        self.count.store(entries.len(), Ordering::SeqCst);
        Ok(())
    }

    /// Asks for one reload on behalf of every write so far.
    async fn reload(&self) -> Result<(), PublishError> {
        let Some(webserver) = &self.webserver else { return Ok(()) };
        let wanted = self.written.load(Ordering::SeqCst);
        let mut reloaded = self.reloaded.lock().await;
        if *reloaded < wanted {
            let serving = self.written.load(Ordering::SeqCst);
            let result = webserver.reload_workspace().await;
            self.count_reload(result.is_ok());
            self.forget_view().await;
            result?;
            *reloaded = serving;
        }
        Ok(())
    }

    fn count_reload(&self, done: bool) {
        self.journal.metrics.reloads.with_label_values(&[if done { "done" } else { "failed" }]).inc();
    }

    async fn forget_view(&self) {
        *self.view.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Clock;

    /// Knows `orders` at the host of the last reload of the workspace, and finds there whoever has that address now.
    struct Stale {
        reloaded: Arc<AtomicU64>,
    }

    impl Webserver for Stale {
        async fn locations(&self) -> Result<BTreeMap<String, WebLocation>, WebError> {
            Ok(BTreeMap::from([("orders".to_owned(), self.reload_location("orders").await?)]))
        }

        async fn reload_workspace(&self) -> Result<(), WebError> {
            self.reloaded.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        async fn reload_location(&self, _name: &str) -> Result<WebLocation, WebError> {
            let right = self.reloaded.load(Ordering::SeqCst) > 0;
            Ok(WebLocation::Loaded { server_id: Some(if right { "orders-1" } else { "billing-1" }.to_owned()) })
        }

        async fn has_unfinished_runs(&self, _location: &str) -> Result<bool, WebError> {
            Ok(false)
        }
    }

    #[tokio::test]
    async fn a_webserver_that_missed_a_new_host_is_made_to_read_the_file_again() {
        let folder = tempfile::tempdir().unwrap();
        let reloaded = Arc::new(AtomicU64::new(0));
        let webserver = Stale { reloaded: reloaded.clone() };
        let publisher = Publisher::new(folder.path().join("workspace.yaml"));
        let journal = Arc::new(Journal::new(Clock::of_this_machine()));
        let workspace = Workspace::open(publisher, Some(webserver), journal).unwrap();
        let (expected, found) = ("orders-1".to_owned(), "billing-1".to_owned());
        let change = Change::Reload { name: "orders".to_owned(), expected, found };
        workspace.apply(&change).await.unwrap();
        let shown = workspace.live("orders").await.0.web;
        assert_eq!(shown, Some(WebLocation::Loaded { server_id: Some("orders-1".to_owned()) }));
        // One that connects to the right host is not asked to load everything anew.
        workspace.apply(&change).await.unwrap();
        assert_eq!(reloaded.load(Ordering::SeqCst), 1);
    }
}
