//! Reconciling one location: observe, plan, lint, execute, and again until a fresh observation leaves nothing to do.
//!
//! Guarantees: codeloc executes nothing that the plan's lint refuses; a pass that is killed at any point leaves a state from which the
//! next one continues. The queue lets at most one pass run per location.

mod aws;
mod batch;
mod configs;
mod decision;
mod desired;
mod executor;
mod failure_logs;
mod image_builds;
mod image_schedule;
mod image_tags;
mod images;
mod instances;
mod last_configs;
mod observer;
mod policy;
mod ports;
mod prune_guard;
mod publisher;
pub mod queue;
mod reason;
mod recorder;
mod reload_pauses;
mod retry;
mod store;
mod traceback;

use std::time::Duration;

use codeloc_core::desired::Desired;
use codeloc_core::planner::{self, Hold, Input, Needs, Plan, Runs, Violation, WebserverState};
use codeloc_core::resources::service::FailureExcerpt;
use codeloc_core::resources::{ObservedResources, Step, service};
use codeloc_crds::LocationName;
use tokio::time::Instant;

use crate::status::metrics::ReconcileOutcome;

pub use aws::{Aws, Memory};
pub use batch::Batch;
pub use configs::Configs;
pub use desired::{DesiredState, key_of};
pub use executor::{Executor, StepError};
pub use images::Images;
pub use observer::Observer;
pub use policy::Policy;
pub use ports::Ports;
pub use publisher::{PublishError, WorkspacePublisher};
pub use reason::Reason;
pub use recorder::StatusRecorder;
pub use retry::Retry;

use configs::Config;
use decision::{Decision, Round, at_rest, decide, deletes_images};
use image_builds::ImageOf;
use observer::{Observation, Surroundings};
use publisher::View;
use store::Observed;

/// The rounds of one pass, before the queue may start another location.
const ROUNDS: usize = 8;
/// The pause after a plan that does not converge.
const NOT_CONVERGING: Duration = Duration::from_secs(30);
/// The pause while the image that serves is built again. The end of the build ends it too.
const IMAGE: Duration = Duration::from_secs(60);
/// The pause after a pass that used all of its rounds.
const NEXT_TURN: Duration = Duration::from_secs(1);

/// The parts of a pass, in the order in which it uses them.
pub struct Context<P: Ports> {
    pub observer: Observer<P::CodeServer, P::Webserver>,
    pub desired: DesiredState<P::Builder>,
    pub policy: Policy,
    pub executor: Executor<P::Webserver>,
    pub retry: Retry,
    pub status: StatusRecorder,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A fresh observation gave an empty plan.
    Converged,
    /// A rollout or a build is in progress; reconcile again after this time.
    Waiting(Duration),
    /// The mode or the config forbids changes.
    Held,
    /// The changes wait until this process holds the lease.
    Unleased,
    /// The location waits for the next sweep or refresh.
    AwaitingSweep,
    /// A call failed, or the plan does not converge; retry after this time.
    Failed(Duration),
    /// The location and all of its resources are gone.
    Gone,
}

impl Outcome {
    pub fn label(self) -> ReconcileOutcome {
        match self {
            Self::Converged => ReconcileOutcome::Converged,
            Self::Waiting(_) => ReconcileOutcome::Waiting,
            Self::Held | Self::Unleased => ReconcileOutcome::Held,
            Self::AwaitingSweep => ReconcileOutcome::AwaitingSweep,
            Self::Failed(_) => ReconcileOutcome::Failed,
            Self::Gone => ReconcileOutcome::Gone,
        }
    }
}

/// The end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub outcome: Outcome,
    /// Whether a pass with [`Reason::CollectGarbage`] should follow.
    pub collect_garbage: bool,
}

impl From<Outcome> for Action {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, collect_garbage: false }
    }
}

/// One pass. An error is in the status and in the outcome.
pub async fn reconcile<P: Ports>(context: &Context<P>, name: &LocationName, reason: Reason) -> Action {
    let action = context.rounds(name, reason).await.unwrap_or_else(|error| {
        let reaction = context.retry.failed(name, error.class());
        context.status.failed(name, &error, reaction);
        Outcome::Failed(reaction.backoff).into()
    });
    match action.outcome {
        Outcome::Converged | Outcome::Waiting(_) | Outcome::Held | Outcome::Unleased | Outcome::Gone => {
            context.retry.succeeded(name);
        }
        // To wait for a sweep is part of an attempt.
        Outcome::AwaitingSweep | Outcome::Failed(_) => {}
    }
    action
}

/// Whether ECS starts tasks after this step, now or for a run.
fn starts_tasks(step: &Step) -> bool {
    step.rolls_out() || matches!(step, Step::RunDefinition(_))
}

/// The steps for whose tasks the registry has an image.
enum Startable<'a> {
    All,
    /// The image that serves is being built again. The desired one is not known, so another plan would be the same.
    Before(&'a [Step]),
    /// The desired image is being built again. The next plan waits for it.
    PlanAgain,
}

/// What the planner has asked for.
struct Asked {
    excerpt: Option<FailureExcerpt>,
    record: Option<service::Record>,
    runs: Runs,
}

impl Default for Asked {
    fn default() -> Self {
        Self { excerpt: None, record: None, runs: Runs::NotAsked }
    }
}

/// A plan with everything that it was made from.
struct Planned {
    desired: Desired,
    hold: Option<Hold>,
    plan: Plan,
    lint: Result<(), Violation>,
    runs: Runs,
}

impl Planned {
    /// Whether the plan deletes what unfinished runs use.
    fn abandons_runs(&self) -> bool {
        let unfinished = !matches!(self.runs, Runs::NotAsked | Runs::None);
        unfinished && self.desired == Desired::Absent && self.plan.later.is_empty() && !self.plan.steps.is_empty()
    }
}

impl<P: Ports> Context<P> {
    async fn rounds(&self, name: &LocationName, reason: Reason) -> Result<Action, StepError> {
        let store = &self.observer.store;
        let memory = &self.observer.aws.memory();
        let mut applied: Option<Vec<Step>> = None;
        for _ in 0..ROUNDS {
            let later = if applied.is_some() { reason.started() } else { reason };
            let Observation::Ready(seen) = self.observer.observe(memory, name, reason, later).await? else {
                return Ok(Outcome::AwaitingSweep.into());
            };
            let Observed { mut resources, at, complete } = *seen;
            let Some(planned) = self.plan(memory, name, reason, &mut resources, complete).await? else {
                store.discard(name);
                continue;
            };
            let abandons_runs = planned.abandons_runs();
            let Planned { desired, hold, plan, lint, runs } = planned;
            let round = Round {
                reason,
                desired: &desired,
                plan: &plan,
                lint: &lint,
                complete,
                applied: applied.as_deref(),
                reload_pause: self.executor.reload_pause(&plan.steps),
            };
            match decide(&round) {
                Decision::ObserveAgain => {
                    store.discard(name);
                    if reason.waits_for_sweep() {
                        self.observer.awaiting_sweep.push(name, later);
                        return Ok(Outcome::AwaitingSweep.into());
                    }
                }
                Decision::Gone => {
                    store.set_owned(memory.epoch, name, false);
                    self.forget(name);
                    return Ok(Outcome::Gone.into());
                }
                Decision::Unsafe(violation) => {
                    let message = format!("codeloc refused its own plan, which is a bug to report: {violation}");
                    tracing::error!(location = name.as_str(), "{message}");
                    self.record(memory, name, &desired, &plan, &resources, Some(message));
                    return Ok(Outcome::Failed(NOT_CONVERGING).into());
                }
                Decision::NotConverging(message) => {
                    tracing::error!(location = name.as_str(), "the location does not converge: {message}");
                    self.record(memory, name, &desired, &plan, &resources, Some(message));
                    return Ok(Outcome::Failed(NOT_CONVERGING).into());
                }
                Decision::WaitForWebserver(pause) => {
                    self.record(memory, name, &desired, &plan, &resources, None);
                    return Ok(Outcome::Waiting(pause).into());
                }
                Decision::CollectGarbage => {
                    self.record(memory, name, &desired, &plan, &resources, None);
                    let garbage = self.executor.unused(name, plan.garbage).await;
                    self.execute(memory, name, reason, &garbage, resources).await?;
                    return Ok(Outcome::Converged.into());
                }
                Decision::Rest => {
                    self.record(memory, name, &desired, &plan, &resources, None);
                    let collect_garbage = !plan.garbage.is_empty() || self.lists_images(name, &plan, &resources);
                    store.set_last(memory.epoch, name, resources, at);
                    return Ok(Action { outcome: at_rest(&plan, hold.as_ref()), collect_garbage });
                }
                Decision::Execute => {
                    let steps = match self.startable(name, &desired, &plan.steps).await {
                        Startable::All => &plan.steps[..],
                        Startable::Before(steps) => steps,
                        Startable::PlanAgain => {
                            store.discard(name);
                            continue;
                        }
                    };
                    self.record(memory, name, &desired, &plan, &resources, None);
                    if steps.is_empty() {
                        return Ok(Outcome::Waiting(IMAGE).into());
                    }
                    store.set_owned(memory.epoch, name, true);
                    if abandons_runs {
                        self.status.abandons_runs(name, &runs);
                    }
                    if steps.iter().any(|step| matches!(step, Step::Service(service::Change::Redeploy { .. }))) {
                        // The new attempt may fail for another reason.
                        self.observer.failure_logs.forget(name);
                    }
                    self.execute(memory, name, reason, steps, resources).await?;
                    applied = Some(steps.to_vec());
                }
            }
        }
        Ok(Outcome::Waiting(NEXT_TURN).into())
    }

    /// Resolves the desired state and plans. Returns nothing when images would be deleted on a partial observation.
    async fn plan(
        &self,
        memory: &Memory,
        name: &LocationName,
        reason: Reason,
        resources: &mut ObservedResources,
        complete: bool,
    ) -> Result<Option<Planned>, StepError> {
        let around = self.observer.surroundings(memory, name, resources, reason.priority()).await?;
        let configs = &self.desired.configs;
        let config = configs.config(name, resources, &self.observer.aws.deployment.id);
        let (lease, owned) = (self.observer.aws.lease.state(), self.observer.store.owned(memory.epoch));
        let hold = self.policy.hold(name, &config, lease, configs, owned.as_deref());
        let hold = hold.or_else(|| Hold::of_placement(name, resources, &self.observer.aws.deployment));
        if matches!(config, Config::Absent) {
            self.desired.images.forget(name);
        }
        let (changed, built) = (self.change_reason(name), reason.started());
        let desired = self.desired.resolve(config, resources, hold.as_ref(), changed, built).await;
        let needs = planner::needs(
            &self.input(name, &desired, hold.as_ref(), resources, &around, &Asked::default()),
            reason.purpose(),
        );
        let asked = self.ask(memory, name, &needs, resources, reason).await?;
        let lists_images = needs.images && self.observer.image_schedule.is_due(name, Instant::now());
        if lists_images {
            resources.images = self.observer.images(memory, resources, reason.priority()).await;
        }
        let input = self.input(name, &desired, hold.as_ref(), resources, &around, &asked);
        let plan = planner::plan(input);
        let lint = planner::lint(&input, &plan);
        resources.images = None;
        if lists_images && plan.collects {
            if !complete && deletes_images(&plan) {
                return Ok(None);
            }
            self.observer.image_schedule.done(name, Instant::now());
        }
        Ok(Some(Planned { desired, hold, plan, lint, runs: asked.runs }))
    }

    /// The steps that can be executed now: no task starts with an image that is gone from the registry.
    async fn startable<'a>(&self, name: &LocationName, desired: &Desired, steps: &'a [Step]) -> Startable<'a> {
        let Some(first) = steps.iter().position(starts_tasks) else { return Startable::All };
        let knows_image = matches!(desired, Desired::Present(location) if location.image.image().is_some());
        let image_of = if knows_image { ImageOf::Desired } else { ImageOf::Serving };
        match (self.desired.images.builds.is_available(name, image_of).await, image_of) {
            (true, _) => Startable::All,
            (false, ImageOf::Desired) => Startable::PlanAgain,
            (false, ImageOf::Serving) => Startable::Before(&steps[..first]),
        }
    }

    /// Reads what [`planner::needs`] asks for.
    async fn ask(
        &self,
        memory: &Memory,
        name: &LocationName,
        needs: &Needs,
        resources: &ObservedResources,
        reason: Reason,
    ) -> Result<Asked, StepError> {
        let (observer, priority) = (&self.observer, reason.priority());
        let mut asked = Asked::default();
        if let Some(revision) = &needs.failure_logs {
            asked.excerpt = Some(observer.failure_excerpt(memory, name, resources, revision, priority).await);
        }
        if let Some(definition) = &needs.record {
            asked.record = observer.record(memory, name, resources, definition, priority).await?;
        }
        asked.runs = match needs.runs {
            false => Runs::NotAsked,
            true if self.desired.configs.abandons_runs(name) => Runs::Abandoned,
            true => observer.runs(memory, name, resources, priority).await?,
        };
        Ok(asked)
    }

    fn input<'a>(
        &'a self,
        name: &'a LocationName,
        desired: &'a Desired,
        hold: Option<&'a Hold>,
        resources: &'a ObservedResources,
        around: &'a Surroundings,
        asked: &'a Asked,
    ) -> Input<'a> {
        Input {
            name,
            desired,
            deployment: &self.observer.aws.deployment,
            observed: resources,
            workspace: &around.workspace,
            webserver: match &around.view {
                View::NotConfigured => WebserverState::NotConfigured,
                View::Unreachable(message) => WebserverState::Unreachable(message),
                View::Locations(_) => WebserverState::Answers,
            },
            answers: &around.answers,
            failure_excerpt: asked.excerpt.as_ref(),
            record: asked.record,
            steady_for: around.steady_for,
            unlisted_for: around.unlisted_for,
            now_ms: self.status.now().as_millisecond(),
            runs: &asked.runs,
            hold,
            may_protect: self.policy.may_protect(&self.observer.aws.lease.state()),
        }
    }

    /// Plans without changing anything, in AWS or here.
    pub async fn preview(&self, name: &LocationName) -> Result<Plan, StepError> {
        let reason = Reason::ConfigChanged;
        let memory = self.observer.aws.memory();
        let resources = match self.observer.observe(&memory, name, reason, reason).await? {
            Observation::Ready(seen) => seen.resources,
            Observation::Awaiting => ObservedResources::default(),
        };
        let around = self.observer.surroundings(&memory, name, &resources, reason.priority()).await?;
        let config = self.desired.configs.config(name, &resources, &self.observer.aws.deployment.id);
        let hold = Hold::of_placement(name, &resources, &self.observer.aws.deployment);
        let desired = self.desired.preview(config, &resources).await;
        let needs = planner::needs(
            &self.input(name, &desired, hold.as_ref(), &resources, &around, &Asked::default()),
            reason.purpose(),
        );
        let asked = self.ask(&memory, name, &needs, &resources, reason).await?;
        Ok(planner::plan(self.input(name, &desired, hold.as_ref(), &resources, &around, &asked)))
    }

    /// Why a change of this location is reconciled. A location that does not serve yet can wait.
    pub fn change_reason(&self, name: &LocationName) -> Reason {
        if self.observer.store.serves(name) { Reason::ConfigChanged } else { Reason::Create }
    }

    /// Whether it is time to list the images of a location, to delete unused ones.
    fn lists_images(&self, name: &LocationName, plan: &Plan, resources: &ObservedResources) -> bool {
        let collects = plan.collects && resources.image_repository.is_some();
        collects && self.observer.image_schedule.is_due(name, Instant::now())
    }

    fn record(
        &self,
        memory: &Memory,
        name: &LocationName,
        desired: &Desired,
        plan: &Plan,
        resources: &ObservedResources,
        alarm: Option<String>,
    ) {
        self.observer.store.reported(memory.epoch, name, &plan.report);
        self.status.planned(name, desired, plan, resources, alarm);
    }

    async fn execute(
        &self,
        memory: &Memory,
        name: &LocationName,
        reason: Reason,
        steps: &[Step],
        resources: ObservedResources,
    ) -> Result<(), StepError> {
        let store = &self.observer.store;
        store.change(name);
        let applied = |step: &Step, summary: &str| self.status.applied(name, step, summary);
        let execution = self.executor.execute(memory, steps, resources, reason.priority(), applied).await;
        store.change(name);
        if let Some(predicted) = execution.predicted {
            store.set_last(memory.epoch, name, predicted, Instant::now());
        }
        execution.error.map_or(Ok(()), Err)
    }

    fn forget(&self, name: &LocationName) {
        self.status.removed(name);
        self.desired.images.forget(name);
        self.observer.forget(name);
    }
}
