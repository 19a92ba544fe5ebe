//! The history of a deployment in virtual time, drawn from one seed: commits, broken code, changes by hand, network faults,
//! crashes, a second controller. The run checks its invariants every second. At the end, the faults stop and the observed
//! state must equal the desired state.
//!
//! A seed always gives the same run: no real clock, no other source of randomness.

pub mod configs;
mod foreign;
mod history;
pub mod invariants;
mod manual_change;
mod wide;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codeloc_core::status::{Health, Reason, Sync};
use codeloc_core::tags;
use codeloc_dagster::workspace_file::Publisher;
use localcloud::driver::simulated::Script;
use localcloud::fault_injection::{Fault, Faults, Rule};
use localcloud::model::Cloud;
use localcloud::model::ecs::task::Task;

use crate::TestDeployment;

pub use history::{Event, Flaw, History, ManualChange, NAMES, SECRETS};
pub use manual_change::change;

use configs::{branch, config_variant, is_invalid, renamed};
use wide::Wide;

/// Time between two checks of the invariants.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit to settle after the last event.
const SETTLE_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// Parts of the status messages that announce a retry.
const RETRY_MESSAGES: [&str; 2] = ["is tried again", "codeloc retries"]; // style: ok: a message of codeloc
/// The time in which codeloc writes all entries of `workspace.yaml` again.
const EMPTIED: Duration = Duration::from_secs(60);
const FIRST: &str = "first";
const SECOND: &str = "second";

/// The totals of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    pub calls: usize,
    pub mutating: usize,
    pub virtual_seconds: u64,
}

/// Runs one seed on a new runtime.
///
/// # Errors
/// The invariant that failed.
pub fn run_seed(seed: u64) -> Result<Numbers, String> {
    run_history(&History::draw(seed))
}

/// [`run_seed`] with a wide history.
///
/// # Errors
/// The invariant that failed.
pub fn run_wide_seed(seed: u64) -> Result<Numbers, String> {
    run_history(&History::draw_wide(seed))
}

/// # Errors
/// The invariant that failed.
///
/// # Panics
/// If tokio cannot create a runtime.
pub fn run_history(history: &History) -> Result<Numbers, String> {
    // The SDK draws its retry delays from this thread's generator.
    fastrand::seed(history.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(Run::execute(history))
}

/// Removes events while the run still fails. Returns the shortest history and its failure.
#[must_use]
pub fn shrink(history: &History) -> (History, String) {
    let mut shortest = history.clone();
    let mut failure = run_history(history).err().unwrap_or_default();
    let mut index = shortest.events.len();
    while index > 0 {
        index -= 1;
        let mut shorter = shortest.clone();
        let (wait, _) = shorter.events.remove(index);
        if let Some(next) = shorter.events.get_mut(index) {
            next.0 += wait;
        }
        if let Err(still) = run_history(&shorter) {
            shortest = shorter;
            failure = still;
        }
    }
    (shortest, failure)
}

struct Run {
    deployment: TestDeployment,
    history: History,
    /// The newest commit on the branch of each location.
    commits: BTreeMap<&'static str, u32>,
    /// Commits with broken code.
    flaws: BTreeMap<(&'static str, u32), Flaw>,
    /// Locations that had a config at any time.
    known: BTreeSet<&'static str>,
    /// The entries of `workspace.yaml` at the last check, and its text.
    published: BTreeSet<String>,
    text: Option<String>,
    /// Published locations with a healthy task at the last check.
    serving: BTreeSet<String>,
    /// Locations that a manual change stopped or unpublished: no longer checked.
    disturbed: BTreeSet<String>,
    /// When a person last emptied `workspace.yaml`.
    emptied: Option<tokio::time::Instant>,
    foreign_resources: String,
    wide: Wide,
}

impl Run {
    async fn execute(history: &History) -> Result<Numbers, String> {
        let deployment = TestDeployment::with(history.rules.clone()).await;
        foreign::create_foreign_resources(&deployment).await;
        let foreign_resources = deployment.cloud.with_cloud(|cloud| foreign::foreign_resources(cloud));
        deployment.cloud.reset_calls();
        let mut run = Self {
            deployment,
            history: history.clone(),
            commits: BTreeMap::new(),
            flaws: BTreeMap::new(),
            known: BTreeSet::new(),
            published: BTreeSet::new(),
            text: None,
            serving: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            emptied: None,
            foreign_resources,
            wide: Wide::default(),
        };
        if history.wide {
            run.deployment.cloud.simulated().script_default(run.script(Script::default()));
        }
        let start = tokio::time::Instant::now();
        run.set_faults(true);
        run.deployment.start_as(FIRST).await;
        for (wait, event) in &history.events {
            run.advance(*wait).await?;
            run.apply(event).await.map_err(|problem| format!("{problem} (at {event:?})"))?;
        }
        run.advance(Duration::from_secs(60)).await?;
        run.settle().await?;
        let calls = run.deployment.cloud.calls();
        Ok(Numbers {
            calls: calls.len(),
            mutating: calls.iter().filter(|call| call.mutating).count(),
            virtual_seconds: start.elapsed().as_secs(),
        })
    }

    fn set_faults(&self, on: bool) {
        let mut faults = Faults::none();
        if on {
            for (offset, caller) in [FIRST, SECOND].into_iter().enumerate() {
                let seed = self.history.seed.wrapping_add(offset as u64);
                faults = faults.and(Rule::random(seed, self.history.chances).of(caller));
            }
        }
        self.deployment.cloud.set_faults(faults);
    }

    /// Lets time pass and checks the invariants.
    async fn advance(&mut self, time: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            self.check()?;
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(CHECK_INTERVAL)).await;
        }
    }

    async fn apply(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Commit { name, variant } => {
                self.known.insert(name);
                self.deployment.commit(name, config_variant(name, variant));
            }
            Event::Push { name, flaw } => self.push(name, flaw),
            Event::Remove { name } => {
                self.note_removal(name);
                self.deployment.confirm(&[name]);
                self.deployment.remove(name);
            }
            Event::Rename { name, to } => {
                if let Some(text) = self.deployment.configs.get(name).cloned()
                    && !self.deployment.configs.contains_key(to)
                {
                    self.known.insert(to);
                    self.note_removal(name);
                    self.deployment.confirm(&[name]);
                    self.deployment.configs.insert(to.to_owned(), renamed(&text, name, to));
                    self.deployment.remove(name);
                }
            }
            Event::Invalid { name } => {
                if self.deployment.configs.contains_key(name) {
                    self.deployment.commit(name, format!("name: {name}\n  git_url: [\n"));
                }
            }
            Event::Vanish { seconds } => {
                self.deployment.confirm(&[]);
                let configs = std::mem::take(&mut self.deployment.configs);
                self.deployment.publish();
                self.advance(Duration::from_secs(seconds)).await?;
                self.deployment.configs = configs;
                self.deployment.publish();
            }
            Event::Unreadable { seconds } => {
                self.deployment.fail_source(Some("the git host does not answer"));
                self.advance(Duration::from_secs(seconds)).await?;
                self.deployment.fail_source(None);
            }
            Event::ManualChange { name, change } => {
                let takes_away = [
                    ManualChange::DeleteService,
                    ManualChange::EmptyWorkspace,
                    ManualChange::DeleteRegistry,
                    ManualChange::SetCountToZero,
                ];
                if change == ManualChange::EmptyWorkspace {
                    self.emptied = Some(tokio::time::Instant::now());
                    self.disturbed.extend(NAMES.map(str::to_owned));
                } else if takes_away.contains(&change) {
                    self.disturbed.insert(name.to_owned());
                }
                self.note_manual_change(name, change);
                manual_change::change(&self.deployment, name, change).await;
            }
            Event::Crash { seconds } => self.crash(seconds).await?,
            Event::CrashAtCall { number, applied } => {
                let hang = Rule::at(number, Fault::Hang { applied }).of(FIRST).mutating_only();
                let mut faults = Faults::from(hang);
                faults = faults.and(Rule::random(self.history.seed, self.history.chances).of(FIRST));
                self.deployment.cloud.set_faults(faults);
                self.advance(Duration::from_secs(90)).await?;
                self.set_faults(true);
                self.crash(number).await?;
            }
            Event::Second { seconds } => {
                self.deployment.start_as(SECOND).await;
                self.advance(Duration::from_secs(seconds)).await?;
                self.deployment.kill_one(SECOND).await;
            }
            Event::Readd { .. }
            | Event::RenameAndBack { .. }
            | Event::RenameFolder { .. }
            | Event::Misname { .. }
            | Event::Mode { .. }
            | Event::Run { .. } => Box::pin(self.apply_wide(event)).await?,
        }
        self.check()
    }

    fn push(&mut self, name: &'static str, flaw: Option<Flaw>) {
        // Branches share no commit numbers, because an image name ends with the number.
        let place = NAMES.iter().position(|one| *one == name).unwrap_or_default();
        let first = u32::try_from(place).unwrap_or_default() * 1000 + 1;
        let number = self.commits.get(name).copied().unwrap_or(first) + 1;
        self.commits.insert(name, number);
        let image = format!("@sha256:{number:064x}");
        if let Some(flaw) = flaw {
            self.flaws.insert((name, number), flaw);
            let script = match flaw {
                Flaw::Exits => Script::exits(1),
                Flaw::NeverHealthy => Script::never_healthy(),
                Flaw::DoesNotLoad => {
                    self.deployment.code_server.break_code(&image);
                    Script::default()
                }
                Flaw::DoesNotBuild => {
                    self.deployment.builds.fail_commit(number);
                    Script::default()
                }
            };
            let script = self.script(script);
            let host = self.deployment.cloud.with_cloud(|cloud| cloud.rules.registry.clone());
            for location in NAMES {
                self.deployment.cloud.simulated().script(&format!("{host}/codeloc/{location}{image}"), script.clone());
            }
        }
        self.deployment.branches.push(name, number);
    }

    async fn crash(&mut self, seconds: u64) -> Result<(), String> {
        self.deployment.kill_one(FIRST).await;
        self.advance(Duration::from_secs(seconds)).await?;
        self.deployment.start_as(FIRST).await;
        Ok(())
    }

    /// The invariants that hold at every moment.
    fn check(&mut self) -> Result<(), String> {
        if self.deployment.has_panicked() {
            return Err("a task of the daemon panicked".to_owned());
        }
        let text = std::fs::read_to_string(self.deployment.workspace_file()).ok();
        let published = if text == self.text {
            self.published.clone()
        } else {
            let entries = Publisher::new(self.deployment.workspace_file()).read();
            entries.map_err(|error| format!("workspace.yaml: {error}"))?.into_keys().collect()
        };
        self.text = text;
        if let Some(unknown) = published.iter().find(|name| !self.known.contains(name.as_str())) {
            return Err(format!("{unknown} is in workspace.yaml without ever having had a config"));
        }
        let expected = |name: &&String| self.deployment.configs.contains_key(*name) && !self.disturbed.contains(*name);
        if let Some(lost) = self.published.difference(&published).find(expected) {
            return Err(format!("{lost} left workspace.yaml although it has a config"));
        }
        let serving: BTreeSet<String> = self.deployment.cloud.with_cloud(|cloud| {
            let healthy = |task: &&Task| task.last_status == "RUNNING" && task.health == "HEALTHY";
            let families =
                cloud.ecs.tasks.values().filter(healthy).filter_map(|task| task.family.strip_prefix("codeloc-"));
            families.filter(|name| published.contains(*name)).map(str::to_owned).collect()
        });
        if let Some(down) = self.serving.difference(&serving).find(expected) {
            return Err(format!("{down} has a config but no longer a healthy task"));
        }
        self.published = published;
        self.serving = serving;
        if self.history.wide {
            self.check_wide()?;
        }
        // After a stale read, an applied step can look like one that had no effect. So does a reload of the webserver, until all entries of a
        // file that was emptied are back: each of them reloads what the file then contains.
        let emptied = self.emptied.is_some_and(|at| at.elapsed() < EMPTIED);
        let excused = |message: &str| {
            !self.history.rules.stale_reads.is_zero() || (emptied && message.contains("the webserver has not loaded"))
        };
        match self.deployment.not_converging() {
            Some(message) if !excused(&message) => Err(format!("not converging: {message}")),
            _ => Ok(()),
        }
    }

    /// Stops all faults, confirms all removals, and waits until nothing changes.
    async fn settle(&mut self) -> Result<(), String> {
        self.set_faults(false);
        if self.history.wide {
            self.finish_wide().await?;
        }
        self.deployment.confirm(&NAMES);
        let deadline = tokio::time::Instant::now() + SETTLE_LIMIT;
        loop {
            let unsettled: Vec<String> = NAMES.iter().filter_map(|name| self.unsettled(name)).collect();
            if unsettled.is_empty() {
                break;
            }
            if tokio::time::Instant::now() >= deadline {
                let calls = self.deployment.cloud.calls();
                let last: Vec<String> = calls
                    .iter()
                    .filter(|call| call.service != "s3")
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .take(60)
                    .rev()
                    .map(describe)
                    .collect();
                return Err(format!("did not settle: {}; last calls: {}", unsettled.join("; "), last.join(", ")));
            }
            self.advance(Duration::from_secs(10)).await?;
        }
        // Resources that are read in turn can still cause changes in the next few sweeps.
        self.advance(Duration::from_secs(6 * 60)).await?;
        let before = self.deployment.mutating_calls().len();
        self.advance(Duration::from_secs(6 * 60)).await?;
        let calls = self.deployment.mutating_calls();
        if calls.len() > before {
            return Err(format!("settled, but still changing: {:?}", &calls[before..]));
        }
        if let Some(unsettled) = NAMES.iter().find_map(|name| self.unsettled(name)) {
            return Err(format!("did not stay settled: {unsettled}"));
        }
        self.check_final_state().await
    }

    /// Why a location has not reached its final state.
    fn unsettled(&self, name: &'static str) -> Option<String> {
        let status = self.deployment.status(name);
        let Some(text) = self.deployment.configs.get(name) else {
            if self.wide.may_keep(name) {
                return None;
            }
            return status.map(|status| format!("{name} still exists: {}", status.message));
        };
        let Some(status) = status else { return Some(format!("{name} has no status yet")) };
        let summary = format!("{name}: {}, {}: {}", status.sync, status.health, status.message);
        let number = self.commits.get(branch(text)).copied().unwrap_or(1);
        let flaw = self.flaws.get(&(branch(text), number));
        let settled = match (is_invalid(text), flaw) {
            (true, _) => status.sync == Sync::Unknown,
            // Before the last stopped task is read, the cause of the failure is unknown.
            (false, Some(Flaw::DoesNotBuild)) => {
                status.conditions.iter().any(|dated| dated.condition.reason == Reason::BuildFailed)
            }
            (false, Some(_)) => {
                let failed = |reason| {
                    matches!(
                        reason,
                        Reason::RolloutFailed | Reason::LoadError | Reason::NotAnswering | Reason::NoInstance
                    )
                };
                status.conditions.iter().any(|dated| failed(dated.condition.reason))
                    && status.health == Health::Degraded
                    && !RETRY_MESSAGES.iter().any(|message| status.message.contains(message))
            }
            (false, None) => (status.sync, status.health) == (Sync::Synced, Health::Healthy),
        };
        (!settled).then_some(summary)
    }

    async fn check_final_state(&self) -> Result<(), String> {
        let observed = self.deployment.observed().await;
        let owned = observed
            .iter()
            .filter(|(name, observed)| observed.any_owned(name, "codeloc"))
            .map(|(name, _)| name.as_str());
        let is_orphan = |name: &&str| !self.deployment.configs.contains_key(*name) && !self.wide.may_keep(name);
        if let Some(orphan) = owned.into_iter().find(is_orphan) {
            return Err(format!("{orphan} has no config but still has resources: {:?}", observed[orphan]));
        }
        // codeloc changes nothing of a location with an invalid config.
        let is_frozen = |image: &str| {
            let mut configs = self.deployment.configs.iter();
            configs.any(|(name, text)| is_invalid(text) && image.contains(&format!("/{name}@")))
        };
        let mut missing = self.deployment.missing_images();
        missing.retain(|image| !is_frozen(image));
        if !missing.is_empty() {
            return Err(format!("tasks run images that ECR does not have: {missing:?}"));
        }
        if self.history.wide {
            self.check_final_wide_state()?;
        }
        let after = self.deployment.cloud.with_cloud(|cloud| foreign::foreign_resources(cloud));
        if after != self.foreign_resources {
            return Err(format!("a resource of another owner was changed:\n{}\n{after}", self.foreign_resources));
        }
        // A revision is registered once, plus once per lost response or stale read.
        let lost = |call: &&localcloud::calls::Call| {
            call.operation == "RegisterTaskDefinition" && call.applied && call.outcome != "OK"
        };
        let lost = self.deployment.cloud.calls().iter().filter(lost).count();
        if self.history.rules.stale_reads.is_zero() {
            let registered = self.deployment.cloud.with_cloud(|cloud| revisions(cloud));
            let doubled: usize = registered.values().map(|count| count - 1).sum();
            let crashes = self
                .history
                .events
                .iter()
                .filter(|(_, event)| matches!(event, Event::CrashAtCall { applied: true, .. }))
                .count();
            let excused = lost + crashes;
            if doubled > excused {
                return Err(format!("{doubled} duplicate task definitions, {excused} of them allowed: {registered:?}"));
            }
        }
        Ok(())
    }
}

fn describe(call: &localcloud::calls::Call) -> String {
    format!(
        "{:.0} {} {} {} {}",
        call.time,
        call.caller,
        call.operation,
        call.resource.as_deref().unwrap_or_default(),
        call.outcome
    )
}

/// The number of active task definitions per revision.
#[must_use]
pub fn revisions(cloud: &Cloud) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    let definitions = cloud.ecs.families.values().flat_map(|family| family.revisions.values());
    for definition in definitions.filter(|definition| definition.status == "ACTIVE") {
        if let Some(revision) = definition.tags.get(tags::REVISION) {
            *counts.entry((definition.family.clone(), revision.clone())).or_insert(0) += 1;
        }
    }
    counts
}
