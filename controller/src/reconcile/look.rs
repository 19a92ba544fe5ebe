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

use super::observations::Observation;
use super::pass::{Outcome, Reconciler};

/// How old what a sweep saw may be for somebody who waits for a change.
const FRESH: Duration = Duration::from_secs(5);
/// What was read so short a time ago is not read again: an image that was built before is found in less.
const JUST_NOW: Duration = Duration::from_secs(1);

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    /// Reads the whole deployment, and names every location there is to look at: wanted, live, or published; and those of `also`, of
    /// which nothing may be left.
    pub async fn sweep(&self, also: impl Iterator<Item = &String>) -> Result<Vec<String>, CallError> {
        let _alone = self.looking.lock().await;
        let begun = self.observations.begin();
        if self.context.lease.fence().is_open()
            && let Err(error) = self.context.workspace.look().await
        {
            tracing::warn!(%error, "workspace.yaml was not looked at");
        }
        let mut observed = codeloc_aws::observe(self.session(Priority::Resync), Scope::All).await?;
        let deployment = &self.context.deployment.id;
        let owned: BTreeSet<String> = observed
            .iter()
            .filter(|(name, observed)| observed.any_owned(name, deployment))
            .map(|(name, _)| name.clone())
            .collect();
        let mut names: Vec<String> = self.context.workspace.names().await;
        names.extend(owned.iter().cloned().chain(also.cloned()));
        *self.owned.write().unwrap_or_else(PoisonError::into_inner) = Some(owned);
        if let Some(snapshot) = self.snapshot() {
            names.extend(snapshot.locations.keys().map(ToString::to_string));
        }
        names.sort();
        names.dedup();
        // A name of which nothing is live was observed too.
        for name in &names {
            observed.entry(name.clone()).or_default();
        }
        self.observations.put(begun, observed);
        Ok(names)
    }

    /// Reads the services of locations that were seen or made before, ten a call.
    pub async fn refresh_services(&self, names: impl Iterator<Item = &String> + Clone) -> Result<(), CallError> {
        let _alone = self.looking.lock().await;
        let begun = self.observations.begin();
        let services: Vec<String> = names.clone().map(|name| names::service(name)).collect();
        let mut found = aws::service::describe(self.session(Priority::Making), &services).await?;
        let last_observed = lock(&self.last_observed);
        let services_only = names.filter_map(|name| {
            let mut observed = last_observed.get(name)?.0.clone();
            observed.service = found.remove(name);
            Some((name.clone(), observed))
        });
        self.observations.put_services(begun, services_only);
        Ok(())
    }

    /// Looks at a location as closely as the reason for it asks. Where nobody waits for a change, what the last sweep or glance saw
    /// does, and without that the next one is waited for (`None`): it reads ten or a hundred locations a call. Where somebody does,
    /// what was seen last does too, but for the service, which moves by itself and is read afresh.
    pub(super) async fn observe(&self, session: Session<'_>, name: &str) -> Result<Option<Observation>, CallError> {
        let waited_for = match session.priority {
            // What is collected has to be out of use at this moment.
            Priority::Commit | Priority::Again | Priority::Garbage => true,
            Priority::Making | Priority::Cold | Priority::Resync => false,
        };
        let base = match self.observations.take(name) {
            Some(seen) if !waited_for || (seen.whole && seen.at.elapsed() < FRESH) => return Ok(Some(seen)),
            Some(seen) => Some((seen.observed, seen.at)),
            None => lock(&self.last_observed).get(name).cloned(),
        };
        let at = Instant::now();
        match base {
            // Before it has a service, nothing of a location moves by itself.
            Some((observed, _)) if observed.service.is_none() => Ok(Some(Observation { observed, at, whole: false })),
            Some((observed, at)) if at.elapsed() < JUST_NOW => Ok(Some(Observation { observed, at, whole: false })),
            _ if !waited_for => Ok(None),
            Some((mut observed, _)) => {
                observed.service = aws::service::observe(session, Scope::One(name)).await?.remove(name);
                Ok(Some(Observation { observed, at, whole: false }))
            }
            None => {
                let observed = codeloc_aws::observe(session, Scope::One(name)).await?.remove(name).unwrap_or_default();
                Ok(Some(Observation { observed, at, whole: true }))
            }
        }
    }
}

/// Locations that wait to be looked at together, and how urgent each is.
#[derive(Debug, Default)]
pub(super) struct BatchQueue {
    names: Mutex<BTreeMap<String, Priority>>,
    pushed: Notify,
}

impl BatchQueue {
    pub fn push(&self, name: &str, priority: Priority) -> Outcome {
        lock(&self.names).insert(name.to_owned(), priority);
        self.pushed.notify_one();
        Outcome::AwaitingSweep
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
            self.pushed.notified().await;
        }
    }
}
