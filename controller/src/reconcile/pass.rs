//! One pass on one repository: observe, plan, lint, execute, and again until a fresh observation leaves nothing to do or
//! something has to be waited for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use codeloc_aws::lease::{Lease, LeaseState};
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_aws::resources as aws;
use codeloc_aws::{Cache, CallError, Clients, Session};
use codeloc_core::deployment::{Address, Deployment};
use codeloc_core::desired::Invalid;
use codeloc_core::lock::lock;
use codeloc_core::planner::{self, Answered, Desired, Hold, Input, Plan, WebserverState};
use codeloc_core::priority::Priority;
use codeloc_core::resources::image_repository::garbage::Image;
use codeloc_core::resources::{Kind, ObservedResources, Step, service, workspace};
use codeloc_core::status::{ConditionKind, ConditionStatus, Reason};
use codeloc_crds::{Location, Mode};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_git::refs::{RefKey, Refs};
use codeloc_images::{Builder, Request};
use tokio::time::Instant;

use super::desired::{ImageKnown, Wanted};
use super::execute::{StepError, execute};
use super::image_looks::ImageLooks;
use super::images::{ImageProgress, Images};
use super::last_configs::LastConfigs;
use super::look::BatchQueue;
use super::observations::{Observation, ObservationStore};
use super::observe;
use super::prune_guard::{Inventory, prune_guard};
use super::queue::Queue;
use super::recorder::summary;
use super::workspace::{PublishError, View, Workspace};
use crate::config_source::Snapshot;
use crate::runtime::Clock;
use crate::settings::Settings;
use crate::status::events::{EventReason, NewEvent};
use crate::status::{Recorder, StatusStore};

/// Rounds of observing and executing in one pass, before the queue may turn to somebody else.
const ROUNDS: usize = 8;
/// After a plan that came back although all of it was applied.
const NOT_CONVERGING: Duration = Duration::from_secs(30);
/// After a pass that used up its rounds.
const NEXT_TURN: Duration = Duration::from_secs(1);

/// Everything a pass touches: AWS, and the four other ports.
pub struct Context<B, C, W> {
    pub settings: Settings,
    pub deployment: Deployment,
    pub clients: Clients,
    pub cache: Cache,
    pub limits: Arc<RateLimiter>,
    pub lease: Arc<Lease>,
    pub images: Images<B>,
    pub refs: Refs,
    pub code_server: C,
    pub workspace: Workspace<W>,
    pub statuses: StatusStore,
    pub clock: Clock,
    pub queue: Arc<Queue>,
    pub recorder: Arc<Recorder>,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An empty plan from a fresh observation.
    Converged,
    /// Something is on its way; look again then.
    Waiting(Duration),
    /// There may be something to do, but this process may not do it, or not now.
    Held,
    /// There is something to do, which waits until this process holds the lease.
    Unleased,
    /// To be looked at again together with others, by the next sweep.
    AwaitingSweep,
    /// A call failed, or the plan does not converge.
    Failed(Duration),
    /// The repository is gone, and all of it in AWS.
    Gone,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Waiting(_) => "waiting",
            Self::Held | Self::Unleased => "held",
            Self::AwaitingSweep => "awaiting_sweep",
            Self::Failed(_) => "failed",
            Self::Gone => "gone",
        }
    }
}

/// Passes on one location that failed, one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failing {
    pub count: u32,
    /// The moment of the first.
    pub since: Instant,
}

pub struct Reconciler<B, C, W> {
    pub context: Context<B, C, W>,
    snapshot: RwLock<Option<Arc<Snapshot>>>,
    last_configs: LastConfigs,
    /// Why the configs cannot be read at present.
    unread: RwLock<Option<String>>,
    /// Locations of which anything is live and ours; nothing before the first sweep.
    pub(super) owned: RwLock<Option<BTreeSet<String>>>,
    pub(super) observations: ObservationStore,
    /// Locations that no pass looks at by itself: a sweep reads many of them for the price of a few.
    pub(super) awaiting_sweep: BatchQueue,
    /// Those of which everything but the service is known: a glance does.
    pub(super) rolling_out: BatchQueue,
    /// One sweep or glance at a time.
    pub(super) looking: tokio::sync::Mutex<()>,
    /// What was last seen of locations, where nothing was changed since.
    pub(super) last_observed: Mutex<HashMap<String, (ObservedResources, Instant)>>,
    addresses: observe::Addresses,
    /// The configs that the statuses were computed from.
    pub(super) configs_told: Mutex<HashMap<String, Result<Location, Invalid>>>,
    /// Locations whose last passes failed.
    pub(super) failures: Mutex<HashMap<String, Failing>>,
    /// Last words by repository and revision: they are read once.
    failure_excerpt: Mutex<HashMap<String, (String, String)>>,
    image_looks: ImageLooks,
}

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    pub fn new(context: Context<B, C, W>) -> Self {
        Self {
            context,
            snapshot: RwLock::default(),
            last_configs: LastConfigs::default(),
            unread: RwLock::default(),
            owned: RwLock::default(),
            observations: ObservationStore::default(),
            awaiting_sweep: BatchQueue::default(),
            rolling_out: BatchQueue::default(),
            looking: tokio::sync::Mutex::default(),
            last_observed: Mutex::default(),
            addresses: observe::Addresses::default(),
            configs_told: Mutex::default(),
            failures: Mutex::default(),
            failure_excerpt: Mutex::default(),
            image_looks: ImageLooks::starting_at(Instant::now()),
        }
    }

    /// Whoever follows this branch.
    pub fn followers(&self, key: &RefKey) -> Vec<String> {
        let snapshot = self.snapshot();
        let locations = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        locations
            .filter(|location| location.git_url == key.git_url && location.reference == key.reference)
            .map(|location| location.name.to_string())
            .collect()
    }

    /// How urgent a change of this location is: one that serves nobody yet is nobody's loss while it waits.
    pub fn urgency(&self, name: &str) -> Priority {
        let serves = self.context.statuses.read(name, |status| status.serving.is_some()).unwrap_or(false);
        if serves { Priority::Commit } else { Priority::Cold }
    }

    pub fn session(&self, priority: Priority) -> Session<'_> {
        let context = &self.context;
        Session {
            clients: &context.clients,
            deployment: &context.deployment,
            cache: &context.cache,
            limits: &context.limits,
            fence: context.lease.fence(),
            priority,
        }
    }

    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.last_configs.learn(&snapshot);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the configs cannot be read at present; nothing is deleted on that.
    pub fn set_unread(&self, why: Option<String>) {
        *self.unread.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// What was remembered of the time before this process held the lease, another one may have changed.
    pub async fn take_over(&self) -> Result<(), PublishError> {
        self.context.cache.clear();
        self.observations.clear();
        lock(&self.last_observed).clear();
        self.context.workspace.reread().await
    }

    fn hold(&self, name: &str, desired: &Wanted) -> Option<Hold> {
        let own = match desired {
            Wanted::Present(location, ..) => location.mode,
            Wanted::Invalid(_) | Wanted::Absent => Mode::Enforce,
        };
        match own.max(self.context.settings.mode) {
            Mode::Suspended => return Some(Hold::Suspended),
            Mode::Detect => return Some(Hold::Detect),
            Mode::Enforce => {}
        }
        match self.context.lease.state() {
            LeaseState::Held => {}
            LeaseState::Standby { holder } => return Some(Hold::Standby { holder }),
            LeaseState::Unknown => return Some(Hold::Unleased("it was not read yet".to_owned())),
            LeaseState::Unreadable(why) => return Some(Hold::Unleased(why)),
        }
        match desired {
            Wanted::Absent => self.last_configs.hold(name).or_else(|| self.prune_guard(name).map(Hold::PruneBlocked)),
            Wanted::Present(..) | Wanted::Invalid(_) => None,
        }
    }

    /// Whether this process may write anything at all.
    fn may_protect(&self) -> bool {
        self.context.settings.mode == Mode::Enforce && self.context.lease.state() == LeaseState::Held
    }

    fn prune_guard(&self, name: &str) -> Option<String> {
        let snapshot = self.snapshot()?;
        let owned = self.owned.read().unwrap_or_else(PoisonError::into_inner);
        let Some(observed) = &*owned else { return Some("live state has not been read yet".to_owned()) };
        let unread = self.unread.read().unwrap_or_else(PoisonError::into_inner);
        let desired = snapshot.locations.keys().chain(snapshot.claimed.keys()).map(ToString::to_string).collect();
        let inventory = Inventory {
            observed,
            desired: &desired,
            confirmed: &snapshot.prune,
            allowed: self.context.settings.allow_prune,
            unread: unread.as_deref(),
        };
        prune_guard(inventory, name)
    }

    fn own(&self, name: &str, owned: bool) {
        if let Some(names) = &mut *self.owned.write().unwrap_or_else(PoisonError::into_inner) {
            if owned {
                names.insert(name.to_owned());
            } else {
                names.remove(name);
            }
        }
    }

    /// Observes and plans without touching anything, images included.
    pub async fn preview(&self, name: &str) -> Result<Plan, StepError> {
        let session = self.session(Priority::Commit);
        let observed = match self.observe(session, name).await? {
            Some(seen) => seen.observed,
            None => ObservedResources::default(),
        };
        let desired = match self.desired(name, &observed) {
            Wanted::Present(location, image, commit) => {
                let image = match self.request(&location, commit.as_deref(), &observed) {
                    Some(request) if matches!(*image, ImageKnown::Building(_)) => self.find_image(&request).await,
                    _ => *image,
                };
                let image = match location.image_tag() {
                    Some(tag) => self.tagged_now(&location, tag, &observed).await,
                    None => image,
                };
                Wanted::Present(location, Box::new(image), commit)
            }
            other => other,
        };
        let answers = self.answers(session, name, &desired, &observed).await?;
        Ok(self.plan(session, name, &desired, &observed, &answers, None).await.0)
    }

    /// What code servers say at every address that is the location's, or that it is published at.
    async fn answers(
        &self,
        session: Session<'_>,
        name: &str,
        desired: &Wanted,
        observed: &ObservedResources,
    ) -> Result<Vec<Answered>, CallError> {
        let code_server = &self.context.code_server;
        let mut answers = self.addresses.answers(session, code_server, name, observed).await?;
        if let Wanted::Present(..) = desired
            && self.context.deployment.address == Address::Discovered
            && let Some(published) = self.context.workspace.entry(name).await
        {
            let elsewhere = observe::at_published(code_server, &published, observed, &answers).await;
            answers.extend(elsewhere);
        }
        Ok(answers)
    }

    async fn find_image(&self, request: &Request) -> ImageKnown {
        match self.context.images.find(request).await {
            Ok(Some(image)) => ImageKnown::Ready(image),
            Ok(None) => ImageKnown::Building("the image is not built yet".to_owned()),
            Err(error) => ImageKnown::Failed(error.to_string()),
        }
    }

    /// Plans, and where a rollout fails reads why and plans again with it.
    async fn plan(
        &self,
        session: Session<'_>,
        name: &str,
        desired: &Wanted,
        observed: &ObservedResources,
        answers: &[Answered],
        hold: Option<&Hold>,
    ) -> (Plan, Result<(), planner::Violation>) {
        let (workspace, view) = self.context.workspace.observed(name).await;
        let steady_for = match self.context.statuses.since(name, ConditionKind::Deployed) {
            Some((ConditionStatus::True, since)) => {
                Duration::try_from(self.context.clock.now().duration_since(since)).unwrap_or_default()
            }
            _ => Duration::ZERO,
        };
        let mut words: Option<String> = None;
        loop {
            let input = Input {
                name,
                desired: match desired {
                    Wanted::Present(location, image, _) => Desired::Present { location, image: image.state() },
                    Wanted::Invalid(invalid) => Desired::Invalid(invalid),
                    Wanted::Absent => Desired::Absent,
                },
                deployment: &self.context.deployment,
                observed,
                workspace: &workspace,
                webserver: match &view {
                    View::NotConfigured => WebserverState::NotConfigured,
                    View::Unreachable(message) => WebserverState::Unreachable(message),
                    View::Locations(_) => WebserverState::Answers,
                },
                answers,
                failure_excerpt: words.as_deref(),
                steady_for,
                now_ms: self.context.clock.now().as_millisecond(),
                hold,
                may_protect: self.may_protect(),
            };
            let plan = planner::plan(input);
            let linted = planner::lint(&input, &plan);
            match &plan.report.failing {
                Some(revision) if words.is_none() => {
                    words = Some(self.failure_excerpt(session, name, observed, revision).await)
                }
                _ => return (plan, linted),
            }
        }
    }

    async fn failure_excerpt(
        &self,
        session: Session<'_>,
        name: &str,
        observed: &ObservedResources,
        revision: &str,
    ) -> String {
        if let Some((of, words)) = lock(&self.failure_excerpt).get(name)
            && of == revision
        {
            return words.clone();
        }
        match observe::failure_excerpt(session, name, observed, revision).await {
            Ok(words) => {
                if !words.is_empty() {
                    lock(&self.failure_excerpt).insert(name.to_owned(), (revision.to_owned(), words.clone()));
                }
                words
            }
            Err(error) => format!("its log could not be read: {error}"),
        }
    }

    /// One pass. Never fails itself: what went wrong is in the status and in the outcome.
    pub async fn pass(&self, name: &str, priority: Priority) -> Outcome {
        let outcome = match self.rounds(self.session(priority), name).await {
            Ok(outcome) => outcome,
            Err(error) => self.failed(name, &error),
        };
        if !matches!(outcome, Outcome::Failed(_)) {
            lock(&self.failures).remove(name);
        }
        outcome
    }

    async fn rounds(&self, session: Session<'_>, name: &str) -> Result<Outcome, StepError> {
        let mut applied: Option<Vec<Step>> = None;
        for _ in 0..ROUNDS {
            let urgency = if applied.is_some() { session.priority.begun() } else { session.priority };
            let Some(Observation { mut observed, at, whole }) = self.observe(session, name).await? else {
                let remembered = lock(&self.last_observed).contains_key(name);
                let waiting = if remembered { &self.rolling_out } else { &self.awaiting_sweep };
                return Ok(waiting.push(name, urgency));
            };
            let mut desired = self.desired(name, &observed);
            let hold = self.hold(name, &desired);
            if let Wanted::Present(location, image, commit) = &mut desired {
                self.learn_image(location, image, commit.as_deref(), &observed, hold.as_ref(), session.priority).await;
            }
            let answers = self.answers(session, name, &desired, &observed).await?;
            let (mut plan, mut linted) = self.plan(session, name, &desired, &observed, &answers, hold.as_ref()).await;
            if session.priority == Priority::Garbage && self.may_look_at_images(name, &plan, &observed) {
                observed.images = self.images_of(session, &observed).await;
                (plan, linted) = self.plan(session, name, &desired, &observed, &answers, hold.as_ref()).await;
                if !whole && plan.garbage.iter().any(|step| step.kind() == Kind::ImageRepository) {
                    // An image does not come back: everything that may name it is read afresh.
                    lock(&self.last_observed).remove(name);
                    continue;
                }
                self.image_looks.done(name, Instant::now());
                observed.images = None;
            }
            let waits = plan.steps.is_empty() && plan.report.look_again.is_some();
            // What a glimpse leads to is looked at properly before it is acted upon, but for a new revision on a service that was
            // read just now, and for what this process makes step by step: making what is there changes nothing.
            let enough = whole
                || waits
                || match session.priority {
                    Priority::Commit => only_deploys(&plan),
                    Priority::Making | Priority::Cold => only_makes(&plan),
                    Priority::Garbage => plan.steps.is_empty(),
                    Priority::Again | Priority::Resync => false,
                };
            if !enough {
                // Nothing is remembered: the next look reads everything.
                lock(&self.last_observed).remove(name);
                if session.priority > Priority::Again {
                    return Ok(self.awaiting_sweep.push(name, urgency));
                }
                continue;
            }
            if let Wanted::Absent = desired
                && plan.is_empty()
            {
                self.own(name, false);
                if self.context.statuses.get(name).is_some() {
                    self.context.recorder.record(NewEvent::of(name, EventReason::Removed, "all of it is gone"));
                }
                self.forget(name);
                return Ok(Outcome::Gone);
            }
            if let Err(violation) = linted {
                tracing::error!(location = name, %violation, "the plan is unsafe and was not executed");
                let message = format!("unsafe plan refused: {violation}");
                self.record(name, &desired, &plan, &observed, Some((Reason::NotConverging, message)));
                return Ok(Outcome::Failed(NOT_CONVERGING));
            }
            if applied.as_ref().is_some_and(|applied| repeats(&plan.steps, applied)) && only_reloads_an_error(&plan) {
                // The webserver's own words say more than that asking once more did not help.
                self.record(name, &desired, &plan, &observed, None);
                return Ok(Outcome::Waiting(plan.report.look_again.unwrap_or(NOT_CONVERGING)));
            }
            let futile = match &applied {
                Some(applied) if repeats(&plan.steps, applied) => {
                    let steps: Vec<String> = plan.steps.iter().map(summary).collect();
                    Some(format!("the same plan came back after it was applied: {}", steps.join("; ")))
                }
                _ => plan.aws_mismatch.clone().filter(|_| plan.steps.is_empty()),
            };
            if let Some(message) = futile {
                tracing::error!(location = name, "not converging: {message}");
                self.record(name, &desired, &plan, &observed, Some((Reason::NotConverging, message)));
                return Ok(Outcome::Failed(NOT_CONVERGING));
            }
            self.record(name, &desired, &plan, &observed, None);
            if plan.steps.is_empty() && session.priority == Priority::Garbage && !plan.garbage.is_empty() {
                let garbage = self.unneeded(name, plan.garbage).await;
                return self.execute(session, name, &garbage, observed).await.map(|()| Outcome::Converged);
            }
            if plan.steps.is_empty() {
                let looks = self.may_look_at_images(name, &plan, &observed);
                lock(&self.last_observed).insert(name.to_owned(), (observed, at));
                if !plan.garbage.is_empty() || looks {
                    self.context.queue.add_now(name, Priority::Garbage);
                }
                let settled = at_rest(&plan, hold.as_ref());
                return Ok(plan.report.look_again.map_or(settled, Outcome::Waiting));
            }
            self.own(name, true);
            if plan.steps.iter().any(|step| matches!(step, Step::Service(service::Change::Redeploy { .. }))) {
                // How it goes this time may have another reason.
                lock(&self.failure_excerpt).remove(name);
            }
            self.execute(session, name, &plan.steps, observed).await?;
            applied = Some(plan.steps);
        }
        Ok(Outcome::Waiting(NEXT_TURN))
    }

    /// How far the image is: one that is built, or one that is given by tag.
    async fn learn_image(
        &self,
        location: &Location,
        image: &mut ImageKnown,
        commit: Option<&str>,
        observed: &ObservedResources,
        hold: Option<&Hold>,
        priority: Priority,
    ) {
        if let Some(tag) = location.image_tag() {
            *image = self.tagged(location, tag, observed, hold);
            return;
        }
        self.context.images.forget_tag(location.name.as_str());
        if let Some(request) = self.request(location, commit, observed) {
            *image = match hold {
                Some(Hold::Suspended) => ImageKnown::Building("suspended".to_owned()),
                Some(_) => self.find_image(&request).await,
                None => match self.context.images.ensure(&request, priority.begun()) {
                    ImageProgress::Ready(image) => ImageKnown::Ready(image),
                    ImageProgress::Building(text) => ImageKnown::Building(text),
                    ImageProgress::Failed(text) => ImageKnown::Failed(text),
                },
            };
        }
    }

    /// A run that is queued starts from the run definition of the moment it was created.
    async fn unneeded(&self, name: &str, mut garbage: Vec<Step>) -> Vec<Step> {
        let of_runs = |step: &Step| matches!(step, Step::RunDefinition(_));
        if garbage.iter().any(of_runs) && !self.context.workspace.has_no_runs(name).await {
            garbage.retain(|step| !of_runs(step));
        }
        garbage
    }

    /// Whether it is time to look which images of a location may go: it has some, is wanted, rests, and nobody forbids it.
    fn may_look_at_images(&self, name: &str, plan: &Plan, observed: &ObservedResources) -> bool {
        let collects = plan.collects && observed.image_repository.is_some();
        collects && self.image_looks.is_due(name, Instant::now())
    }

    /// The images of a location's repository. Where they cannot be read, none goes; nothing else is wrong with the location.
    async fn images_of(&self, session: Session<'_>, observed: &ObservedResources) -> Option<Vec<Image>> {
        let location = observed.image_repository.as_ref()?;
        aws::image_repository::images(session, &location.name)
            .await
            .inspect_err(|error| tracing::warn!(location = %location.name, %error, "its images were not read"))
            .ok()
    }

    /// Applies steps to what is `live`. Where they make things and do nothing else, what is live then is known from AWS's answers and
    /// kept; in every other case it is to be looked at.
    async fn execute(
        &self,
        session: Session<'_>,
        name: &str,
        steps: &[Step],
        mut observed: ObservedResources,
    ) -> Result<(), StepError> {
        let mut result = Ok(());
        let mut known = true;
        self.observations.change(name);
        lock(&self.last_observed).remove(name);
        for step in steps {
            let description = summary(step);
            result = execute(session, &self.context.workspace, step, &mut observed).await;
            known &= match &result {
                Ok(()) => matches!(step, Step::Workspace(_)) || (step.makes() && observed.has(step.kind())),
                Err(StepError::Call(error)) => error.refused_for_now(),
                Err(StepError::Publish(_)) => true,
            };
            if result.is_err() {
                break;
            }
            self.applied(name, step, &description);
        }
        self.observations.change(name);
        if known {
            lock(&self.last_observed).insert(name.to_owned(), (observed, Instant::now()));
        }
        result
    }

    fn forget(&self, name: &str) {
        self.context.statuses.remove(name);
        self.context.images.forget(name);
        lock(&self.failure_excerpt).remove(name);
        lock(&self.last_observed).remove(name);
        lock(&self.configs_told).remove(name);
        self.addresses.forget(name);
        self.image_looks.forget(name);
    }
}

/// How a pass ends that has nothing to execute.
fn at_rest(plan: &Plan, hold: Option<&Hold>) -> Outcome {
    match hold {
        _ if plan.later.is_empty() => Outcome::Converged,
        Some(Hold::Standby { .. } | Hold::Unleased(_)) => Outcome::Unleased,
        _ => Outcome::Held,
    }
}

/// Whether this is what was applied just now, once more.
fn repeats(steps: &[Step], applied: &[Step]) -> bool {
    steps.len() == applied.len() && steps.iter().zip(applied).all(|(step, applied)| step.repeats(applied))
}

/// Whether nothing is to be done but to let the webserver try again to load what it could not.
fn only_reloads_an_error(plan: &Plan) -> bool {
    let reloads = |step: &Step| matches!(step, Step::Workspace(workspace::Change::Reload { .. }));
    let failed = plan.report.conditions.iter().any(|condition| condition.reason == Reason::WebserverError);
    failed && plan.steps.iter().all(reloads)
}

/// Whether a plan only makes what is not there, and publishes what answers.
fn only_makes(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| step.makes() || matches!(step, Step::Workspace(_)))
}

/// Whether a plan does no more than bring out another revision.
fn only_deploys(plan: &Plan) -> bool {
    let deploys = |step: &Step| {
        matches!(
            step,
            Step::RunDefinition(_)
                | Step::TaskDefinition(_)
                | Step::Service(service::Change::Deploy { .. })
                | Step::Workspace(_)
        )
    };
    !plan.steps.is_empty() && plan.steps.iter().all(deploys)
}
