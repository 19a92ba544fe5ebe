//! Planning: a pure function from what is wanted and what is seen to the steps between them, and a report of what is
//! waited for. No clock, no client, no randomness: even the time is an argument.

mod assess;
mod hold;
mod lint;
mod proof;
#[cfg(test)]
mod properties;
mod protection;
pub mod render;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use codeloc_crds::Location;

use crate::dagster::Answer;
use crate::deployment::{Address, Deployment};
use crate::desired::Invalid;
use crate::image::Image;
use crate::names;
use crate::resources::service::{self, Phase};
use crate::resources::task_definition::Attempt;
use crate::resources::{
    Deferred, DesiredResources, Kind, ObservedResources, Step, discovery, image_repository, log_group, role,
    run_definition, scaling, task_definition, workspace,
};
use crate::shared::Shared;
use crate::status::{Condition, Health, Sync};
use crate::tags::{self, Owner};

pub use hold::Hold;
pub use lint::{Violation, lint};

/// ECS registers a task in Cloud Map within seconds of its start.
const UNREGISTERED: Duration = Duration::from_secs(5 * 60);

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Everything a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub name: &'a str,
    pub desired: Desired<'a>,
    pub deployment: &'a Deployment,
    pub observed: &'a ObservedResources,
    pub workspace: &'a workspace::Observed,
    /// Whether a webserver is configured and answers.
    pub webserver: WebserverState<'a>,
    /// What each instance in Cloud Map said of itself.
    pub answers: &'a [Answered],
    /// Why tasks of the failing revision ended, once the report asked for it.
    pub failure_excerpt: Option<&'a str>,
    /// How long the wanted revision has been steady.
    pub steady_for: Duration,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Why nothing of the plan may be executed.
    pub hold: Option<&'a Hold>,
    /// Whether the tag that keeps a location may be written although a hold allows nothing else: only its config holds it, not the daemon's
    /// own mode or a lease that another one has.
    pub may_protect: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Desired<'a> {
    Present {
        location: &'a Location,
        image: ImageState<'a>,
    },
    /// The config does not pass: nothing is changed and nothing deleted.
    Invalid(&'a Invalid),
    /// The config is gone.
    Absent,
}

#[derive(Clone, Copy, Debug)]
pub enum ImageState<'a> {
    Ready(&'a Image),
    /// The last one that is known, and why no newer one is looked for.
    Kept(&'a Image, &'a str),
    /// No commit yet, and why.
    Resolving(&'a str),
    Unresolved(&'a str),
    /// With what the builder is at.
    Building(&'a str),
    Failed(&'a str),
}

#[derive(Clone, Copy, Debug)]
pub enum WebserverState<'a> {
    NotConfigured,
    Answers,
    Unreachable(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub address: SocketAddr,
    pub answer: Answer,
}

/// What to do now, what will follow, and how things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Can be executed at once, in this order.
    pub steps: Vec<Step>,
    /// Will follow once what is waited for is there, or never, where AWS has no call for it. Shown, never executed.
    pub later: Vec<Step>,
    /// What nobody needs any more, where everything else is as it should be. Taken away behind everything else that there is to do, and
    /// no difference from what is wanted.
    pub garbage: Vec<Step>,
    /// Whether garbage may be looked for: the location is wanted, rests, and nothing holds it.
    pub collects: bool,
    /// What AWS keeps in other words than it was given: no step would change that, so none is planned.
    pub aws_mismatch: Option<String>,
    pub report: Report,
}

#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub sync: Sync,
    pub health: Health,
    pub message: String,
    pub conditions: Vec<Condition>,
    pub revision: Option<String>,
    pub serving: Option<String>,
    pub address: Option<String>,
    /// The revision that fails to roll out: worth reading why.
    pub failing: Option<String>,
    /// When to look again, where something is waited for.
    pub look_again: Option<Duration>,
}

impl Plan {
    fn nothing(report: Report) -> Self {
        Self::of(vec![], vec![], report)
    }

    fn of(steps: Vec<Step>, later: Vec<Step>, report: Report) -> Self {
        Self { steps, later, garbage: vec![], collects: false, aws_mismatch: None, report }
    }

    /// Whether there is nothing to do, and nothing is waited for.
    pub fn is_settled(&self) -> bool {
        self.is_empty() && self.report.look_again.is_none() && self.aws_mismatch.is_none()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.later.is_empty()
    }
}

/// The steps from what is seen to what is wanted.
pub fn plan(input: Input<'_>) -> Plan {
    let mut plan = unheld(input);
    match (input.hold, input.desired) {
        // A config that does not pass has a plan with nothing in it, and a reason that is worth more.
        (None, _) | (Some(_), Desired::Invalid(_)) => plan,
        (Some(hold), Desired::Present { location, .. }) => {
            if *hold == Hold::Suspended {
                // Its image is not asked for: what would be done is not known.
                plan.steps.clear();
                plan.later.clear();
            }
            let mut plan = plan.held(hold);
            if location.protect && input.may_protect {
                plan.steps = protection::steps(&input, true);
            }
            plan
        }
        // What would be deleted is shown under every hold: an empty plan says that nothing is left.
        (Some(hold), Desired::Absent) => {
            let mut plan = plan.held(hold);
            // A restart no longer knows what its config said.
            if matches!(hold, Hold::Protected | Hold::Left(_)) && input.may_protect {
                plan.steps = protection::steps(&input, true);
            }
            plan
        }
    }
}

fn unheld(input: Input<'_>) -> Plan {
    match input.desired {
        Desired::Invalid(invalid) => Plan::nothing(assess::invalid(&input, invalid)),
        Desired::Absent => absent(&input),
        Desired::Present { location, image } => present(&input, location, image),
    }
}

fn present(input: &Input<'_>, location: &Location, image: ImageState<'_>) -> Plan {
    let not_owned = not_owned(input, location.adopt);
    if !not_owned.is_empty() {
        return Plan::nothing(assess::not_owned(input, &not_owned));
    }
    let observed = input.observed;
    let known = match image {
        ImageState::Ready(image) | ImageState::Kept(image, _) => Some(image),
        _ => None,
    };
    let desired = DesiredResources::new(location, known, input.deployment);

    let mut steps = Vec::new();
    steps.extend(log_group::diff(&desired.log_group, observed.log_group.as_deref()).into_iter().map(Step::LogGroup));
    if let Some(desired) = &desired.image_repository {
        let changes = image_repository::diff(desired, observed.image_repository.as_deref());
        steps.extend(changes.into_iter().map(Step::ImageRepository));
    }
    steps.extend(role::diff(&desired.role, observed.role.as_deref()).into_iter().map(Step::Role));
    if let Some(desired) = &desired.execution_role {
        steps.extend(role::diff(desired, observed.execution_role.as_deref()).into_iter().map(Step::ExecutionRole));
    }
    let discovery = discovery::diff(&desired.discovery, observed.discovery.as_deref()).into_iter().map(Step::Discovery);

    // Everything from the task definition on needs the image.
    let registry =
        observed.discovery.as_ref().map_or(Deferred::AfterApply, |observed| Deferred::Known(observed.arn.clone()));
    let wanted = task_definition::equal(&desired.task_definition, &observed.task_definitions, observed.runs());
    let context = service::Context {
        revision: &desired.task_definition.revision,
        wanted,
        task_definitions: &observed.task_definitions,
        registry: &registry,
        passes: input.failure_excerpt.is_some_and(service::stop_reason::passes),
        unregistered: unregistered(input),
        now_ms: input.now_ms,
    };
    let service_plan = service::diff(&desired.service, observed.service.as_deref(), context);
    let held = matches!(service_plan.phase, Phase::Held { .. });
    let run = desired.run_definition.as_ref().filter(|_| !held);
    let compared = [wanted, run.and_then(|run| run_definition::equal(run, &observed.run_definitions))];
    steps.extend(protection::of_leftovers(input, location.protect, &desired, compared));
    let unlike = desired.task_definition.aws_mismatch(&observed.task_definitions).filter(|_| !held);
    let mut deploy = Vec::new();
    match wanted {
        None if !held && unlike.is_none() => {
            deploy.push(Step::TaskDefinition(register(input, &desired.task_definition)))
        }
        Some(wanted) if service_plan.attempts => {
            deploy.push(Step::TaskDefinition(attempt(input, &desired.task_definition, wanted)));
        }
        _ => {}
    }
    let untagged = wanted.and_then(|wanted| task_definition::tag(&desired.task_definition, wanted));
    deploy.extend(untagged.map(Step::TaskDefinition));
    deploy.extend(discovery);
    // Scaling that is no longer wanted goes before the count is set by hand; scaling that is new comes after the service.
    let scaling: Vec<Step> =
        scaling::diff(desired.scaling.as_ref(), observed.scaling.as_deref()).into_iter().map(Step::Scaling).collect();
    let service = service_plan.changes.into_iter().map(Step::Service);
    let service = service.filter(|step| unlike.is_none() || !step.rolls_out());
    // Runs need theirs once the new revision serves, which takes longer than this call: the rollout begins first.
    let wanted = desired.run_definition.iter().filter(|_| !held);
    let run_unlike =
        desired.run_definition.as_ref().and_then(|desired| desired.aws_mismatch(&observed.run_definitions));
    let runs = wanted.flat_map(|desired| runs(desired, observed, run_unlike.is_some()));
    if desired.scaling.is_none() {
        deploy.extend(scaling);
        deploy.extend(service);
        deploy.extend(runs);
    } else {
        deploy.extend(service);
        deploy.extend(runs);
        deploy.extend(scaling);
    }

    let revision = desired.task_definition.revision.known();
    let proven = proof::proven(input, revision);
    let entry = proven.as_ref().map(|proven| proven.entry.clone());
    let workspace_step = proof::change(input, proven.as_ref(), revision);

    let mut later = Vec::new();
    if known.is_some() && service_plan.phase != Phase::Draining {
        steps.extend(deploy);
    } else {
        later.extend(deploy);
    }
    match workspace_step {
        Some(change) => steps.push(Step::Workspace(change)),
        // Not proven yet, but it will be published when it is.
        None if entry.is_none() && input.workspace.entry.is_none() && !held => {
            let (host, port) = (host(input.deployment, input.name), input.deployment.port);
            later.push(Step::Workspace(workspace::Change::Publish {
                name: input.name.to_owned(),
                host,
                port,
                from: None,
            }));
        }
        None => {}
    }
    let aws_mismatch = unlike.or(run_unlike);
    let (told, steps): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(Step::is_report_only);
    let synced = steps.is_empty() && later.is_empty() && aws_mismatch.is_none();
    let report = assess::present(input, image, &desired, &service_plan.phase, proven.as_ref(), synced);
    let report = add_unchangeable(report, &told, aws_mismatch.as_deref());
    later.extend(told);
    let mut plan = Plan { aws_mismatch, ..Plan::of(steps, later, report) };
    if plan.is_settled() {
        plan.collects = true;
        plan.garbage = garbage(input, desired.execution_role.is_some());
    }
    plan
}

/// Steps for the definition of runs; `futile` is whether registering it once more would not help.
fn runs(desired: &run_definition::Desired, observed: &ObservedResources, futile: bool) -> impl Iterator<Item = Step> {
    let registers = |change: &run_definition::Change| matches!(change, run_definition::Change::Register { .. });
    let changes = run_definition::diff(desired, &observed.run_definitions).into_iter();
    changes.filter(move |change| !(futile && registers(change))).map(Step::RunDefinition)
}

/// In its own words, where it is worth more than the rest: what AWS has no call for, and what it keeps otherwise than it was given.
fn add_unchangeable(mut report: Report, told: &[Step], aws_mismatch: Option<&str>) -> Report {
    if let (Some(first), None) = (told.first(), report.look_again) {
        report.sync = Sync::OutOfSync;
        let description = first.describe();
        report.message = format!("{} {}: {}", first.kind().title(), description.name, description.reason);
    }
    if let Some(unlike) = aws_mismatch {
        unlike.clone_into(&mut report.message);
    }
    report
}

fn register(input: &Input<'_>, desired: &task_definition::Desired) -> task_definition::Change {
    let runs = input.observed.runs();
    task_definition::Change::Register {
        desired: Box::new(desired.clone()),
        from: runs.map(|runs| task_definition::differing(desired, Some(runs))),
        attempt: mark(input, desired),
    }
}

/// One that is registered is rolled out: it is told of the attempt first.
fn attempt(
    input: &Input<'_>,
    desired: &task_definition::Desired,
    registered: &task_definition::Observed,
) -> task_definition::Change {
    task_definition::Change::Attempt {
        arn: registered.arn.clone(),
        attempt: mark(input, desired),
        fields: task_definition::differing(desired, input.observed.runs()),
    }
}

fn mark(input: &Input<'_>, desired: &task_definition::Desired) -> Attempt {
    let served_before = input.observed.served_before(desired.commit());
    service::attempt(input.observed.service.as_deref(), served_before, input.now_ms)
}

/// Whether tasks have been running for long, and Cloud Map lists none of them.
fn unregistered(input: &Input<'_>) -> bool {
    let runs = input.observed.service.as_ref().is_some_and(|service| service.exists() && service.running > 0);
    runs && input.observed.discovery.is_some() && input.answers.is_empty() && input.steady_for >= UNREGISTERED
}

/// Old task definitions: each commit leaves one of the code server and one of runs. Then the images that those named.
fn garbage(input: &Input<'_>, has_execution_role: bool) -> Vec<Step> {
    let Some(service) = &input.observed.service else { return vec![] };
    let ours = |observed: &&Shared<task_definition::Observed>| {
        tags::owner(&observed.tags, &input.deployment.id) == Owner::Ours(input.name) && !service.names(observed)
    };
    let mut unused: Vec<&Shared<task_definition::Observed>> =
        input.observed.task_definitions.iter().filter(ours).collect();
    unused.sort_by_key(|observed| std::cmp::Reverse(observed.number));
    let old: BTreeSet<&str> =
        unused.into_iter().skip(task_definition::KEPT).map(|observed| observed.arn.as_str()).collect();
    let (gone, stay): (Vec<_>, Vec<_>) =
        input.observed.task_definitions.iter().partition(|observed| old.contains(observed.arn.as_str()));
    // A run that is queued or runs may still name one that no code server names any more: whoever executes this asks for those.
    let named: BTreeSet<String> = stay.into_iter().filter_map(|observed| observed.run_family()).collect();
    let unnamed = input.observed.run_definitions.iter().filter(|observed| {
        tags::owner(&observed.tags, &input.deployment.id) == Owner::Ours(input.name)
            && !named.contains(observed.family())
    });
    let executes = |observed: &role::Observed| {
        let mut definitions = input.observed.task_definitions.iter().chain(&input.observed.run_definitions);
        definitions.any(|one| one.content.as_ref().is_none_or(|content| content.execution_role_arn == observed.arn))
    };
    let ours = |observed: &&Shared<role::Observed>| {
        tags::owner(&observed.tags, &input.deployment.id) == Owner::Ours(input.name)
    };
    // A location that has no secrets any more: its execution role goes once nothing can start with it.
    let role =
        input.observed.execution_role.iter().filter(ours).filter(|observed| !has_execution_role && !executes(observed));
    let server = |observed: &Shared<task_definition::Observed>| {
        Step::TaskDefinition(task_definition::Change::Deregister { arn: observed.arn.clone() })
    };
    gone.into_iter()
        .map(server)
        .chain(unnamed.map(|observed| Step::RunDefinition(run_definition::delete(observed))))
        .chain(role.map(|observed| Step::ExecutionRole(role::delete(observed))))
        .chain(unused_images(input))
        .collect()
}

/// Images that nothing names; those of task definitions that go now have their turn at the next look. Where anything that is registered cannot be read in
/// full, or a deployment runs what is registered no more, nobody knows what it names, and all stay.
fn unused_images(input: &Input<'_>) -> Option<Step> {
    let ObservedResources { service, image_repository, images, task_definitions, run_definitions, .. } = input.observed;
    let (service, location, images) = (service.as_ref()?, image_repository.as_ref()?, images.as_ref()?);
    if tags::owner(&location.tags, &input.deployment.id) != Owner::Ours(input.name) {
        return None;
    }
    let deployed = service.deployments.iter().map(|deployment| &deployment.task_definition);
    let mut deployed = deployed.chain([&service.task_definition]);
    if !deployed.all(|arn| task_definitions.iter().any(|observed| observed.arn == *arn)) {
        return None;
    }
    let mut named = Vec::new();
    for observed in task_definitions.iter().chain(run_definitions) {
        match &observed.content {
            Some(content) if observed.foreign.is_empty() => named.push(content.image.as_str()),
            _ => return None,
        }
    }
    let grace_ms = i64::from(input.deployment.image_grace_days) * DAY_MS;
    let digests = image_repository::garbage::unused(images, &named, input.now_ms - grace_ms);
    let name = location.name.clone();
    (!digests.is_empty()).then_some(Step::ImageRepository(image_repository::Change::DeleteImages { name, digests }))
}

/// Deleting runs backwards: the workspace entry first. Only what carries our tag goes.
fn absent(input: &Input<'_>) -> Plan {
    let observed = input.observed;
    let ours = |tags: &tags::Tags| tags::owner(tags, &input.deployment.id) == Owner::Ours(input.name);
    let service = observed.service.as_ref().filter(|service| service.exists() && ours(&service.tags));

    let mut steps = Vec::new();
    if input.workspace.entry.is_some() {
        steps.push(Step::Workspace(workspace::Change::Remove { name: input.name.to_owned() }));
    }
    // A target is ours by its service's name. Where the service was deleted by hand it is left over, and goes too.
    let strange = observed.service.as_deref().is_some_and(service::Observed::exists) && service.is_none();
    if !strange {
        steps.extend(observed.scaling.iter().map(|observed| Step::Scaling(scaling::delete(observed))));
    }
    let active = service.iter().filter(|service| service.status == service::Status::Active);
    steps.extend(active.map(|observed| Step::Service(service::delete(observed))));

    // What tasks use goes only when there are none left.
    let mut rest = Vec::new();
    rest.extend(
        observed
            .discovery
            .iter()
            .filter(|observed| ours(&observed.tags))
            .map(|observed| Step::Discovery(discovery::delete(observed))),
    );
    let definitions = observed.run_definitions.iter().filter(|observed| ours(&observed.tags));
    rest.extend(definitions.map(|observed| Step::RunDefinition(run_definition::delete(observed))));
    let definitions = observed.task_definitions.iter().filter(|observed| ours(&observed.tags));
    rest.extend(
        definitions
            .map(|observed| Step::TaskDefinition(task_definition::Change::Deregister { arn: observed.arn.clone() })),
    );
    let execution = observed.execution_role.iter().filter(|observed| ours(&observed.tags));
    rest.extend(execution.map(|observed| Step::ExecutionRole(role::delete(observed))));
    rest.extend(
        observed.role.iter().filter(|observed| ours(&observed.tags)).map(|observed| Step::Role(role::delete(observed))),
    );
    let images = observed.image_repository.iter().filter(|observed| ours(&observed.tags));
    rest.extend(images.map(|observed| Step::ImageRepository(image_repository::delete(observed))));
    rest.extend(
        observed
            .log_group
            .iter()
            .filter(|observed| ours(&observed.tags))
            .map(|observed| Step::LogGroup(log_group::delete(observed))),
    );
    let later = if service.is_some() {
        rest
    } else {
        steps.extend(rest);
        vec![]
    };
    let report = assess::absent(service.is_some(), steps.is_empty() && later.is_empty());
    let plan = Plan::of(steps, later, report);
    let told = matches!(input.hold, Some(Hold::Protected | Hold::Left(_)));
    // Its config is gone and cannot be asked any more: the wish is on the resources.
    if protection::protected(input) && !told { plan.held(&Hold::Protected) } else { plan }
}

/// Resources that have a name of this location and belong to another owner. `adopt` claims those without an owner, and never those of
/// another deployment.
fn not_owned(input: &Input<'_>, adopt: bool) -> Vec<(Kind, String)> {
    let blocks = |(kind, _, tags): &(Kind, &str, &tags::Tags)| {
        let adoptable = adopt && !tags.contains_key(tags::MANAGED_BY);
        is_one_of_its_name(*kind) && !adoptable && tags::owner(tags, &input.deployment.id) != Owner::Ours(input.name)
    };
    input.observed.owned().filter(blocks).map(|(kind, name, _)| (kind, name.to_owned())).collect()
}

/// Whether AWS has at most one resource of the kind and name, so that another owner's resource is in the way.
fn is_one_of_its_name(kind: Kind) -> bool {
    match kind {
        Kind::LogGroup
        | Kind::ImageRepository
        | Kind::Role
        | Kind::ExecutionRole
        | Kind::Discovery
        | Kind::Service
        | Kind::Scaling
        | Kind::Workspace => true,
        // codeloc registers its own revision next to those of other owners.
        Kind::TaskDefinition | Kind::RunDefinition => false,
    }
}

fn host(deployment: &Deployment, name: &str) -> String {
    match &deployment.address {
        Address::Dns { template } => {
            template.replace("{service}", &names::service(name)).replace("{namespace}", &deployment.namespace)
        }
        Address::Discovered => "(known after apply)".to_owned(),
    }
}
