//! Location status: sync and health, plus conditions with reason, message and time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{Commit, Revision};

/// Whether the observed state matches the desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Sync {
    Synced,
    OutOfSync,
    Unknown,
}

/// Whether the location works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Health {
    Healthy,
    Progressing,
    Degraded,
    Suspended,
    Missing,
    Unknown,
}

impl std::fmt::Display for Sync {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, formatter)
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, formatter)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum ConditionKind {
    /// The config is valid, and codeloc resolved its branch, tag or image.
    SourceResolved,
    /// The image of the commit exists.
    ImageReady,
    /// The ECS service runs only the desired revision.
    Deployed,
    /// Every task has loaded its definitions.
    Loaded,
    /// `workspace.yaml` contains the location, and the webserver shows the desired revision.
    Registered,
    /// codeloc repairs drift. Shown only if it does not.
    Enforced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// The reason of a condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Reason {
    /// Nothing to do.
    UpToDate,
    InvalidConfig,
    /// codeloc cannot resolve the branch, tag or commit.
    Unresolved,
    Resolving,
    Building,
    BuildFailed,
    /// A resource with the location's name has another owner.
    NotOwned,
    Rolling,
    RolloutFailed,
    Draining,
    /// codeloc waits for an earlier condition or for an answer.
    Waiting,
    NoInstance,
    NotAnswering,
    /// The location's code fails to load.
    LoadError,
    OtherRevision,
    NotPublished,
    WebserverUnreachable,
    WebserverError,
    Deleting,
    /// The config is gone, and runs still need the location's resources.
    WaitingForRuns,
    CallFailed,
    NotConverging,
    /// The mode is `suspended`.
    Suspended,
    /// The mode is `detect`.
    DetectOnly,
    /// Another process holds the lease.
    Standby,
    LeaseUnreadable,
    /// codeloc does not delete this much without confirmation.
    PruneBlocked,
    /// The settings name another cluster or namespace than the one in which the location is.
    Moved,
    /// The config said `deletion: {protect: true}`.
    Protected,
}

/// One field of an observed resource that differs from the desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    pub kind: String,
    /// The name of the resource.
    pub name: String,
    /// Absent if the whole resource is missing.
    pub field: Option<String>,
    pub observed: Option<String>,
    pub desired: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    pub kind: ConditionKind,
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
}

/// A condition, and the time since which it has this status and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatedCondition {
    #[serde(flatten)]
    pub condition: Condition,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// The status of one location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocationStatus {
    pub name: String,
    pub sync: Sync,
    pub health: Health,
    /// A one-sentence summary.
    pub message: String,
    #[schema(value_type = Option<String>)]
    pub commit: Option<Commit>,
    /// The last other commit that served: the target of a rollback. codeloc stores it in AWS, so it survives restarts.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub previous_commit: Option<Commit>,
    pub image: Option<String>,
    /// The platform of built images, if it differs from the config's architecture.
    pub platform: Option<String>,
    /// The desired revision, which is also the server id that Dagster shows.
    #[schema(value_type = Option<String>)]
    pub revision: Option<Revision>,
    /// The revision that serves, if any.
    #[schema(value_type = Option<String>)]
    pub serving: Option<Revision>,
    pub address: Option<String>,
    /// The drift that the last reconciliation found, even if codeloc repaired it.
    #[serde(default)]
    pub drift: Vec<Drift>,
    pub conditions: Vec<DatedCondition>,
    /// The number of running tasks.
    #[serde(default)]
    pub running: u32,
    /// When this process first saw the desired commit.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub commit_observed: Option<Timestamp>,
    /// When it was last in sync.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub converged: Option<Timestamp>,
    /// The status includes every push to the configs or the branch before this time. Absent while a newer config or commit waits for its
    /// reconciliation.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// When it was last observed.
    #[schema(value_type = String, format = DateTime)]
    pub updated: Timestamp,
}

impl LocationStatus {
    /// The reason of the first condition that is not true.
    pub fn reason(&self) -> Option<Reason> {
        let is_not_true = |dated: &&DatedCondition| dated.condition.status != ConditionStatus::True;
        self.conditions.iter().find(is_not_true).map(|dated| dated.condition.reason)
    }

    /// A status with nothing but a message.
    pub fn unknown(name: &str, message: String, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            sync: Sync::Unknown,
            health: Health::Unknown,
            message,
            commit: None,
            previous_commit: None,
            image: None,
            platform: None,
            revision: None,
            serving: None,
            address: None,
            drift: vec![],
            conditions: vec![],
            running: 0,
            commit_observed: None,
            converged: None,
            as_of: None,
            updated: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_that_of_the_first_condition_that_is_not_true() {
        let mut status = LocationStatus::unknown("orders", String::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(status.reason(), None);
        let dated = |kind, status, reason| DatedCondition {
            condition: Condition { kind, status, reason, message: String::new() },
            since: Timestamp::UNIX_EPOCH,
        };
        status.conditions = vec![
            dated(ConditionKind::SourceResolved, ConditionStatus::True, Reason::UpToDate),
            dated(ConditionKind::ImageReady, ConditionStatus::Unknown, Reason::Building),
            dated(ConditionKind::Deployed, ConditionStatus::False, Reason::Waiting),
        ];
        assert_eq!(status.reason(), Some(Reason::Building));
    }
}
