//! Why codeloc records an event. The descriptions are the table in `docs/events.md`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::settings::Severity;

/// Why an event was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, JsonSchema)]
pub enum EventReason {
    /// codeloc loaded a new commit of the config repository, or a changed folder of configs.
    ConfigsRead,
    /// codeloc cannot read the configs. The last configs it could read stay in force.
    ConfigsUnreadable,
    /// A config is invalid. Its location stays unchanged until you fix it.
    ConfigInvalid,
    /// A client of the API changed a config.
    ConfigWritten,
    /// The branch or tag points to another commit.
    CommitObserved,
    /// The image of a commit is in the registry.
    ImageReady,
    /// codeloc could not build the image of a commit. The message shows the cause.
    ImageFailed,
    /// codeloc changed a resource in AWS or an entry of `workspace.yaml`.
    Applied,
    /// The observed state differs from the desired state although neither the config nor the commit changed.
    Drifted,
    /// The location is in sync and healthy.
    Healthy,
    /// The location is not healthy.
    Degraded,
    /// A revision failed to roll out. ECS keeps the previous one.
    RolloutFailed,
    /// A change failed. codeloc retries.
    StepFailed,
    /// codeloc applied changes, and the same differences came back.
    NotConverging,
    /// The config of a location is gone, and codeloc waits for its runs before it deletes what they use.
    WaitingForRuns,
    /// codeloc deletes a location whose runs have not ended: `reconcile.run_wait_hours` have passed, or `codeloc abandon-runs` confirmed it.
    RunsAbandoned,
    /// codeloc deleted all resources of a location without a config.
    Removed,
    /// The prune guard stopped the deletion of locations. Confirm the deletion to continue.
    PruneBlocked,
    /// This process holds the lease and may change AWS.
    LeaseAcquired,
    /// This process lost the lease, or does not hold it yet, and may not change AWS.
    LeaseLost,
    /// A sweep could not read all of AWS. codeloc does not act on a partial observation.
    SweepFailed,
    /// Dagster's webserver did not reload `workspace.yaml`. codeloc retries.
    ReloadFailed,
}

impl EventReason {
    pub const ALL: [Self; 22] = [
        Self::ConfigsRead,
        Self::ConfigsUnreadable,
        Self::ConfigInvalid,
        Self::ConfigWritten,
        Self::CommitObserved,
        Self::ImageReady,
        Self::ImageFailed,
        Self::Applied,
        Self::Drifted,
        Self::Healthy,
        Self::Degraded,
        Self::RolloutFailed,
        Self::StepFailed,
        Self::NotConverging,
        Self::WaitingForRuns,
        Self::RunsAbandoned,
        Self::Removed,
        Self::PruneBlocked,
        Self::LeaseAcquired,
        Self::LeaseLost,
        Self::SweepFailed,
        Self::ReloadFailed,
    ];

    /// The text in metric labels, tables and messages; the same as in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConfigsRead => "ConfigsRead",
            Self::ConfigsUnreadable => "ConfigsUnreadable",
            Self::ConfigInvalid => "ConfigInvalid",
            Self::ConfigWritten => "ConfigWritten",
            Self::CommitObserved => "CommitObserved",
            Self::ImageReady => "ImageReady",
            Self::ImageFailed => "ImageFailed",
            Self::Applied => "Applied",
            Self::Drifted => "Drifted",
            Self::Healthy => "Healthy",
            Self::Degraded => "Degraded",
            Self::RolloutFailed => "RolloutFailed",
            Self::StepFailed => "StepFailed",
            Self::NotConverging => "NotConverging",
            Self::WaitingForRuns => "WaitingForRuns",
            Self::RunsAbandoned => "RunsAbandoned",
            Self::Removed => "Removed",
            Self::PruneBlocked => "PruneBlocked",
            Self::LeaseAcquired => "LeaseAcquired",
            Self::LeaseLost => "LeaseLost",
            Self::SweepFailed => "SweepFailed",
            Self::ReloadFailed => "ReloadFailed",
        }
    }

    pub fn severity(self) -> Severity {
        match self {
            Self::ConfigsRead
            | Self::ConfigWritten
            | Self::CommitObserved
            | Self::ImageReady
            | Self::Applied
            | Self::Healthy
            | Self::WaitingForRuns
            | Self::Removed
            | Self::LeaseAcquired => Severity::Normal,
            Self::ConfigsUnreadable
            | Self::ConfigInvalid
            | Self::ImageFailed
            | Self::Drifted
            | Self::Degraded
            | Self::RolloutFailed
            | Self::StepFailed
            | Self::NotConverging
            | Self::RunsAbandoned
            | Self::PruneBlocked
            | Self::LeaseLost
            | Self::SweepFailed
            | Self::ReloadFailed => Severity::Warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_described() {
        let schema = schemars::schema_for!(EventReason).to_value();
        let described: Vec<&str> =
            schema["oneOf"].as_array().unwrap().iter().filter_map(|one| one["const"].as_str()).collect();
        assert_eq!(described, EventReason::ALL.map(EventReason::label));
        assert!(schema["oneOf"].as_array().unwrap().iter().all(|one| one["description"].is_string()), "{schema}");
    }

    #[test]
    fn labels_are_the_names_in_json() {
        for reason in EventReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.label());
            assert_eq!(serde_json::to_value(reason.severity()).unwrap(), reason.severity().label());
        }
    }
}
