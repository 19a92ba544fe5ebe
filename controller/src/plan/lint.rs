//! A second look at a plan, by rules that do not share the planner's reasoning: an unsafe plan is refused, not executed.

use crate::kinds::{Action, Kind, Step, scaling, service, workspace};

use super::{Desired, Input, Plan};

/// A rule that a plan breaks: a bug of the planner, and so an alarm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a step would delete the {} of a repository that is wanted", .0.title())]
    DeletesWanted(Kind),
    #[error("a step would change a repository of which the config is invalid")]
    ChangesFrozen,
    #[error("the {} would be deleted while the workspace entry is still published", .0.title())]
    DeletesBeforeUnpublished(Kind),
    #[error("the {} would be deleted while the service exists", .0.title())]
    DeletesBeforeService(Kind),
    #[error("the desired count would be written although scaling owns it")]
    WritesScaledCount,
    #[error("the {} comes before the {} it needs", .0.title(), .1.title())]
    OutOfOrder(Kind, Kind),
    #[error("a location would be published that did not answer with its definitions loaded")]
    PublishesUnproven,
}

pub fn lint(input: &Input<'_>, plan: &Plan) -> Result<(), Violation> {
    match input.desired {
        Desired::Frozen(_) if !plan.steps.is_empty() => return Err(Violation::ChangesFrozen),
        Desired::Frozen(_) => {}
        Desired::Present { repository, .. } => {
            let scaled = repository.scaling.min_capacity != repository.scaling.max_capacity;
            lint_present(input, &plan.steps, scaled)?;
        }
        Desired::Absent => lint_absent(input, &plan.steps)?,
    }
    Ok(())
}

fn lint_present(input: &Input<'_>, steps: &[Step], scaled: bool) -> Result<(), Violation> {
    for step in steps {
        let policy_only = matches!(step, Step::Scaling(scaling::Change::DeletePolicy { .. } | scaling::Change::Deregister { .. }));
        if step.describe().action == Action::Delete && !policy_only {
            return Err(Violation::DeletesWanted(step.kind()));
        }
        if scaled && matches!(step, Step::Service(service::Change::SetCount { .. })) {
            return Err(Violation::WritesScaledCount);
        }
        if matches!(step, Step::Workspace(workspace::Change::Publish { .. })) && input.answers.is_empty() {
            return Err(Violation::PublishesUnproven);
        }
    }
    // A creation that needs another kind comes after it.
    let position = |wanted: Kind| {
        steps.iter().position(|step| step.kind() == wanted && step.describe().action == Action::Create)
    };
    for (kind, need) in NEEDS {
        if let (Some(kind_at), Some(need_at)) = (position(kind), position(need))
            && kind_at < need_at
        {
            return Err(Violation::OutOfOrder(kind, need));
        }
    }
    Ok(())
}

const NEEDS: [(Kind, Kind); 5] = [
    (Kind::TaskDefinition, Kind::LogGroup),
    (Kind::TaskDefinition, Kind::Role),
    (Kind::Service, Kind::TaskDefinition),
    (Kind::Service, Kind::Discovery),
    (Kind::Scaling, Kind::Service),
];

fn lint_absent(input: &Input<'_>, steps: &[Step]) -> Result<(), Violation> {
    let mut published = input.workspace.entry.is_some();
    let service = input.live.service.as_ref().is_some_and(|live| live.exists() && owned(input, &live.tags));
    for step in steps {
        match step.kind() {
            Kind::Workspace => published = false,
            kind if published => return Err(Violation::DeletesBeforeUnpublished(kind)),
            Kind::Service | Kind::Scaling => {}
            kind if service => return Err(Violation::DeletesBeforeService(kind)),
            _ => {}
        }
    }
    Ok(())
}

fn owned(input: &Input<'_>, tags: &crate::kinds::tags::Tags) -> bool {
    crate::kinds::tags::owner(tags, &input.place.deployment) == crate::kinds::tags::Owner::Ours(input.name)
}
