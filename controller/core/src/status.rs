//! Location status: sync and health, plus conditions with reason, message and time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether what runs is what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Sync {
    Synced,
    OutOfSync,
    Unknown,
}

/// Whether what runs is well.
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
    /// The config is valid and its branch is a commit.
    SourceResolved,
    /// The commit is an image.
    ImageReady,
    /// The service runs the wanted revision, and only that.
    Deployed,
    /// Its tasks answer with their definitions loaded.
    Loaded,
    /// It is in `workspace.yaml`, and the webserver shows the wanted revision.
    Registered,
    /// What differs is repaired. Told only where it is not.
    Enforced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Reason {
    /// All is as wanted.
    UpToDate,
    InvalidConfig,
    /// The branch, tag or commit could not be resolved.
    Unresolved,
    Resolving,
    Building,
    BuildFailed,
    /// A resource of that name exists and is not ours.
    NotOwned,
    Rolling,
    RolloutFailed,
    Draining,
    /// Nothing of it was seen yet.
    Waiting,
    NoInstance,
    NotAnswering,
    /// The user's code failed to load.
    LoadError,
    OtherRevision,
    NotPublished,
    WebserverUnreachable,
    WebserverError,
    Deleting,
    CallFailed,
    NotConverging,
    /// The mode is `suspended`.
    Suspended,
    /// The mode is `detect`.
    DetectOnly,
    /// Another controller holds the lease.
    Standby,
    LeaseUnreadable,
    /// More would be deleted at once than is done unasked.
    PruneBlocked,
    /// The config said `deletion: {protect: true}`.
    Protected,
}

/// One field of a live resource that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    pub kind: String,
    /// The resource's own name.
    pub name: String,
    /// Absent where the whole resource is missing.
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

/// A condition, and since when it has had its status and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatedCondition {
    #[serde(flatten)]
    pub condition: Condition,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Everything `status` prints of one location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocationStatus {
    pub name: String,
    pub sync: Sync,
    pub health: Health,
    /// The one sentence to read first.
    pub message: String,
    pub commit: Option<String>,
    /// The last commit before the present one that served: where a rollback goes. As AWS remembers it, so whatever became of the
    /// process that saw it.
    #[serde(default)]
    pub previous_commit: Option<String>,
    pub image: Option<String>,
    /// What images are built for, where that is not the config's architecture.
    pub platform: Option<String>,
    /// The revision that is wanted: the server id that Dagster is to show.
    pub revision: Option<String>,
    /// The revision that serves; absent where nothing does.
    pub serving: Option<String>,
    pub address: Option<String>,
    /// What was found to differ by the last look at it, repaired since or not.
    #[serde(default)]
    pub drift: Vec<Drift>,
    pub conditions: Vec<DatedCondition>,
    /// Tasks that run.
    #[serde(default)]
    pub running: u32,
    /// When this process first saw the commit that is wanted.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub commit_observed: Option<Timestamp>,
    /// When it was last seen to be as wanted.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub converged: Option<Timestamp>,
    /// This status takes account of every push before this moment, to the configs or to the branch. Absent while a newer config or
    /// commit waits for a pass.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// When it was last observed.
    #[schema(value_type = String, format = DateTime)]
    pub updated: Timestamp,
}

impl LocationStatus {
    /// Why it is not as it should be: that of the first condition that does not hold.
    pub fn reason(&self) -> Option<Reason> {
        let holds_not = |dated: &&DatedCondition| dated.condition.status != ConditionStatus::True;
        self.conditions.iter().find(holds_not).map(|dated| dated.condition.reason)
    }

    /// Of a location of which nothing more is known than this message.
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
