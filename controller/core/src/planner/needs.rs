//! What the planner needs beyond the resources of a location. Asked before planning, so that one round makes one plan.

use super::ownership::not_owned;
use super::present::service_plan;
use super::{Input, assess, removal};
use crate::desired::{Desired, DesiredLocation};
use crate::ids::Revision;
use crate::resources::{DesiredResources, role, service};

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
    /// The list of the images in the location's repository.
    pub images: bool,
    /// The unfinished runs of a location that this plan would delete.
    pub runs: bool,
}

/// `input.failure_excerpt` is ignored.
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
    Needs { failure_logs: failing_revision(input, location), images, runs: false }
}

/// The desired revision, if its tasks fail.
fn failing_revision(input: &Input<'_>, location: &DesiredLocation) -> Option<Revision> {
    let service = input.observed.service.as_deref()?;
    let has_failures = service::has_failures(service, &input.observed.task_definitions);
    has_failures.then(|| failing(input, location)).flatten()
}

pub(super) fn failing(input: &Input<'_>, location: &DesiredLocation) -> Option<Revision> {
    let desired = DesiredResources::matching(
        &location.config,
        location.image.image(),
        &role::Kept::default(),
        input.deployment,
        input.observed,
    );
    let failing = assess::is_failing(&service_plan(input, &desired).phase);
    desired.task_definition.revision.known().filter(|_| failing).cloned()
}
