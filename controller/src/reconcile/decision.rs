//! What a pass does with its plan. Pure.

use std::time::Duration;

use codeloc_core::desired::Desired;
use codeloc_core::planner::{Hold, Plan, Violation};
use codeloc_core::resources::{Kind, Step, workspace};
use codeloc_core::status;

use super::Outcome;
use super::executor::summary;
use super::reason::Reason;

/// The pause after a reload that seemed to succeed.
const RELOADED: Duration = Duration::from_secs(15);

#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The observation is too old for this plan.
    ObserveAgain,
    /// The location and all of its resources are gone.
    Gone,
    /// The lint has refused the plan.
    Unsafe(String),
    /// The plan came back although all of its steps succeeded, or AWS stores values that differ from what it was given.
    NotConverging(String),
    /// codeloc has just asked the webserver to load the location, and the webserver shows an error or does not show the location.
    WaitForWebserver(Duration),
    CollectGarbage,
    Execute,
    Rest,
}

/// The plan of one round, and what it was made from.
pub struct Round<'a> {
    pub reason: Reason,
    pub desired: &'a Desired,
    pub plan: &'a Plan,
    pub lint: &'a Result<(), Violation>,
    /// Whether all resources were read.
    pub complete: bool,
    /// The steps of the round before, which all succeeded.
    pub applied: Option<&'a [Step]>,
    /// The time until codeloc asks the webserver again to load the location.
    pub reload_pause: Option<Duration>,
}

pub fn decide(round: &Round<'_>) -> Decision {
    let plan = round.plan;
    let reload_pause = round.reload_pause.filter(|_| only_reloads(plan) && shows_error(plan));
    let waits = reload_pause.is_some() || (plan.steps.is_empty() && plan.report.look_again.is_some());
    if !(round.complete || waits || round.reason.accepts_partial(plan)) {
        return Decision::ObserveAgain;
    }
    if *round.desired == Desired::Absent && plan.is_empty() {
        return Decision::Gone;
    }
    if let Err(violation) = round.lint {
        return Decision::Unsafe(violation.to_string());
    }
    if let Some(pause) = reload_pause {
        return Decision::WaitForWebserver(pause);
    }
    if round.applied.is_some_and(|applied| repeats(&plan.steps, applied)) {
        if only_reloads(plan) {
            // It loaded the location, and then showed the error again, or read an earlier workspace.yaml.
            return Decision::WaitForWebserver(plan.report.look_again.unwrap_or(RELOADED));
        }
        let steps: Vec<String> = plan.steps.iter().map(summary).collect();
        return Decision::NotConverging(format!(
            "codeloc applied these steps, and the same differences came back; check what else changes them: {}",
            steps.join("; ")
        ));
    }
    if !plan.steps.is_empty() {
        return Decision::Execute;
    }
    match &plan.aws_mismatch {
        Some(mismatch) => Decision::NotConverging(mismatch.clone()),
        None if round.reason == Reason::CollectGarbage && !plan.garbage.is_empty() => Decision::CollectGarbage,
        None => Decision::Rest,
    }
}

/// The outcome of a pass with nothing to execute.
pub fn at_rest(plan: &Plan, hold: Option<&Hold>) -> Outcome {
    if let Some(after) = plan.report.look_again {
        return Outcome::Waiting(after);
    }
    match hold {
        _ if plan.later.is_empty() => Outcome::Converged,
        Some(Hold::Standby { .. } | Hold::Unleased(_)) => Outcome::Unleased,
        _ => Outcome::Held,
    }
}

/// Whether the garbage of this plan includes images, which cannot be restored.
pub fn deletes_images(plan: &Plan) -> bool {
    plan.garbage.iter().any(|step| step.kind() == Kind::ImageRepository)
}

fn repeats(steps: &[Step], applied: &[Step]) -> bool {
    steps.len() == applied.len() && steps.iter().zip(applied).all(|(step, applied)| step.repeats(applied))
}

/// Whether the plan only asks the webserver to load the location again.
fn only_reloads(plan: &Plan) -> bool {
    let reloads = |step: &Step| matches!(step, Step::Workspace(workspace::Change::Reload { .. }));
    plan.steps.iter().all(reloads)
}

/// Whether the webserver could not load the location.
fn shows_error(plan: &Plan) -> bool {
    plan.report.conditions.iter().any(|condition| condition.reason == status::Reason::WebserverError)
}

#[cfg(test)]
mod tests;
