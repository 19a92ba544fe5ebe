//! Safety rules for a plan that do not share the planner's reasoning. codeloc refuses to execute a plan that breaks one.

use super::{Answered, Input, Plan, Runs, protection};
use crate::dagster::Answer;
use crate::desired::Desired;
use crate::ids::Digest;
use crate::resources::{
    Action, Kind, Step, image_repository, role, run_definition, service, task_definition, workspace,
};
use crate::tags::{self, Owner, Tags};

/// The rule that a plan breaks. It is always a bug of the planner, and codeloc raises an alert.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a step would delete the {} of a location whose config exists", .0.title())]
    DeletesPresent(Kind),
    #[error("a step would change a location whose config is invalid")]
    ChangesInvalid,
    #[error("a step would change a location that is on hold")]
    ChangesHeld,
    #[error("a step would delete the {} while workspace.yaml contains the location", .0.title())]
    DeletesBeforeUnpublished(Kind),
    #[error("a step would delete the {} while the ECS service exists", .0.title())]
    DeletesBeforeService(Kind),
    #[error("a step would set the desired count, which Application Auto Scaling owns")]
    WritesScaledCount,
    #[error("the step for the {} comes before the step for the {}, which it needs", .0.title(), .1.title())]
    OutOfOrder(Kind, Kind),
    #[error("a step would publish a location before a task has loaded its definitions")]
    PublishesUnproven,
    #[error("a step would delete a resource as unused although it is in use or has another owner")]
    CollectsInUse,
    #[error("a step would delete a resource of a protected location")]
    DeletesProtected,
    #[error("a step would delete the {} although runs may need it", .0.title())]
    DeletesUnderRuns(Kind),
}

pub fn lint(input: &Input<'_>, plan: &Plan) -> Result<(), Violation> {
    let allowed = |step: &Step| input.may_protect && protection::only_protects(step);
    if input.hold.is_some() && !(plan.steps.iter().all(allowed) && plan.garbage.is_empty()) {
        return Err(Violation::ChangesHeld);
    }
    if plan.garbage.iter().any(|step| !is_unused(input, step)) {
        return Err(Violation::CollectsInUse);
    }
    match input.desired {
        Desired::Invalid(_) if !plan.steps.is_empty() => return Err(Violation::ChangesInvalid),
        Desired::Invalid(_) => {}
        Desired::Present(location) => {
            let scaling = &location.config.scaling;
            let scaled = scaling.min_capacity != scaling.max_capacity;
            lint_present(input, plan, scaled)?;
        }
        Desired::Absent => lint_absent(input, &plan.steps)?,
    }
    Ok(())
}

fn lint_present(input: &Input<'_>, plan: &Plan, scaled: bool) -> Result<(), Violation> {
    let steps = &plan.steps;
    for step in steps {
        let withdraws = matches!(step, Step::Workspace(workspace::Change::Withdraw { .. }));
        if step.describe().action == Action::Delete && !(withdraws && answers_for_others(input)) {
            return Err(Violation::DeletesPresent(step.kind()));
        }
        if scaled && matches!(step, Step::Service(service::Change::SetCount { .. })) {
            return Err(Violation::WritesScaledCount);
        }
        let publishes = matches!(step, Step::Workspace(workspace::Change::Publish { .. }));
        if publishes && !server_ids(input).any(|id| is_own(input, plan, id)) {
            return Err(Violation::PublishesUnproven);
        }
    }
    // A kind is created after the kinds that it needs.
    let position =
        |kind: Kind| steps.iter().position(|step| step.kind() == kind && step.describe().action == Action::Create);
    for kind in Kind::ALL {
        for need in needs(kind) {
            if let (Some(kind_at), Some(need_at)) = (position(kind), position(*need))
                && kind_at < need_at
            {
                return Err(Violation::OutOfOrder(kind, *need));
            }
        }
    }
    Ok(())
}

/// Whether codeloc may collect it: an owned task definition that no deployment of the service names, an owned run definition that the
/// running code server does not name, an owned execution role that it does not use, or unused images.
fn is_unused(input: &Input<'_>, step: &Step) -> bool {
    if let Step::RunDefinition(run_definition::Change::Deregister { arn }) = step {
        let observed = input.observed.run_definitions.iter().find(|observed| observed.arn == *arn);
        let in_use = input.observed.runs().and_then(task_definition::Observed::run_family);
        return observed
            .is_some_and(|observed| owned(input, &observed.tags) && Some(observed.family()) != in_use.as_deref());
    }
    if let Step::ExecutionRole(role::Change::Delete { .. }) = step {
        let Some(observed) = &input.observed.execution_role else { return false };
        let runs = input.observed.runs().and_then(|runs| runs.content.as_ref());
        return owned(input, &observed.tags) && runs.is_some_and(|content| content.execution_role_arn != observed.arn);
    }
    if let Step::ImageRepository(image_repository::Change::DeleteImages { name, digests }) = step {
        return are_unused(input, name, digests);
    }
    let Step::TaskDefinition(task_definition::Change::Deregister { arn }) = step else { return false };
    let observed = input.observed.task_definitions.iter().find(|observed| observed.arn == *arn);
    let named = |service: &service::Observed| {
        service.task_definition == *arn || service.deployments.iter().any(|one| one.task_definition == *arn)
    };
    observed.is_some_and(|observed| owned(input, &observed.tags))
        && !input.observed.service.as_deref().is_some_and(named)
}

/// Whether codeloc may delete the images: they are in an owned repository, at least a day old, and no definition names their digests.
fn are_unused(input: &Input<'_>, name: &str, digests: &[Digest]) -> bool {
    let is_owned =
        input.observed.image_repository.iter().any(|observed| observed.name == *name && owned(input, &observed.tags));
    let old = |digest: &Digest| {
        let mut images = input.observed.images.iter().flatten().filter(|image| image.digest == *digest);
        images.any(|image| input.now_ms - image.pushed_ms >= super::DAY_MS)
    };
    let definitions = || input.observed.task_definitions.iter().chain(&input.observed.run_definitions);
    let is_named = |digest: &Digest| {
        definitions()
            .any(|observed| observed.content.as_ref().is_none_or(|content| content.image.contains(digest.as_str())))
    };
    is_owned && definitions().next().is_some() && digests.iter().all(|digest| old(digest) && !is_named(digest))
}

/// The server ids of all instances that answered with their definitions loaded.
fn server_ids<'a>(input: &Input<'a>) -> impl Iterator<Item = &'a str> {
    input.answers.iter().filter_map(|Answered { answer, .. }| match answer {
        Answer::Loaded { server_id, .. } => Some(server_id.as_str()),
        Answer::LoadError { .. } | Answer::Unreachable { .. } => None,
    })
}

fn is_own(input: &Input<'_>, plan: &Plan, id: &str) -> bool {
    plan.report.revision.as_deref() == Some(id) || input.observed.has_revision(id)
}

/// Whether only code servers of other locations answer at the location's addresses.
fn answers_for_others(input: &Input<'_>) -> bool {
    let mut ids = server_ids(input).peekable();
    ids.peek().is_some() && ids.all(|id| !input.observed.has_revision(id))
}

/// The kinds whose resources must exist before one of this kind is created. A new kind does not compile until it is listed here.
fn needs(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::LogGroup
        | Kind::ImageRepository
        | Kind::Role
        | Kind::ExecutionRole
        | Kind::Discovery
        | Kind::Workspace => &[],
        Kind::RunDefinition => &[Kind::LogGroup, Kind::Role],
        Kind::TaskDefinition => &[Kind::LogGroup, Kind::Role, Kind::ExecutionRole],
        Kind::Service => &[Kind::TaskDefinition, Kind::Discovery],
        Kind::Scaling => &[Kind::Service],
    }
}

fn lint_absent(input: &Input<'_>, steps: &[Step]) -> Result<(), Violation> {
    let protects = |tags: &Tags| tags.get(tags::PROTECT).is_some_and(|value| value == "true");
    let mut owned_tags = input.observed.owned().map(|(.., tags)| tags).filter(|tags| owned(input, tags));
    if owned_tags.any(protects) && !steps.iter().all(protection::only_protects) {
        return Err(Violation::DeletesProtected);
    }
    let mut published = input.workspace.entry.is_some();
    let runs = may_run(input);
    // The tasks of a service need the other resources, even if the service has another owner.
    let service = input.observed.service.as_ref().is_some_and(|observed| observed.exists());
    for step in steps.iter().filter(|step| !protection::only_protects(step)) {
        match step.kind() {
            Kind::Workspace => published = false,
            kind if published => return Err(Violation::DeletesBeforeUnpublished(kind)),
            Kind::Service | Kind::Scaling => {}
            kind if service => return Err(Violation::DeletesBeforeService(kind)),
            kind if runs && step.describe().action == Action::Delete => return Err(Violation::DeletesUnderRuns(kind)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether an unfinished run could still work: its role exists, and codeloc has not waited for the maximum time.
fn may_run(input: &Input<'_>) -> bool {
    let Some(role) = &input.observed.role else { return false };
    let mark: Option<i64> = role.tags.get(tags::REMOVED_AT).and_then(|mark| mark.parse().ok());
    let waited_ms = mark.filter(|mark| (0..=input.now_ms).contains(mark)).map_or(0, |mark| input.now_ms - mark);
    let waited = waited_ms >= i64::from(input.deployment.run_wait_hours) * 3_600_000;
    let has_ended = matches!(input.runs, Runs::None | Runs::Abandoned) || (waited && owned(input, &role.tags));
    !has_ended
}

fn owned(input: &Input<'_>, tags: &Tags) -> bool {
    tags::owner(tags, &input.deployment.id) == Owner::Location(input.name)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::super::tests::model::{Desire, Model, NAME, deployment, image, location, present};
    use super::super::{Hold, Report, WebserverState};
    use super::*;
    use crate::dagster::Entry;
    use crate::desired::Invalid;
    use crate::ids::Arn;
    use crate::resources::{ObservedResources, log_group};
    use crate::status::{Health, Sync};

    fn plan_of(steps: Vec<Step>) -> Plan {
        let report = Report {
            sync: Sync::OutOfSync,
            health: Health::Progressing,
            message: String::new(),
            conditions: vec![],
            revision: None,
            serving: None,
            address: None,
            look_again: None,
        };
        Plan::of(steps, vec![], report)
    }

    /// The lint of these steps. `published`: `workspace.yaml` contains the location.
    fn check(
        desired: &Desired,
        observed: &ObservedResources,
        published: bool,
        steps: Vec<Step>,
    ) -> Result<(), Violation> {
        check_plan(desired, observed, published, &plan_of(steps))
    }

    fn check_plan(
        desired: &Desired,
        observed: &ObservedResources,
        published: bool,
        plan: &Plan,
    ) -> Result<(), Violation> {
        let deployment = deployment();
        let entry = published.then(|| Entry { host: "host".to_owned(), port: 4000 });
        let input = Input {
            name: &NAME,
            desired,
            deployment: &deployment,
            observed,
            workspace: &crate::resources::workspace::Observed { entry, web: None },
            webserver: WebserverState::NotConfigured,
            answers: &[],
            failure_excerpt: None,
            record: None,
            steady_for: Duration::ZERO,
            unlisted_for: Duration::ZERO,
            now_ms: 0,
            hold: None,
            may_protect: false,
            runs: &Runs::None,
        };
        lint(&input, plan)
    }

    fn delete_role() -> Step {
        Step::Role(role::Change::Delete { name: "codeloc-orders".to_owned(), policies: vec![], attached: vec![] })
    }

    fn delete_log_group() -> Step {
        Step::LogGroup(log_group::Change::Delete { arn: "arn".into(), name: "orders".to_owned() })
    }

    #[test]
    fn nothing_of_a_location_with_a_config_is_deleted() {
        let (location, image) = (location(512, 2, None), image(1));
        let desired = present(&location, &image);
        let result = check(&desired, &ObservedResources::default(), false, vec![delete_role()]);
        assert_eq!(result, Err(Violation::DeletesPresent(Kind::Role)));
    }

    #[test]
    fn the_running_definition_is_not_collected() {
        let mut model = Model::default();
        let (location, image) = (location(512, 2, None), image(1));
        let mut plan = model.converge(&Desire::Present(Box::new(location.clone()), image.clone()));
        let arn = model.observed.task_definitions[0].arn.clone();
        plan.garbage = vec![Step::TaskDefinition(task_definition::Change::Deregister { arn })];
        let desired = present(&location, &image);
        assert_eq!(check_plan(&desired, &model.observed, true, &plan), Err(Violation::CollectsInUse));
    }

    #[test]
    fn a_location_with_an_invalid_config_is_not_changed() {
        let invalid = Invalid { path: "p".to_owned(), message: "m".to_owned(), rendered: "r".to_owned() };
        let result = check(&Desired::Invalid(invalid), &ObservedResources::default(), false, vec![delete_role()]);
        assert_eq!(result, Err(Violation::ChangesInvalid));
    }

    #[test]
    fn the_workspace_entry_is_deleted_before_everything_else() {
        let result = check(&Desired::Absent, &ObservedResources::default(), true, vec![delete_log_group()]);
        assert_eq!(result, Err(Violation::DeletesBeforeUnpublished(Kind::LogGroup)));
    }

    #[test]
    fn nothing_of_a_protected_location_is_deleted() {
        let mut model = Model::default();
        model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
        let ObservedResources { image_repository, .. } = model.observed;
        let mut observed = ObservedResources { image_repository, ..ObservedResources::default() };
        assert_eq!(check(&Desired::Absent, &observed, false, vec![delete_role()]), Ok(()));
        let tags = &mut observed.image_repository.as_mut().unwrap().tags;
        tags.insert(tags::PROTECT.to_owned(), "true".to_owned());
        let result = check(&Desired::Absent, &observed, false, vec![delete_role()]);
        assert_eq!(result, Err(Violation::DeletesProtected));
        // The tag on a resource of another owner says nothing about this location.
        observed.image_repository.as_mut().unwrap().tags.remove(tags::MANAGED_BY);
        assert_eq!(check(&Desired::Absent, &observed, false, vec![delete_role()]), Ok(()));
    }

    #[test]
    fn resources_of_tasks_are_deleted_after_the_service() {
        let mut model = Model::default();
        model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
        let mut observed = model.observed.clone();
        // The same holds for a service without tags.
        for _ in 0..2 {
            let result = check(&Desired::Absent, &observed, false, vec![delete_role()]);
            assert_eq!(result, Err(Violation::DeletesBeforeService(Kind::Role)));
            observed.service.as_mut().unwrap().tags.clear();
        }
    }

    #[test]
    fn the_count_is_never_set_if_scaling_owns_it() {
        let (location, image) = (location(512, 2, None), image(1));
        let desired = present(&location, &image);
        let step = Step::Service(service::Change::SetCount { name: "orders-service".to_owned(), from: 2, to: 1 });
        assert_eq!(
            check(&desired, &ObservedResources::default(), false, vec![step]),
            Err(Violation::WritesScaledCount)
        );
    }

    #[test]
    fn a_task_definition_comes_after_the_role_it_names() {
        let mut model = Model::default();
        let desire = Desire::Present(Box::new(location(512, 2, None)), image(1));
        let steps = model.plan(&desire).steps;
        let register = |step: &Step| matches!(step, Step::TaskDefinition(task_definition::Change::Register { .. }));
        let (mut early, rest): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(register);
        early.extend(rest);
        let (location, image) = (location(512, 2, None), image(1));
        let desired = present(&location, &image);
        let result = check(&desired, &ObservedResources::default(), false, early);
        assert_eq!(result, Err(Violation::OutOfOrder(Kind::TaskDefinition, Kind::LogGroup)));
    }

    #[test]
    fn only_a_loaded_revision_is_published() {
        let (location, image) = (location(512, 2, None), image(1));
        let address: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let deployment = deployment();
        let (observed, workspace) = (ObservedResources::default(), crate::resources::workspace::Observed::default());
        let publish = Entry { host: "host".to_owned(), port: 4000 };
        let step = Step::Workspace(crate::resources::workspace::Change::Publish {
            name: NAME.clone(),
            host: publish.host.clone(),
            port: publish.port,
            from: None,
        });
        let silent = Answer::Unreachable { message: "refused".to_owned() };
        let foreign = Answer::Loaded { server_id: "another location's".to_owned(), repositories: vec![] };
        let answers = [silent, foreign].map(|answer| Answered { address, answer });
        let input = Input {
            name: &NAME,
            desired: &present(&location, &image),
            deployment: &deployment,
            observed: &observed,
            workspace: &workspace,
            webserver: WebserverState::NotConfigured,
            answers: &answers,
            failure_excerpt: None,
            record: None,
            steady_for: Duration::ZERO,
            unlisted_for: Duration::ZERO,
            now_ms: 0,
            hold: None,
            may_protect: false,
            runs: &Runs::None,
        };
        assert_eq!(lint(&input, &plan_of(vec![step])), Err(Violation::PublishesUnproven));
    }

    #[test]
    fn an_entry_stays_unless_another_location_answers() {
        let (location, image) = (location(512, 2, None), image(1));
        let desired = present(&location, &image);
        let (name, from, found) = (NAME.clone(), "host:4000".to_owned(), "id".to_owned());
        let step = Step::Workspace(workspace::Change::Withdraw { name, from, found });
        let result = check(&desired, &ObservedResources::default(), true, vec![step]);
        assert_eq!(result, Err(Violation::DeletesPresent(Kind::Workspace)));
    }

    #[test]
    fn under_a_hold_only_the_protection_tag_is_written() {
        let mut model = Model::default();
        model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
        let deployment = deployment();
        let (arn, name) = (Arn::from("arn"), "orders".to_owned());
        let tag = |key: &str| {
            let tags = Tags::from([(key.to_owned(), "true".to_owned())]).into();
            Step::LogGroup(log_group::Change::Tag { arn: arn.clone(), name: name.clone(), tags })
        };
        let result = |may_protect, step| {
            let input = Input {
                name: &NAME,
                desired: &Desired::Absent,
                deployment: &deployment,
                observed: &model.observed,
                workspace: &crate::resources::workspace::Observed::default(),
                webserver: WebserverState::NotConfigured,
                answers: &[],
                failure_excerpt: None,
                record: None,
                steady_for: Duration::ZERO,
                unlisted_for: Duration::ZERO,
                now_ms: 0,
                hold: Some(&Hold::Protected),
                may_protect,
                runs: &Runs::None,
            };
            lint(&input, &plan_of(vec![step]))
        };
        assert_eq!(result(true, tag(tags::PROTECT)), Ok(()));
        assert_eq!(result(false, tag(tags::PROTECT)), Err(Violation::ChangesHeld));
        assert_eq!(result(true, tag("team")), Err(Violation::ChangesHeld));
        assert_eq!(result(true, delete_role()), Err(Violation::ChangesHeld));
    }
}
