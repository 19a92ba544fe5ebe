//! Planning: a pure function from the desired and the observed state to the steps between them, and a report of everything that codeloc
//! waits for. The time is an argument too.

mod assess;
mod garbage;
mod hold;
mod lint;
mod needs;
mod ownership;
mod present;
mod protection;
mod readiness;
mod removal;
pub mod render;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use codeloc_crds::LocationName;

use crate::dagster::Answer;
use crate::deployment::Deployment;
use crate::desired::Desired;
use crate::ids::Revision;
use crate::resources::service::{FailureExcerpt, Record};
use crate::resources::{ObservedResources, Step, workspace};
use crate::status::{Condition, Health, Sync};

pub use hold::Hold;
pub use lint::{Violation, lint};
pub use needs::{Needs, Purpose, needs};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Everything a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub name: &'a LocationName,
    pub desired: &'a Desired,
    pub deployment: &'a Deployment,
    pub observed: &'a ObservedResources,
    pub workspace: &'a workspace::Observed,
    /// Whether a webserver is configured and answers.
    pub webserver: WebserverState<'a>,
    /// What each instance in Cloud Map said of itself.
    pub answers: &'a [Answered],
    /// Why tasks of the failing revision ended, once the report asked for it.
    pub failure_excerpt: Option<&'a FailureExcerpt>,
    /// How the last rollout of the desired definition ended, if [`needs`] asks for it.
    pub record: Option<Record>,
    /// How long the desired revision has been steady.
    pub steady_for: Duration,
    /// How long Cloud Map has listed no task of a steady location.
    pub unlisted_for: Duration,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// The unfinished runs of a removed location, if [`needs`] asks for them.
    pub runs: &'a Runs,
    /// Why nothing of the plan may be executed.
    pub hold: Option<&'a Hold>,
    /// Whether the tag that keeps a location may be written although a hold allows nothing else: only its config holds it, not the daemon's
    /// own mode or a lease that another one has.
    pub may_protect: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum WebserverState<'a> {
    NotConfigured,
    Answers,
    Unreachable(&'a str),
}

/// Unfinished runs, which need the roles, the images, the definitions and the log group of their location until they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runs {
    NotAsked,
    None,
    /// This many tasks of runs exist in ECS.
    Tasks(usize),
    /// Dagster has queued or started runs, and ECS has no task of them yet.
    Queued,
    /// Dagster does not answer, so it may have queued runs.
    Unknown(String),
    /// A person has confirmed that codeloc need not wait for them.
    Abandoned,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub address: SocketAddr,
    pub answer: Answer,
}

/// The steps that codeloc executes now, the ones that follow, and the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// codeloc executes them now, in this order.
    pub steps: Vec<Step>,
    /// They follow after codeloc has what it waits for, or never, if AWS has no call for them. Shown, never executed.
    pub later: Vec<Step>,
    /// Deletes resources that nothing uses any more. Only a location in sync has garbage, and it has the lowest priority.
    pub garbage: Vec<Step>,
    /// Whether codeloc may look for garbage: the location is present, in sync and not on hold.
    pub collects: bool,
    /// A definition that AWS stores differently from how codeloc registered it. No step would change that, so none is planned.
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
    pub revision: Option<Revision>,
    pub serving: Option<Revision>,
    pub address: Option<String>,
    /// When to reconcile again, if codeloc waits for something.
    pub look_again: Option<Duration>,
}

impl Plan {
    fn nothing(report: Report) -> Self {
        Self::of(vec![], vec![], report)
    }

    fn of(steps: Vec<Step>, later: Vec<Step>, report: Report) -> Self {
        Self { steps, later, garbage: vec![], collects: false, aws_mismatch: None, report }
    }

    /// Whether codeloc has nothing to do and waits for nothing.
    pub fn is_settled(&self) -> bool {
        self.is_empty() && self.report.look_again.is_none() && self.aws_mismatch.is_none()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.later.is_empty()
    }
}

/// The steps from the observed to the desired state.
pub fn plan(input: Input<'_>) -> Plan {
    let mut plan = unheld(input);
    match (input.hold, input.desired) {
        // A config that does not pass has a plan with nothing in it, and a reason that is worth more.
        (None, _) | (Some(_), Desired::Invalid(_)) => plan,
        (Some(hold), Desired::Present(location)) => {
            if *hold == Hold::Suspended {
                // Its image is not asked for: what would be done is not known.
                plan.steps.clear();
                plan.later.clear();
            }
            let mut plan = plan.held(hold);
            if location.config.protect && input.may_protect {
                plan.steps = protection::steps(&input, true);
            }
            if input.may_protect {
                // Otherwise a later removal would not wait.
                plan.steps.extend(removal::unmark(&input));
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
        Desired::Absent => removal::absent(&input),
        Desired::Present(location) => present::present(&input, location),
    }
}
