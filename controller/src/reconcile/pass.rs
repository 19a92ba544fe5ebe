//! One pass on one repository: observe, plan, lint, execute, and again until a fresh observation leaves nothing to do or
//! something has to be waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::clock::Clock;
use super::execute::{Made, StepError, execute};
use super::images::{ImageProgress, Images};
use super::observe;
use super::queue::Queue;
use super::swept::Swept;
use super::tell::in_words;
use super::wanted::{ImageKnown, Wanted};
use super::workspace::{View, Workspace};
use crate::build::{Builder, Request};
use crate::dagster::{CodeServer, Webserver};
use crate::kinds::aws::{Cache, CallError, Clients, Scope, Session};
use crate::kinds::place::Place;
use crate::kinds::{Live, Step, aws, service};
use crate::lock::lock;
use crate::plan::{self, Answered, Desired, Input, Plan, WebserverState};
use crate::settings::Settings;
use crate::source::{HeadKey, Heads, Snapshot};
use crate::status::{Board, ConditionKind, Reason, Truth};

/// Rounds of observing and executing in one pass, before the queue may turn to somebody else.
const ROUNDS: usize = 8;
/// After a plan that came back although all of it was applied.
const NOT_CONVERGING: Duration = Duration::from_secs(30);
/// After a pass that used up its rounds.
const NEXT_TURN: Duration = Duration::from_secs(1);

/// Everything a pass touches: AWS, and the four other ports.
pub struct World<B, C, W> {
    pub settings: Settings,
    pub place: Place,
    pub clients: Clients,
    pub cache: Cache,
    pub images: Images<B>,
    pub heads: Heads,
    pub code_server: C,
    pub workspace: Workspace<W>,
    pub board: Board,
    pub clock: Clock,
    pub queue: Arc<Queue>,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An empty plan from a fresh observation.
    Converged,
    /// Something is on its way; look again then.
    Waiting(Duration),
    /// A call failed, or the plan does not converge.
    Failed(Duration),
    /// The repository is gone, and all of it in AWS.
    Gone,
}

pub struct Reconciler<B, C, W> {
    pub world: World<B, C, W>,
    snapshot: RwLock<Option<Arc<Snapshot>>>,
    swept: Swept,
    /// What was seen of locations for which something is waited for.
    waiting: Mutex<HashMap<String, Live>>,
    pub(super) failures: Mutex<HashMap<String, u32>>,
    /// Last words by repository and revision: they are read once.
    last_words: Mutex<HashMap<String, (String, String)>>,
}

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    pub fn new(world: World<B, C, W>) -> Self {
        Self {
            world,
            snapshot: RwLock::default(),
            swept: Swept::default(),
            waiting: Mutex::default(),
            failures: Mutex::default(),
            last_words: Mutex::default(),
        }
    }

    /// Whoever follows this branch.
    pub fn followers(&self, key: &HeadKey) -> Vec<String> {
        let snapshot = self.snapshot();
        let repositories = snapshot.iter().flat_map(|snapshot| snapshot.repositories.values().flatten());
        repositories
            .filter(|repository| repository.git_url == key.git_url && repository.reference == key.reference)
            .map(|repository| repository.name.to_string())
            .collect()
    }

    pub fn session(&self) -> Session<'_> {
        Session { clients: &self.world.clients, place: &self.world.place, cache: &self.world.cache }
    }

    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the whole deployment, and names every location there is to look at: wanted, live, or published.
    pub async fn sweep(&self) -> Result<Vec<String>, CallError> {
        let begun = self.swept.begin();
        let mut live = aws::observe(self.session(), Scope::All).await?;
        let mut names: Vec<String> = self.world.workspace.names().await;
        names.extend(
            live.iter()
                .filter(|(name, live)| live.any_owned(name, &self.world.place.deployment))
                .map(|(name, _)| name.clone()),
        );
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

    /// Observes and plans without touching anything, images included.
    pub async fn preview(&self, name: &str) -> Result<Plan, StepError> {
        let live = self.observe(name).await?;
        let wanted = match self.wanted(name) {
            Wanted::Present(repository, image, commit) => {
                let image = match self.request(&repository, commit.as_deref(), &live) {
                    Some(request) if matches!(*image, ImageKnown::Building(_)) => self.find_image(&request).await,
                    _ => *image,
                };
                Wanted::Present(repository, Box::new(image), commit)
            }
            other => other,
        };
        let answers = observe::answers(self.session(), &self.world.code_server, &live).await?;
        Ok(self.plan(name, &wanted, &live, &answers).await.0)
    }

    async fn find_image(&self, request: &Request) -> ImageKnown {
        match self.world.images.find(request).await {
            Ok(Some(image)) => ImageKnown::Ready(image),
            Ok(None) => ImageKnown::Building("the image is not built yet".to_owned()),
            Err(error) => ImageKnown::Failed(error.to_string()),
        }
    }

    async fn observe(&self, name: &str) -> Result<Live, CallError> {
        match self.swept.take(name) {
            Some(live) => Ok(live),
            None => Ok(aws::observe(self.session(), Scope::One(name)).await?.remove(name).unwrap_or_default()),
        }
    }

    /// While a rollout or a build is waited for, only the service can move: one read instead of a dozen. Whatever a glimpse
    /// leads to is looked at properly before it is acted upon.
    async fn glimpse(&self, name: &str) -> Result<Option<Live>, CallError> {
        let Some(mut live) = lock(&self.waiting).remove(name) else { return Ok(None) };
        if self.swept.holds(name) {
            return Ok(None);
        }
        if live.service.is_some() {
            live.service = service::aws::observe(self.session(), Scope::One(name)).await?.remove(name);
        }
        Ok(Some(live))
    }

    /// Plans, and where a rollout fails reads why and plans again with it.
    async fn plan(
        &self,
        name: &str,
        wanted: &Wanted,
        live: &Live,
        answers: &[Answered],
    ) -> (Plan, Result<(), plan::Violation>) {
        let (workspace, view) = self.world.workspace.live(name).await;
        let steady_for = match self.world.board.since(name, ConditionKind::Deployed) {
            Some((Truth::True, since)) => {
                Duration::try_from(self.world.clock.now().duration_since(since)).unwrap_or_default()
            }
            _ => Duration::ZERO,
        };
        let mut words: Option<String> = None;
        loop {
            let input = Input {
                name,
                desired: match wanted {
                    Wanted::Present(repository, image, _) => Desired::Present { repository, image: image.state() },
                    Wanted::Frozen(invalid) => Desired::Frozen(invalid),
                    Wanted::Absent => Desired::Absent,
                },
                place: &self.world.place,
                live,
                workspace: &workspace,
                webserver: match &view {
                    View::NotConfigured => WebserverState::NotConfigured,
                    View::Unreachable(message) => WebserverState::Unreachable(message),
                    View::Locations(_) => WebserverState::Answers,
                },
                answers,
                last_words: words.as_deref(),
                steady_for,
                now_ms: self.world.clock.now().as_millisecond(),
            };
            let plan = plan::plan(input);
            let linted = plan::lint(&input, &plan);
            match &plan.report.failing {
                Some(revision) if words.is_none() => words = Some(self.last_words(name, live, revision).await),
                _ => return (plan, linted),
            }
        }
    }

    async fn last_words(&self, name: &str, live: &Live, revision: &str) -> String {
        if let Some((of, words)) = lock(&self.last_words).get(name)
            && of == revision
        {
            return words.clone();
        }
        match observe::last_words(self.session(), name, live, revision).await {
            Ok(words) => {
                if !words.is_empty() {
                    lock(&self.last_words).insert(name.to_owned(), (revision.to_owned(), words.clone()));
                }
                words
            }
            Err(error) => format!("its log could not be read: {error}"),
        }
    }

    /// One pass. Never fails itself: what went wrong is in the status and in the outcome.
    pub async fn pass(&self, name: &str) -> Outcome {
        let outcome = match self.rounds(name).await {
            Ok(outcome) => outcome,
            Err(error) => self.failed(name, &error),
        };
        if !matches!(outcome, Outcome::Failed(_)) {
            lock(&self.failures).remove(name);
        }
        outcome
    }

    async fn rounds(&self, name: &str) -> Result<Outcome, StepError> {
        let mut applied: Option<Vec<Step>> = None;
        for _ in 0..ROUNDS {
            let (live, glimpsed) = match self.glimpse(name).await? {
                Some(live) => (live, true),
                None => (self.observe(name).await?, false),
            };
            let mut wanted = self.wanted(name);
            if let Wanted::Present(repository, image, commit) = &mut wanted
                && let Some(request) = self.request(repository, commit.as_deref(), &live)
            {
                **image = match self.world.images.ensure(&request) {
                    ImageProgress::Ready(image) => ImageKnown::Ready(image),
                    ImageProgress::Building(text) => ImageKnown::Building(text),
                    ImageProgress::Failed(text) => ImageKnown::Failed(text),
                };
            }
            let answers = observe::answers(self.session(), &self.world.code_server, &live).await?;
            let (plan, linted) = self.plan(name, &wanted, &live, &answers).await;
            let waits = plan.steps.is_empty() && plan.report.look_again.is_some();
            if glimpsed && !waits {
                continue;
            }
            if let Wanted::Absent = wanted
                && plan.is_empty()
            {
                self.forget(name);
                return Ok(Outcome::Gone);
            }
            if let Err(violation) = linted {
                tracing::error!(repository = name, %violation, "the plan is unsafe and was not executed");
                self.tell(
                    name,
                    &wanted,
                    &plan,
                    Some((Reason::NotConverging, format!("unsafe plan refused: {violation}"))),
                );
                return Ok(Outcome::Failed(NOT_CONVERGING));
            }
            if applied.as_ref() == Some(&plan.steps) {
                let fields: Vec<String> = plan.steps.iter().map(in_words).collect();
                tracing::error!(repository = name, steps = %fields.join("; "), "not converging: the same plan came back after it was applied");
                let message = format!("the same plan came back after it was applied: {}", fields.join("; "));
                self.tell(name, &wanted, &plan, Some((Reason::NotConverging, message)));
                return Ok(Outcome::Failed(NOT_CONVERGING));
            }
            self.tell(name, &wanted, &plan, None);
            if plan.steps.is_empty() {
                if waits {
                    lock(&self.waiting).insert(name.to_owned(), live);
                }
                return Ok(plan.report.look_again.map_or(Outcome::Converged, Outcome::Waiting));
            }
            self.execute(name, &plan.steps).await?;
            applied = Some(plan.steps);
        }
        Ok(Outcome::Waiting(NEXT_TURN))
    }

    async fn execute(&self, name: &str, steps: &[Step]) -> Result<(), StepError> {
        let mut made = Made::default();
        let mut result = Ok(());
        self.swept.change(name);
        for step in steps {
            let description = in_words(step);
            result = execute(self.session(), &self.world.workspace, step, &mut made).await;
            if result.is_err() {
                break;
            }
            tracing::info!(repository = name, "{description}");
        }
        self.swept.change(name);
        result
    }

    fn forget(&self, name: &str) {
        self.world.board.remove(name);
        self.world.images.forget(name);
        lock(&self.last_words).remove(name);
        lock(&self.waiting).remove(name);
    }
}
