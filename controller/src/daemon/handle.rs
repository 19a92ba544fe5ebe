//! What the API shows of this process, and what it may ask of it.

use std::sync::Arc;

use codeloc_aws::Session;
use codeloc_aws::logs::{self, LogLine};
use codeloc_core::names;
use codeloc_core::planner::render::Document;
use codeloc_core::priority::Priority;
use codeloc_core::status::LocationStatus;
use codeloc_crds::LocationName;
use codeloc_git::commit::Author;
use tokio::time::Instant;

use super::wiring::{self, Program};
use super::{Daemon, Fault};
use crate::api::{Call, Control, DaemonStatus, Line, LogPage, Logs, PlanError, Readiness, RepositoryUrl};
use crate::config_source::SourceHandle;
use crate::config_source::write::{Change, WriteError, Writer, Written};
use crate::cost::{Cost, Prices};
use crate::reconcile::Memory;
use crate::status::metrics::Scrape;
use crate::status::{Label, Recorder};

pub struct Handle {
    pub daemon: Arc<Daemon<Program>>,
    pub source: SourceHandle,
    pub writer: Writer,
    pub prices: Prices,
}

impl Handle {
    /// Seconds since the epoch of a moment that has passed.
    fn date(&self, moment: Instant) -> f64 {
        let now = self.daemon.clock.now().as_duration().as_secs_f64();
        now - moment.elapsed().as_secs_f64()
    }

    /// Adds the moment before which every push is in the status.
    fn dated(&self, mut status: LocationStatus) -> LocationStatus {
        let moment = self.daemon.as_of(&status);
        status.as_of = moment.map(|moment| self.daemon.clock.at(moment));
        status
    }

    /// For people who read logs: reconciling has a higher priority.
    fn readers_session<'a>(&'a self, memory: &'a Memory) -> Session<'a> {
        self.daemon.context.observer.aws.session(memory, Priority::Garbage)
    }

    fn faults(&self) -> Vec<Fault> {
        self.daemon.faults()
    }

    fn mode(&self) -> String {
        self.daemon.settings.mode.label().to_owned()
    }
}

/// One line for each; nothing where there is none.
fn lines(faults: &[Fault]) -> Option<String> {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn line(line: LogLine) -> Line {
    Line { id: line.id, at: line.at, stream: line.stream, text: line.text }
}

impl Control for Handle {
    fn recorder(&self) -> &Recorder {
        &self.daemon.context.status.recorder
    }

    fn statuses(&self) -> Vec<LocationStatus> {
        let faults = self.faults();
        let statuses = self.daemon.context.status.statuses.all().into_iter();
        statuses.map(|status| self.dated(self.daemon.with_faults(status, &faults))).collect()
    }

    fn status(&self, name: &str) -> Option<LocationStatus> {
        let status = self.daemon.context.status.statuses.get(name)?;
        Some(self.dated(self.daemon.with_faults(status, &self.faults())))
    }

    fn daemon(&self) -> DaemonStatus {
        let daemon = &self.daemon;
        let source = self.source.state.borrow().clone();
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            deployment: daemon.settings.deployment.clone(),
            mode: self.mode(),
            lease: daemon.context.observer.aws.lease.state().label().to_owned(),
            now: Some(daemon.clock.now()),
            as_of: daemon.whole_as_of().map(|moment| daemon.clock.at(moment)),
            commit: source.snapshot.and_then(|snapshot| snapshot.commit.clone()),
            fault: lines(&self.faults()),
        }
    }

    fn readiness(&self) -> Readiness {
        let faults = self.faults();
        Readiness { ready: !faults.iter().any(|fault| fault.cause.is_unready()), fault: lines(&faults) }
    }

    fn scrape(&self) -> Scrape {
        let (daemon, aws) = (&self.daemon, &self.daemon.context.observer.aws);
        let (queue_waiting, queue_running) = daemon.queue.depth();
        let statuses = self.statuses();
        let source = self.source.state.borrow().clone();
        let attempts = aws.limits.attempts().into_iter();
        Scrape {
            deployment: daemon.settings.deployment.clone(),
            started: self.date(daemon.clock.started()),
            mode: self.mode(),
            calls: attempts
                .flat_map(|(operation, counts)| {
                    let outcomes = ["passed", "failed", "throttled"].into_iter().zip(counts);
                    outcomes.map(move |(outcome, count)| (operation.clone(), outcome, count))
                })
                .collect(),
            rates: aws
                .limits
                .rate_state()
                .into_iter()
                .map(|rate| (rate.family.name().to_owned(), rate.rate, rate.waiting))
                .collect(),
            queue_waiting,
            queue_running,
            workspace_entries: daemon.publisher.count(),
            lease: aws.lease.state().label(),
            source_up: source.failure.is_none() && source.snapshot.is_some(),
            source_commit: source.snapshot.and_then(|snapshot| snapshot.commit.clone()),
            source_read: source.read.map(|at| self.date(at)),
            swept: daemon.progress.last_sweep().map_or(0.0, |at| self.date(at)),
            costs: self.costs().into_iter().map(|cost| (cost.location, [cost.min, cost.now, cost.max])).collect(),
            statuses,
        }
    }

    fn costs(&self) -> Vec<Cost> {
        let context = &self.daemon.context;
        let Some(snapshot) = context.desired.configs.snapshot() else { return vec![] };
        let running = |name: &LocationName| context.status.statuses.read(name, |status| status.running).unwrap_or(0);
        let locations = snapshot.in_force();
        locations
            .map(|one| self.prices.estimate(one, &context.observer.aws.deployment.region, running(&one.name)))
            .collect()
    }

    fn trigger(&self, name: Option<&LocationName>) {
        self.source.trigger();
        match name {
            Some(name) => self.daemon.sync(name),
            None => self.daemon.sync_all(),
        }
    }

    fn abandon_runs(&self, name: &LocationName) {
        self.daemon.abandon_runs(name);
    }

    fn retry(&self, name: &LocationName) {
        self.source.trigger();
        self.daemon.retry(name);
    }

    fn pushed(&self, urls: &[RepositoryUrl]) -> usize {
        let (desired, settings) = (&self.daemon.context.desired, &self.daemon.settings);
        let git = wiring::git(settings);
        // A mirror's hook names the mirror.
        let concerns = |url: &str| {
            let own = [url, &git.rewrite(url)].map(RepositoryUrl::parse);
            own.iter().any(|own| urls.iter().any(|url| url.is_same(own)))
        };
        let mut triggered = 0;
        if settings.source.git_url.as_deref().is_some_and(&concerns) {
            self.source.trigger();
            triggered += 1;
        }
        let snapshot = desired.configs.snapshot();
        let locations = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        for location in locations.filter(|location| concerns(&location.git_url)) {
            desired.refs.trigger(&location.git_url);
            triggered += 1;
        }
        triggered
    }

    fn plan<'a>(&'a self, name: &'a LocationName) -> Call<'a, Result<serde_json::Value, PlanError>> {
        Box::pin(async move {
            let plan = self.daemon.context.preview(name).await.map_err(|error| PlanError(error.to_string()))?;
            Ok(serde_json::to_value(Document::new(name, &plan)).expect("plain data"))
        })
    }

    fn logs<'a>(&'a self, name: &'a LocationName, wanted: Logs) -> Call<'a, Result<Vec<Line>, PlanError>> {
        Box::pin(async move {
            let memory = self.daemon.context.observer.aws.memory();
            let session = self.readers_session(&memory);
            let group = names::log_group(&session.deployment.id, name);
            let lines = logs::newest(session, &group, wanted.lines, wanted.after).await;
            Ok(lines.map_err(|error| PlanError(error.to_string()))?.into_iter().map(line).collect())
        })
    }

    fn log_page<'a>(
        &'a self,
        name: &'a LocationName,
        from: i64,
        page: Option<String>,
    ) -> Call<'a, Result<LogPage, PlanError>> {
        Box::pin(async move {
            let memory = self.daemon.context.observer.aws.memory();
            let session = self.readers_session(&memory);
            let group = names::log_group(&session.deployment.id, name);
            let page = logs::since(session, &group, from, page).await;
            let page = page.map_err(|error| PlanError(error.to_string()))?;
            Ok(LogPage { lines: page.lines.into_iter().map(line).collect(), next: page.next })
        })
    }

    fn config<'a>(&'a self, name: &'a LocationName) -> Call<'a, Result<Option<String>, WriteError>> {
        Box::pin(self.writer.read(name))
    }

    fn write<'a>(
        &'a self,
        name: &'a LocationName,
        change: &'a Change,
        message: &'a str,
        author: &'a Author,
    ) -> Call<'a, Result<Written, WriteError>> {
        Box::pin(self.writer.write(name, change, message, author))
    }
}
