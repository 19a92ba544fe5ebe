//! What the planner needs beyond the resources of a location. Asked before planning, so that one round makes one plan.

use super::ownership::not_owned;
use super::present::{Repair, repair, service_plan};
use super::{Input, assess, removal};
use crate::desired::{Desired, DesiredLocation};
use crate::ids::{Arn, Revision};
use crate::resources::{DesiredResources, role, service, task_definition};

/// Why a location is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Converge,
    /// Delete what nothing uses any more.
    CollectGarbage,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The revision whose tasks fail: the plan shows the end of its log.
    pub failure_logs: Option<Revision>,
    /// The ARN of a definition. ECS has to say how its last rollout ended.
    pub record: Option<Arn>,
    /// The list of the images in the location's repository.
    pub images: bool,
    /// The unfinished runs of a location that this plan would delete.
    pub runs: bool,
}

/// The answers in the input (`failure_excerpt`, `record` and `runs`) are ignored: codeloc has not asked yet.
pub fn needs(input: &Input<'_>, purpose: Purpose) -> Needs {
    let location = match input.desired {
        Desired::Present(location) => location,
        Desired::Invalid(_) => return Needs::default(),
        Desired::Absent => return Needs { runs: removal::may_affect_runs(input), ..Needs::default() },
    };
    if !not_owned(input, location.config.adopt).is_empty() {
        return Needs::default();
    }
    let images =
        purpose == Purpose::CollectGarbage && input.hold.is_none() && input.observed.image_repository.is_some();
    let needs = Needs { images, ..Needs::default() };
    let all = &input.observed.task_definitions;
    let Some(service) = input.observed.service.as_deref().filter(|service| service::has_failures(service, all)) else {
        return needs;
    };
    let (failure_logs, registered) = failing(input, location);
    let record = registered.filter(|registered| service::suspects_rollback(service, registered, all, input.now_ms));
    Needs { failure_logs, record: record.map(|registered| registered.arn.clone()), ..needs }
}

/// The revision that rolls out or is repaired, if its tasks fail, and the registered definition of the desired one.
pub(super) fn failing<'a>(
    input: &Input<'a>,
    location: &DesiredLocation,
) -> (Option<Revision>, Option<&'a task_definition::Observed>) {
    let observed = input.observed;
    let desired = DesiredResources::matching(
        &location.config,
        location.image.image(),
        &role::Kept::default(),
        input.deployment,
        observed,
    );
    let (plan, revision) = match desired.task_definition.revision.known() {
        Some(revision) => (service_plan(input, &desired), revision.clone()),
        None => match repair(input, &desired) {
            Some(Repair { plan, revision: Some(revision), .. }) => (plan, revision),
            _ => return (None, None),
        },
    };
    let registered = task_definition::equal(&desired.task_definition, &observed.task_definitions, observed.runs());
    (assess::is_failing(&plan.phase).then_some(revision), registered)
}
