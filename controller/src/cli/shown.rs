//! What the API shows of this process, and what it may ask of it.

use std::sync::Arc;

use codeloc_aws::lease::Standing;
use codeloc_aws::resources as aws;
use codeloc_core::names;
use codeloc_core::planner::render::Document;
use codeloc_core::priority::Priority;
use codeloc_core::status::RepositoryStatus;
use codeloc_git::commit::Author;
use tokio::time::Instant;

use super::assemble;
use crate::api::hooks::canonical;
use crate::api::{Call, Control, DaemonStatus, Line, Logs, PlanError, Readiness};
use crate::config_source::write::{Change, WriteError, Writer, Written};
use crate::config_source::{SourceHandle, SourceState};
use crate::cost::{Cost, Prices};
use crate::reconcile::Progress;
use crate::reconcile::trouble::Trouble;
use crate::status::Journal;
use crate::status::metrics::Scrape;

pub struct Shown {
    pub reconciler: Arc<assemble::Real>,
    pub progress: Arc<Progress>,
    pub source: SourceHandle,
    pub writer: Writer,
    pub prices: Prices,
}

impl Shown {
    /// Seconds since the epoch of a moment that has passed.
    fn date(&self, moment: Instant) -> f64 {
        let now = self.reconciler.world.clock.now().as_duration().as_secs_f64();
        now - moment.elapsed().as_secs_f64()
    }

    /// Adds the moment before which every push is in the status.
    fn dated(&self, mut status: RepositoryStatus, source: &SourceState) -> RepositoryStatus {
        let moment = self.reconciler.as_of(&status, source);
        status.as_of = moment.map(|moment| self.reconciler.world.clock.at(moment));
        status
    }

    fn troubles(&self) -> Vec<Trouble> {
        self.reconciler.troubles(&self.progress, &self.source.state.borrow())
    }

    fn mode(&self) -> String {
        format!("{:?}", self.reconciler.world.settings.mode).to_lowercase()
    }
}

/// One line for each; nothing where there is none.
fn lines(troubles: &[Trouble]) -> Option<String> {
    let lines: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn lease(standing: &Standing) -> &'static str {
    match standing {
        Standing::Held => "held",
        Standing::Standby { .. } => "standby",
        Standing::Unreadable(_) => "unreadable",
        Standing::Unknown => "unknown",
    }
}

impl Control for Shown {
    fn journal(&self) -> &Journal {
        &self.reconciler.world.journal
    }

    fn statuses(&self) -> Vec<RepositoryStatus> {
        let (source, troubles) = (self.source.state.borrow().clone(), self.troubles());
        let statuses = self.reconciler.world.board.all().into_iter();
        statuses.map(|status| self.dated(self.reconciler.shown(status, &troubles), &source)).collect()
    }

    fn status(&self, name: &str) -> Option<RepositoryStatus> {
        let (source, troubles) = (self.source.state.borrow().clone(), self.troubles());
        Some(self.dated(self.reconciler.shown(self.reconciler.world.board.get(name)?, &troubles), &source))
    }

    fn daemon(&self) -> DaemonStatus {
        let world = &self.reconciler.world;
        let source = self.source.state.borrow().clone();
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            deployment: world.settings.deployment.clone(),
            mode: self.mode(),
            lease: lease(&world.lease.standing()).to_owned(),
            now: Some(world.clock.now()),
            as_of: self.reconciler.whole_as_of(&source).map(|moment| world.clock.at(moment)),
            commit: source.snapshot.and_then(|snapshot| snapshot.commit.clone()),
            trouble: lines(&self.troubles()),
        }
    }

    fn readiness(&self) -> Readiness {
        let troubles = self.troubles();
        Readiness { ready: !troubles.iter().any(|trouble| trouble.cause.is_unready()), trouble: lines(&troubles) }
    }

    fn scrape(&self) -> Scrape {
        let world = &self.reconciler.world;
        let (queue_waiting, queue_running) = world.queue.depth();
        let statuses = self.statuses();
        let source = self.source.state.borrow().clone();
        let attempts = world.limits.attempts().into_iter();
        Scrape {
            mode: self.mode(),
            calls: attempts
                .flat_map(|(operation, counts)| {
                    let outcomes = ["passed", "failed", "throttled"].into_iter().zip(counts);
                    outcomes.map(move |(outcome, count)| (operation.clone(), outcome, count))
                })
                .collect(),
            rates: world
                .limits
                .standing()
                .into_iter()
                .map(|standing| (format!("{:?}", standing.family), standing.rate, standing.waiting))
                .collect(),
            queue_waiting,
            queue_running,
            workspace_entries: world.workspace.count(),
            lease: lease(&world.lease.standing()),
            source_up: source.failure.is_none() && source.snapshot.is_some(),
            source_commit: source.snapshot.and_then(|snapshot| snapshot.commit.clone()),
            source_read: source.read.map(|at| self.date(at)),
            swept: self.date(self.progress.last_sweep().unwrap_or_else(|| world.clock.started())),
            costs: self.costs().into_iter().map(|cost| (cost.repository, [cost.min, cost.now, cost.max])).collect(),
            statuses,
        }
    }

    fn costs(&self) -> Vec<Cost> {
        let world = &self.reconciler.world;
        let Some(snapshot) = self.reconciler.snapshot() else { return vec![] };
        let running = |name: &str| world.board.read(name, |status| status.running).unwrap_or(0);
        let repositories = snapshot.in_force();
        repositories.map(|one| self.prices.estimate(one, &world.place.region, running(one.name.as_str()))).collect()
    }

    fn poke(&self, name: Option<&str>) {
        let world = &self.reconciler.world;
        self.source.poke();
        let snapshot = self.reconciler.snapshot();
        let Some(name) = name else {
            world.heads.poke_all();
            for name in snapshot.iter().flat_map(|snapshot| snapshot.repositories.keys()) {
                world.queue.add_now(name.as_str(), Priority::Again);
            }
            return;
        };
        let repository =
            snapshot.as_ref().and_then(|snapshot| snapshot.in_force().find(|one| one.name.as_str() == name));
        if let Some(repository) = repository {
            world.heads.poke(&repository.git_url);
        }
        world.queue.add_now(name, self.reconciler.urgency(name));
    }

    fn pushed(&self, urls: &[String]) -> usize {
        let world = &self.reconciler.world;
        let told: Vec<String> = urls.iter().map(|url| canonical(url)).collect();
        let git = assemble::git(&world.settings);
        // A mirror's hook names the mirror.
        let concerns = |url: &str| [url, &git.rewrite(url)].iter().any(|url| told.contains(&canonical(url)));
        let mut poked = 0;
        if world.settings.source.git_url.as_deref().is_some_and(&concerns) {
            self.source.poke();
            poked += 1;
        }
        let snapshot = self.reconciler.snapshot();
        let repositories = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        for repository in repositories.filter(|repository| concerns(&repository.git_url)) {
            world.heads.poke(&repository.git_url);
            poked += 1;
        }
        poked
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
            let group = names::log_group(&session.place.deployment, name);
            let lines = aws::log_group::lines(session, &group, wanted.lines, wanted.after).await;
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
