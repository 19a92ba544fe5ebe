//! A whole life of a deployment in virtual time, drawn from one seed: commits, broken code, changes by hand, faults of the
//! network, crashes, a second controller. What must always hold is looked at all along; then everything comes to rest, and
//! what is live has to be what is wanted.
//!
//! One seed gives one run: nothing in it reads a real clock or a source of randomness of its own.

mod by_hand;
mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codeloc_core::status::{Health, Reason, Sync};
use codeloc_core::tags;
use codeloc_dagster::workspace_file::Publisher;
use localcloud::cloud::Cloud;
use localcloud::driver::simulated::Script;
use localcloud::faults::{Faults, Rule, Trouble};
use localcloud::services::ecs::task::Task;

use crate::{TestDeployment, config};

pub use history::{ByHand, Event, Flaw, History, NAMES};

/// How often what must always hold is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long everything may take to come to rest after the last event.
const REST: Duration = Duration::from_secs(3 * 60 * 60);
const FIRST: &str = "first";
const SECOND: &str = "second";

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    pub calls: usize,
    pub mutating: usize,
    pub virtual_seconds: u64,
}

/// Runs one seed on a runtime of its own.
///
/// # Errors
/// What did not hold.
pub fn run_seed(seed: u64) -> Result<Numbers, String> {
    run_history(&History::draw(seed))
}

/// # Errors
/// What did not hold.
///
/// # Panics
/// Where no runtime can be made.
pub fn run_history(history: &History) -> Result<Numbers, String> {
    // The SDK draws the pauses between its retries from this thread's generator.
    fastrand::seed(history.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(Run::through(history))
}

/// Drops events for as long as the run still fails: the shortest history found, and what it fails with.
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
    /// The number of the newest commit on each location's branch.
    commits: BTreeMap<&'static str, u32>,
    /// Commits that do not run, or run and do not load.
    flaws: BTreeMap<(&'static str, u32), Flaw>,
    /// Locations that had a config at some time.
    known: BTreeSet<&'static str>,
    /// Published at the last look, and the file's text where there was one.
    published: BTreeSet<String>,
    text: Option<String>,
    /// Published locations with a healthy task at the last look.
    serving: BTreeSet<String>,
    /// Not looked at any more: somebody took something of them away by hand.
    disturbed: BTreeSet<String>,
    strangers: String,
}

impl Run {
    async fn through(history: &History) -> Result<Numbers, String> {
        let deployment = TestDeployment::with(history.rules.clone()).await;
        make_strangers(&deployment).await;
        let strangers = deployment.cloud.with_cloud(|cloud| strangers(cloud));
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
            strangers,
        };
        let began = tokio::time::Instant::now();
        run.set_faults(true);
        run.deployment.start_as(FIRST).await;
        for (wait, event) in &history.events {
            run.pass(*wait).await?;
            run.happen(event).await.map_err(|problem| format!("{problem} (at {event:?})"))?;
        }
        run.pass(Duration::from_secs(60)).await?;
        run.rest().await?;
        let calls = run.deployment.cloud.calls();
        Ok(Numbers {
            calls: calls.len(),
            mutating: calls.iter().filter(|call| call.mutating).count(),
            virtual_seconds: began.elapsed().as_secs(),
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

    /// Lets time pass, and looks all along.
    async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = tokio::time::Instant::now() + time;
        loop {
            self.look()?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    async fn happen(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Commit { name, variant } => {
                self.known.insert(name);
                self.deployment.commit(name, varied(name, variant));
            }
            Event::Push { name, flaw } => self.push(name, flaw),
            Event::Remove { name } => {
                self.deployment.confirm(&[name]);
                self.deployment.remove(name);
            }
            Event::Rename { name, to } => {
                if let Some(text) = self.deployment.configs.get(name).cloned()
                    && !self.deployment.configs.contains_key(to)
                {
                    self.known.insert(to);
                    self.deployment.confirm(&[name]);
                    self.deployment
                        .configs
                        .insert(to.to_owned(), text.replace(&format!("name: {name}\n"), &format!("name: {to}\n")));
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
                self.pass(Duration::from_secs(seconds)).await?;
                self.deployment.configs = configs;
                self.deployment.publish();
            }
            Event::Unreadable { seconds } => {
                self.deployment.fail_source(Some("the git host does not answer"));
                self.pass(Duration::from_secs(seconds)).await?;
                self.deployment.fail_source(None);
            }
            Event::ByHand { name, change } => {
                let takes_away = [ByHand::DeleteService, ByHand::EmptyWorkspace, ByHand::DeleteRegistry];
                if change == ByHand::EmptyWorkspace {
                    self.disturbed.extend(NAMES.map(str::to_owned));
                } else if takes_away.contains(&change) {
                    self.disturbed.insert(name.to_owned());
                }
                by_hand::change(&self.deployment, name, change).await;
            }
            Event::Crash { seconds } => self.crash(seconds).await?,
            Event::CrashAtCall { number, applied } => {
                let hang = Rule::at(number, Trouble::Hang { applied }).of(FIRST).mutating_only();
                let mut faults = Faults::from(hang);
                faults = faults.and(Rule::random(self.history.seed, self.history.chances).of(FIRST));
                self.deployment.cloud.set_faults(faults);
                self.pass(Duration::from_secs(90)).await?;
                self.set_faults(true);
                self.crash(number).await?;
            }
            Event::Second { seconds } => {
                self.deployment.start_as(SECOND).await;
                self.pass(Duration::from_secs(seconds)).await?;
                self.deployment.kill_one(SECOND).await;
            }
        }
        self.look()
    }

    fn push(&mut self, name: &'static str, flaw: Option<Flaw>) {
        // No two branches have equal commits: an image's name ends with its commit's number.
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
            };
            let host = self.deployment.cloud.with_cloud(|cloud| cloud.rules.registry.clone());
            for location in NAMES {
                self.deployment.cloud.simulated().script(&format!("{host}/codeloc/{location}{image}"), script.clone());
            }
        }
        self.deployment.branches.push(name, number);
    }

    async fn crash(&mut self, seconds: u64) -> Result<(), String> {
        self.deployment.kill_one(FIRST).await;
        self.pass(Duration::from_secs(seconds)).await?;
        self.deployment.start_as(FIRST).await;
        Ok(())
    }

    /// What must hold at every moment.
    fn look(&mut self) -> Result<(), String> {
        if self.deployment.has_fallen() {
            return Err("a loop of the daemon ended: something in it panicked".to_owned());
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
            return Err(format!("{unknown} is in workspace.yaml, and never had a config"));
        }
        let kept = |name: &&String| self.deployment.configs.contains_key(*name) && !self.disturbed.contains(*name);
        if let Some(lost) = self.published.difference(&published).find(kept) {
            return Err(format!("{lost} left workspace.yaml although it has a config"));
        }
        let serving: BTreeSet<String> = self.deployment.cloud.with_cloud(|cloud| {
            let healthy = |task: &&Task| task.last_status == "RUNNING" && task.health == "HEALTHY";
            let families =
                cloud.ecs.tasks.values().filter(healthy).filter_map(|task| task.family.strip_prefix("codeloc-"));
            families.filter(|name| published.contains(*name)).map(str::to_owned).collect()
        });
        if let Some(down) = self.serving.difference(&serving).find(kept) {
            return Err(format!("{down} served, has a config, and no task of it is healthy any more"));
        }
        self.published = published;
        self.serving = serving;
        // What was read a moment late may look as if nothing had been applied.
        match self.deployment.alarm() {
            Some(message) if self.history.rules.stale_reads.is_zero() => Err(format!("not converging: {message}")),
            _ => Ok(()),
        }
    }

    /// Everything comes to rest: no more faults, every removal confirmed.
    async fn rest(&mut self) -> Result<(), String> {
        self.set_faults(false);
        self.deployment.confirm(&NAMES);
        let until = tokio::time::Instant::now() + REST;
        loop {
            let unsettled: Vec<String> = NAMES.iter().filter_map(|name| self.unsettled(name)).collect();
            if unsettled.is_empty() {
                break;
            }
            if tokio::time::Instant::now() >= until {
                let calls = self.deployment.cloud.calls();
                let last: Vec<String> = calls
                    .iter()
                    .filter(|call| call.service != "s3")
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .take(60)
                    .rev()
                    .map(told)
                    .collect();
                return Err(format!("did not come to rest: {}; last calls: {}", unsettled.join("; "), last.join(", ")));
            }
            self.pass(Duration::from_secs(10)).await?;
        }
        // What is read in turns may still turn up something, in the next few sweeps; then none does.
        self.pass(Duration::from_secs(6 * 60)).await?;
        let before = self.deployment.mutating_calls().len();
        self.pass(Duration::from_secs(6 * 60)).await?;
        let calls = self.deployment.mutating_calls();
        if calls.len() > before {
            return Err(format!("at rest, and still: {:?}", &calls[before..]));
        }
        if let Some(unsettled) = NAMES.iter().find_map(|name| self.unsettled(name)) {
            return Err(format!("did not stay at rest: {unsettled}"));
        }
        self.look_at_the_end().await
    }

    /// What is not yet as it has to be in the end.
    fn unsettled(&self, name: &'static str) -> Option<String> {
        let status = self.deployment.status(name);
        let Some(text) = self.deployment.configs.get(name) else {
            return status.map(|status| format!("{name} is still there: {}", status.message));
        };
        let Some(status) = status else { return Some(format!("{name} is not known yet")) };
        let said = format!("{name}: {}, {}: {}", status.sync, status.health, status.message);
        let number = self.commits.get(branch(text)).copied().unwrap_or(1);
        let flaw = self.flaws.get(&(branch(text), number));
        let settled = match (text.contains("git_url: ["), flaw) {
            (true, _) => status.sync == Sync::Unknown,
            // Whether its code was to blame, the last task that stopped may not have told yet.
            (false, Some(_)) => {
                let failed =
                    |reason| matches!(reason, Reason::RolloutFailed | Reason::LoadError | Reason::NotAnswering);
                status.conditions.iter().any(|dated| failed(dated.condition.reason))
                    && status.health == Health::Degraded
                    && !status.message.contains("is tried again")
            }
            (false, None) => (status.sync, status.health) == (Sync::Synced, Health::Healthy),
        };
        (!settled).then_some(said)
    }

    async fn look_at_the_end(&self) -> Result<(), String> {
        let observed = self.deployment.observed().await;
        let owned = observed
            .iter()
            .filter(|(name, observed)| observed.any_owned(name, "codeloc"))
            .map(|(name, _)| name.as_str());
        if let Some(orphan) = owned.into_iter().find(|name| !self.deployment.configs.contains_key(*name)) {
            return Err(format!("{orphan} has no config, and something of it is left: {:?}", observed[orphan]));
        }
        let after = self.deployment.cloud.with_cloud(|cloud| strangers(cloud));
        if after != self.strangers {
            return Err(format!("a stranger's resource was changed:\n{}\n{after}", self.strangers));
        }
        // A revision is registered once, but for each time that the answer was lost, or that a read came late.
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
                return Err(format!("{doubled} task definitions too many, {excused} of them excused: {registered:?}"));
            }
        }
        Ok(())
    }
}

fn told(call: &localcloud::calls::Call) -> String {
    format!(
        "{:.0} {} {} {} {}",
        call.time,
        call.caller,
        call.operation,
        call.resource.as_deref().unwrap_or_default(),
        call.outcome
    )
}

/// How many active task definitions each revision has.
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

/// A config that differs from another one of the same name.
fn varied(name: &str, variant: u8) -> String {
    let more = match variant {
        0 => "",
        1 => "resources: {cpu: 512, memory: 2048}\n",
        2 => "environment: [{name: MODE, value: other}]\n",
        3 => "scaling: {min_capacity: 1, max_capacity: 1}\n",
        4 => "scaling: {min_capacity: 2, max_capacity: 4, cpu_threshold: 50}\n",
        _ => "tags: {team: data}\n",
    };
    format!("{}{more}", config(name))
}

/// The name on whose branch a config's code is: a renamed location keeps its repository.
fn branch(text: &str) -> &'static str {
    NAMES.into_iter().find(|name| text.contains(&format!("git.test/{name}.git"))).unwrap_or("")
}

/// Things with names like ours, which are not ours.
async fn make_strangers(deployment: &TestDeployment) {
    let clients = deployment.clients();
    let logs = clients.logs.create_log_group().log_group_name("/codeloc/locations/orders2");
    logs.send().await.expect("a stranger's log group");
    let logs = clients.logs.create_log_group().log_group_name("/codeloc/locations/finance");
    let logs = logs.tags(tags::MANAGED_BY, "another").tags(tags::LOCATION, "finance");
    logs.send().await.expect("another deployment's log group");
    let role = clients.iam.create_role().role_name("codeloc-finance");
    role.assume_role_policy_document(r#"{"Version":"2012-10-17","Statement":[]}"#)
        .send()
        .await
        .expect("a stranger's role");
    clients.ecr.create_repository().repository_name("codeloc/base").send().await.expect("a stranger's images");
}

fn strangers(cloud: &Cloud) -> String {
    let names = ["/codeloc/locations/orders2", "/codeloc/locations/finance"];
    let groups: Vec<String> =
        names.iter().map(|name| serde_json::to_string(&cloud.logs.groups.get(*name)).expect("plain data")).collect();
    let role = serde_json::to_string(&cloud.iam.roles.get("codeloc-finance")).expect("plain data");
    let images = serde_json::to_string(&cloud.ecr.repositories.get("codeloc/base")).expect("plain data");
    format!("{}\n{role}\n{images}", groups.join("\n"))
}
