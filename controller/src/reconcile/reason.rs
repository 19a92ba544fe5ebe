//! Why a location is reconciled, and everything that follows from that: one table.

use codeloc_core::planner::{Plan, Purpose};
use codeloc_core::priority::Priority;
use codeloc_core::resources::{Step, service};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The config, branch or image of a location that serves has changed, or a user asked for it.
    ConfigChanged,
    /// The wait for a rollout, a build or a role is over.
    Progress,
    /// The last pass failed.
    Retry,
    /// The location is being created. codeloc finishes it before it starts others, so that the slowest AWS rate is never idle.
    FinishCreate,
    /// The last pass of a location that is being created failed.
    RetryCreate,
    /// The location has no resources yet, so it can wait.
    Create,
    /// The interval `reconcile.resync_seconds` has passed, or the process has started.
    Resync,
    /// Resources that nothing uses any more can be deleted.
    CollectGarbage,
}

/// How recent an observation has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The last sweep or refresh is enough: it reads many locations with few calls.
    Batched,
    /// The service is read now.
    Current,
}

impl Reason {
    /// The order in the queue and at the rate limits.
    pub fn priority(self) -> Priority {
        match self {
            Self::ConfigChanged => Priority::Commit,
            Self::Progress | Self::Retry => Priority::Again,
            Self::FinishCreate | Self::RetryCreate => Priority::Making,
            Self::Create => Priority::Cold,
            Self::Resync => Priority::Resync,
            Self::CollectGarbage => Priority::Garbage,
        }
    }

    pub fn freshness(self) -> Freshness {
        match self {
            // A resource must be unused at the moment when it is deleted.
            // A failed location is read by itself: a sweep over all others for each retry would cost more.
            Self::ConfigChanged | Self::Progress | Self::Retry | Self::RetryCreate | Self::CollectGarbage => {
                Freshness::Current
            }
            Self::FinishCreate | Self::Create | Self::Resync => Freshness::Batched,
        }
    }

    pub fn purpose(self) -> Purpose {
        match self {
            Self::CollectGarbage => Purpose::CollectGarbage,
            Self::ConfigChanged
            | Self::Progress
            | Self::Retry
            | Self::FinishCreate
            | Self::RetryCreate
            | Self::Create
            | Self::Resync => Purpose::Converge,
        }
    }

    /// Whether a plan that was made from a partial observation may be executed.
    pub fn accepts_partial(self, plan: &Plan) -> bool {
        match self {
            Self::ConfigChanged => only_deploys(plan),
            // To create what exists changes nothing.
            Self::FinishCreate | Self::RetryCreate | Self::Create => only_creates(plan),
            Self::CollectGarbage => plan.steps.is_empty(),
            Self::Progress | Self::Retry | Self::Resync => false,
        }
    }

    /// Whether the location waits for the next sweep when a partial observation is not enough, instead of being read by itself.
    pub fn waits_for_sweep(self) -> bool {
        match self {
            Self::ConfigChanged | Self::Progress | Self::Retry | Self::RetryCreate => false,
            Self::FinishCreate | Self::Create | Self::Resync | Self::CollectGarbage => true,
        }
    }

    /// The reason of what follows once a pass has changed something.
    #[must_use]
    pub fn started(self) -> Self {
        match self {
            Self::Create => Self::FinishCreate,
            other => other,
        }
    }

    /// The reason of the next pass after a wait.
    #[must_use]
    pub fn after_wait(self) -> Self {
        if self.creates() { Self::FinishCreate } else { Self::Progress }
    }

    /// The reason of the next pass after a failure.
    #[must_use]
    pub fn after_failure(self) -> Self {
        if self.creates() { Self::RetryCreate } else { Self::Retry }
    }

    fn creates(self) -> bool {
        match self {
            Self::FinishCreate | Self::RetryCreate | Self::Create => true,
            Self::ConfigChanged | Self::Progress | Self::Retry | Self::Resync | Self::CollectGarbage => false,
        }
    }

    /// The more urgent of two requests for one location. The other one is not lost: every pass does what a resync does, and a pass that
    /// converges asks for garbage collection again.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if other.priority() < self.priority() { other } else { self }
    }
}

/// Whether a plan only creates missing resources and publishes the location.
fn only_creates(plan: &Plan) -> bool {
    plan.steps.iter().all(|step| step.makes() || matches!(step, Step::Workspace(_)))
}

/// Whether a plan only rolls out another revision.
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reason; 8] = [
        Reason::ConfigChanged,
        Reason::Progress,
        Reason::Retry,
        Reason::FinishCreate,
        Reason::RetryCreate,
        Reason::Create,
        Reason::Resync,
        Reason::CollectGarbage,
    ];

    #[test]
    fn a_merge_keeps_the_more_urgent_reason() {
        for one in ALL {
            for other in ALL {
                let merged = one.merge(other);
                assert_eq!(merged.priority(), one.priority().min(other.priority()), "{one:?} and {other:?}");
                assert!(merged == one || merged == other);
            }
        }
    }

    #[test]
    fn a_location_in_creation_stays_in_creation() {
        for reason in ALL {
            let creating = matches!(reason, Reason::Create | Reason::FinishCreate | Reason::RetryCreate);
            assert_eq!(reason.after_wait() == Reason::FinishCreate, creating, "{reason:?}");
            assert_eq!(reason.after_failure() == Reason::RetryCreate, creating, "{reason:?}");
        }
    }

    #[test]
    fn a_started_location_precedes_new_ones() {
        assert_eq!(Reason::Create.started(), Reason::FinishCreate);
        assert!(Reason::FinishCreate.priority() < Reason::Create.priority());
        assert!(ALL.into_iter().filter(|one| *one != Reason::Create).all(|one| one.started() == one));
    }

    #[test]
    fn a_retry_is_never_less_urgent_than_its_reason() {
        for reason in ALL.into_iter().filter(|reason| *reason != Reason::ConfigChanged) {
            assert!(reason.after_wait().priority() <= reason.priority(), "{reason:?}");
            assert!(reason.after_failure().priority() <= reason.priority(), "{reason:?}");
        }
    }

    #[test]
    fn only_urgent_reasons_are_read_without_the_sweep() {
        for reason in ALL.into_iter().filter(|reason| !reason.waits_for_sweep()) {
            assert_eq!(reason.freshness(), Freshness::Current, "{reason:?}");
            assert!(reason.priority() <= Priority::Making, "{reason:?}");
        }
    }

    #[test]
    fn a_retry_never_waits_for_a_sweep() {
        for retry in ALL.map(Reason::after_failure) {
            assert_eq!((retry.freshness(), retry.waits_for_sweep()), (Freshness::Current, false), "{retry:?}");
        }
    }
}
