//! What the API shows of this process, and what it may ask of it.

use std::sync::Arc;

use codeloc_aws::lease::LeaseState;
use codeloc_core::names;
use codeloc_core::planner::render::Document;
use codeloc_core::priority::Priority;
use codeloc_core::status::LocationStatus;
use codeloc_git::commit::Author;
use tokio::time::Instant;

use super::wiring;
use crate::api::hooks::canonical;
use crate::api::{Call, Control, DaemonStatus, Line, Logs, PlanError, Readiness};
use crate::config_source::write::{Change, WriteError, Writer, Written};
use crate::config_source::{SourceHandle, SourceState};
use crate::cost::{Cost, Prices};
use crate::reconcile::Progress;
use crate::reconcile::fault::Fault;
use crate::status::Recorder;
use crate::status::metrics::Scrape;

pub struct Handle {
    pub reconciler: Arc<wiring::Real>,
    pub progress: Arc<Progress>,
    pub source: SourceHandle,
    pub writer: Writer,
    pub prices: Prices,
}

impl Handle {
    /// Seconds since the epoch of a moment that has passed.
    fn date(&self, moment: Instant) -> f64 {
        let now = self.reconciler.context.clock.now().as_duration().as_secs_f64();
        now - moment.elapsed().as_secs_f64()
    }

    /// Adds the moment before which every push is in the status.
    fn dated(&self, mut status: LocationStatus, source: &SourceState) -> LocationStatus {
        let moment = self.reconciler.as_of(&status, source);
        status.as_of = moment.map(|moment| self.reconciler.context.clock.at(moment));
        status
    }

    fn faults(&self) -> Vec<Fault> {
        self.reconciler.faults(&self.progress, &self.source.state.borrow())
    }

    fn mode(&self) -> String {
        format!("{:?}", self.reconciler.context.settings.mode).to_lowercase()
    }
}

/// One line for each; nothing where there is none.
fn lines(faults: &[Fault]) -> Option<String> {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn lease(lease_state: &LeaseState) -> &'static str {
    match lease_state {
        LeaseState::Held => "held",
        LeaseState::Standby { .. } => "standby",
        LeaseState::Unreadable(_) => "unreadable",
        LeaseState::Unknown => "unknown",
    }
}

impl Control for Handle {
    fn recorder(&self) -> &Recorder {
        &self.reconciler.context.recorder
    }

    fn statuses(&self) -> Vec<LocationStatus> {
        let (source, faults) = (self.source.state.borrow().clone(), self.faults());
        let statuses = self.reconciler.context.statuses.all().into_iter();
        statuses.map(|status| self.dated(self.reconciler.with_faults(status, &faults), &source)).collect()
    }

    fn status(&self, name: &str) -> Option<LocationStatus> {
        let (source, faults) = (self.source.state.borrow().clone(), self.faults());
        Some(self.dated(self.reconciler.with_faults(self.reconciler.context.statuses.get(name)?, &faults), &source))
    }

    fn daemon(&self) -> DaemonStatus {
        let context = &self.reconciler.context;
        let source = self.source.state.borrow().clone();
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            deployment: context.settings.deployment.clone(),
            mode: self.mode(),
            lease: lease(&context.lease.state()).to_owned(),
            now: Some(context.clock.now()),
            as_of: self.reconciler.whole_as_of(&source).map(|moment| context.clock.at(moment)),
            commit: source.snapshot.and_then(|snapshot| snapshot.commit.clone()),
            fault: lines(&self.faults()),
        }
    }

    fn readiness(&self) -> Readiness {
        let faults = self.faults();
        Readiness { ready: !faults.iter().any(|fault| fault.cause.is_unready()), fault: lines(&faults) }
    }

    fn scrape(&self) -> Scrape {
        let context = &self.reconciler.context;
        let (queue_waiting, queue_running) = context.queue.depth();
        let statuses = self.statuses();
        let source = self.source.state.borrow().clone();
        let attempts = context.limits.attempts().into_iter();
        Scrape {
            mode: self.mode(),
            calls: attempts
                .flat_map(|(operation, counts)| {
                    let outcomes = ["passed", "failed", "throttled"].into_iter().zip(counts);
                    outcomes.map(move |(outcome, count)| (operation.clone(), outcome, count))
                })
                .collect(),
            rates: context
                .limits
                .rate_state()
                .into_iter()
                .map(|rate| (rate.family.name().to_owned(), rate.rate, rate.waiting))
                .collect(),
            queue_waiting,
            queue_running,
            workspace_entries: context.workspace.count(),
            lease: lease(&context.lease.state()),
            source_up: source.failure.is_none() && source.snapshot.is_some(),
            source_commit: source.snapshot.and_then(|snapshot| snapshot.commit.clone()),
            source_read: source.read.map(|at| self.date(at)),
            swept: self.date(self.progress.last_sweep().unwrap_or_else(|| context.clock.started())),
            costs: self.costs().into_iter().map(|cost| (cost.location, [cost.min, cost.now, cost.max])).collect(),
            statuses,
        }
    }

    fn costs(&self) -> Vec<Cost> {
        let context = &self.reconciler.context;
        let Some(snapshot) = self.reconciler.snapshot() else { return vec![] };
        let running = |name: &str| context.statuses.read(name, |status| status.running).unwrap_or(0);
        let locations = snapshot.in_force();
        locations.map(|one| self.prices.estimate(one, &context.deployment.region, running(one.name.as_str()))).collect()
    }

    fn trigger(&self, name: Option<&str>) {
        let context = &self.reconciler.context;
        self.source.trigger();
        let snapshot = self.reconciler.snapshot();
        let Some(name) = name else {
            context.refs.trigger_all();
            for name in snapshot.iter().flat_map(|snapshot| snapshot.locations.keys()) {
                context.queue.add_now(name.as_str(), Priority::Again);
            }
            return;
        };
        let location = snapshot.as_ref().and_then(|snapshot| snapshot.in_force().find(|one| one.name.as_str() == name));
        if let Some(location) = location {
            context.refs.trigger(&location.git_url);
        }
        context.queue.add_now(name, self.reconciler.urgency(name));
    }

    fn pushed(&self, urls: &[String]) -> usize {
        let context = &self.reconciler.context;
        let told: Vec<String> = urls.iter().map(|url| canonical(url)).collect();
        let git = wiring::git(&context.settings);
        // A mirror's hook names the mirror.
        let concerns = |url: &str| [url, &git.rewrite(url)].iter().any(|url| told.contains(&canonical(url)));
        let mut triggered = 0;
        if context.settings.source.git_url.as_deref().is_some_and(&concerns) {
            self.source.trigger();
            triggered += 1;
        }
        let snapshot = self.reconciler.snapshot();
        let locations = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        for location in locations.filter(|location| concerns(&location.git_url)) {
            context.refs.trigger(&location.git_url);
            triggered += 1;
        }
        triggered
    }

    fn plan<'a>(&'a self, name: &'a str) -> Call<'a, Result<serde_json::Value, PlanError>> {
        Box::pin(async move {
            let plan = self.reconciler.preview(name).await.map_err(|error| PlanError(error.to_string()))?;
            Ok(serde_json::to_value(Document::new(name, &plan)).expect("plain data"))
        })
    }

    fn logs<'a>(&'a self, name: &'a str, wanted: Logs) -> Call<'a, Result<Vec<Line>, PlanError>> {
        Box::pin(async move {
            let session = self.reconciler.session(Priority::Again);
            let group = names::log_group(&session.deployment.id, name);
            let lines = codeloc_aws::logs::lines(session, &group, wanted.lines, wanted.after).await;
            let lines = lines.map_err(|error| PlanError(error.to_string()))?;
            Ok(lines.into_iter().map(|line| Line { at: line.at, stream: line.stream, text: line.text }).collect())
        })
    }

    fn config<'a>(&'a self, name: &'a str) -> Call<'a, Result<Option<String>, WriteError>> {
        Box::pin(self.writer.read(name))
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        change: &'a Change,
        message: &'a str,
        author: &'a Author,
    ) -> Call<'a, Result<Written, WriteError>> {
        Box::pin(self.writer.write(name, change, message, author))
    }
}
