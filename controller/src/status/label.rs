//! Texts of enums for metric labels and tables. They are part of the interface, so that renaming a variant does not change them.

use codeloc_aws::Class;
use codeloc_aws::lease::LeaseState;
use codeloc_aws::rate_limit::Family;
use codeloc_core::priority::Priority;
use codeloc_core::resources::Action;
use codeloc_core::status::{ConditionKind, Health, Reason, Sync};
use codeloc_crds::Mode;

pub trait Label {
    fn label(&self) -> &'static str;
}

impl Label for Sync {
    fn label(&self) -> &'static str {
        match self {
            Self::Synced => "Synced",
            Self::OutOfSync => "OutOfSync",
            Self::Unknown => "Unknown",
        }
    }
}

impl Label for Health {
    fn label(&self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::Suspended => "Suspended",
            Self::Missing => "Missing",
            Self::Unknown => "Unknown",
        }
    }
}

impl Label for ConditionKind {
    fn label(&self) -> &'static str {
        match self {
            Self::SourceResolved => "SourceResolved",
            Self::ImageReady => "ImageReady",
            Self::Deployed => "Deployed",
            Self::Loaded => "Loaded",
            Self::Registered => "Registered",
            Self::Enforced => "Enforced",
        }
    }
}

impl Label for Reason {
    fn label(&self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::InvalidConfig => "InvalidConfig",
            Self::Unresolved => "Unresolved",
            Self::Resolving => "Resolving",
            Self::Building => "Building",
            Self::BuildFailed => "BuildFailed",
            Self::NotOwned => "NotOwned",
            Self::Rolling => "Rolling",
            Self::RolloutFailed => "RolloutFailed",
            Self::Draining => "Draining",
            Self::Waiting => "Waiting",
            Self::NoInstance => "NoInstance",
            Self::NotAnswering => "NotAnswering",
            Self::LoadError => "LoadError",
            Self::OtherRevision => "OtherRevision",
            Self::NotPublished => "NotPublished",
            Self::WebserverUnreachable => "WebserverUnreachable",
            Self::WebserverError => "WebserverError",
            Self::Deleting => "Deleting",
            Self::WaitingForRuns => "WaitingForRuns",
            Self::CallFailed => "CallFailed",
            Self::NotConverging => "NotConverging",
            Self::Suspended => "Suspended",
            Self::DetectOnly => "DetectOnly",
            Self::Standby => "Standby",
            Self::LeaseUnreadable => "LeaseUnreadable",
            Self::PruneBlocked => "PruneBlocked",
            Self::Moved => "Moved",
            Self::Protected => "Protected",
        }
    }
}

impl Label for Mode {
    fn label(&self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Detect => "detect",
            Self::Suspended => "suspended",
        }
    }
}

/// Labels of [`LeaseState`].
pub const LEASE_STATES: [&str; 4] = ["held", "standby", "unreadable", "unknown"];

impl Label for LeaseState {
    fn label(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Standby { .. } => "standby",
            Self::Unreadable(_) => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

/// Labels of [`Class`].
pub const CLASSES: [&str; 5] = ["Transient", "Throttled", "NotYet", "Fenced", "Terminal"];

impl Label for Class {
    fn label(&self) -> &'static str {
        self.name()
    }
}

/// Labels of [`Priority`].
pub const PRIORITIES: [&str; 6] = ["commit", "again", "making", "cold", "resync", "garbage"];

impl Label for Priority {
    fn label(&self) -> &'static str {
        self.name()
    }
}

impl Label for Action {
    fn label(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl Label for Family {
    fn label(&self) -> &'static str {
        self.name()
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use utoipa::PartialSchema;

    use super::*;

    fn assert_labels_are_the_names_in_json<T: PartialSchema + DeserializeOwned + Label>() {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let names = schema["enum"].as_array().unwrap();
        assert!(!names.is_empty());
        for name in names {
            let value: T = serde_json::from_value(name.clone()).unwrap();
            assert_eq!(value.label(), name);
        }
    }

    #[test]
    fn labels_are_the_names_in_json() {
        assert_labels_are_the_names_in_json::<Sync>();
        assert_labels_are_the_names_in_json::<Health>();
        assert_labels_are_the_names_in_json::<ConditionKind>();
        assert_labels_are_the_names_in_json::<Reason>();
    }

    #[test]
    fn lists_of_labels_are_complete() {
        let classes = [Class::Transient, Class::Throttled, Class::NotYet, Class::Fenced, Class::Terminal];
        assert_eq!(classes.map(|class| class.label()), CLASSES);
        let states = [
            LeaseState::Held,
            LeaseState::Standby { holder: String::new() },
            LeaseState::Unreadable(String::new()),
            LeaseState::Unknown,
        ];
        assert_eq!(states.map(|state| state.label()), LEASE_STATES);
        let priorities =
            [Priority::Commit, Priority::Again, Priority::Making, Priority::Cold, Priority::Resync, Priority::Garbage];
        assert_eq!(priorities.map(|priority| priority.label()), PRIORITIES);
    }
}
