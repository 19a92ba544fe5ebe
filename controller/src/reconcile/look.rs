//! How locations are looked at: all of them in a sweep, the services of some in a glance, one by itself where somebody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use codeloc_aws;
use codeloc_aws::resources as aws;
use codeloc_aws::{CallError, Scope, Session};
use codeloc_core::lock::lock;
use codeloc_core::names;
use codeloc_core::priority::Priority;
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_images::Builder;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pass::{Outcome, Reconciler};
use super::swept::Seen;

/// How old what a sweep saw may be for somebody who waits for a change.
const FRESH: Duration = Duration::from_secs(5);
/// What was read so short a time ago is not read again: an image that was built before is found in less.
const JUST_NOW: Duration = Duration::from_secs(1);

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    /// Reads the whole deployment, and names every location there is to look at: wanted, live, or published; and those of `also`, of
    /// which nothing may be left.
    pub async fn sweep(&self, also: impl Iterator<Item = &String>) -> Result<Vec<String>, CallError> {
        let _alone = self.looking.lock().await;
        let begun = self.swept.begin();
        if self.world.lease.fence().is_open()
            && let Err(error) = self.world.workspace.look().await
        {
            tracing::warn!(%error, "workspace.yaml was not looked at");
        }
        let mut live = codeloc_aws::observe(self.session(Priority::Resync), Scope::All).await?;
        let deployment = &self.world.place.deployment;
        let owned: BTreeSet<String> =
            live.iter().filter(|(name, live)| live.any_owned(name, deployment)).map(|(name, _)| name.clone()).collect();
        let mut names: Vec<String> = self.world.workspace.names().await;
        names.extend(owned.iter().cloned().chain(also.cloned()));
        *self.owned.write().unwrap_or_else(PoisonError::into_inner) = Some(owned);
        if let Some(snapshot) = self.snapshot() {
            names.extend(snapshot.repositories.keys().map(ToString::to_string));
        }
        names.sort();
        names.dedup();
        // A name of which nothing is live was observed too.
        for name in &names {
            live.entry(name.clone()).or_default();
        }
        self.swept.put(begun, live);
        Ok(names)
    }

    /// Reads the services of locations that were seen or made before, ten a call.
    pub async fn glance(&self, names: impl Iterator<Item = &String> + Clone) -> Result<(), CallError> {
        let _alone = self.looking.lock().await;
        let begun = self.swept.begin();
        let services: Vec<String> = names.clone().map(|name| names::service(name)).collect();
        let mut found = aws::service::describe(self.session(Priority::Making), &services).await?;
        let kept = lock(&self.kept);
        let glimpses = names.filter_map(|name| {
            let mut live = kept.get(name)?.0.clone();
            live.service = found.remove(name);
            Some((name.clone(), live))
        });
        self.swept.put_glimpses(begun, glimpses);
        Ok(())
    }

    /// Looks at a location as closely as the reason for it asks. Where nobody waits for a change, what the last sweep or glance saw
    /// does, and without that the next one is waited for (`None`): it reads ten or a hundred locations a call. Where somebody does,
    /// what was seen last does too, but for the service, which moves by itself and is read afresh.
    pub(super) async fn observe(&self, session: Session<'_>, name: &str) -> Result<Option<Seen>, CallError> {
        let waited_for = match session.priority {
            // What is collected has to be out of use at this moment.
            Priority::Commit | Priority::Again | Priority::Garbage => true,
            Priority::Making | Priority::Cold | Priority::Resync => false,
        };
        let base = match self.swept.take(name) {
            Some(seen) if !waited_for || (seen.whole && seen.at.elapsed() < FRESH) => return Ok(Some(seen)),
            Some(seen) => Some((seen.live, seen.at)),
            None => lock(&self.kept).get(name).cloned(),
        };
        let at = Instant::now();
        match base {
            // Before it has a service, nothing of a location moves by itself.
            Some((live, _)) if live.service.is_none() => Ok(Some(Seen { live, at, whole: false })),
            Some((live, at)) if at.elapsed() < JUST_NOW => Ok(Some(Seen { live, at, whole: false })),
            _ if !waited_for => Ok(None),
            Some((mut live, _)) => {
                live.service = aws::service::observe(session, Scope::One(name)).await?.remove(name);
                Ok(Some(Seen { live, at, whole: false }))
            }
            None => {
                let live = codeloc_aws::observe(session, Scope::One(name)).await?.remove(name).unwrap_or_default();
                Ok(Some(Seen { live, at, whole: true }))
            }
        }
    }
}

/// Locations that wait to be looked at together, and how urgent each is.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    names: Mutex<BTreeMap<String, Priority>>,
    wished: Notify,
}

impl Waiting {
    pub fn wish(&self, name: &str, priority: Priority) -> Outcome {
        lock(&self.names).insert(name.to_owned(), priority);
        self.wished.notify_one();
        Outcome::Unseen
    }

    pub fn take(&self) -> BTreeMap<String, Priority> {
        std::mem::take(&mut *lock(&self.names))
    }

    /// After a look that failed.
    pub fn put_back(&self, names: BTreeMap<String, Priority>) {
        lock(&self.names).extend(names);
    }

    /// Until somebody waits.
    pub async fn any(&self) {
        while lock(&self.names).is_empty() {
            self.wished.notified().await;
        }
    }
}
