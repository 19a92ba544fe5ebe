//! Why a plan is shown and not executed. The steps stay visible as what would be done.

use std::fmt;

use codeloc_crds::Mode;

use super::Plan;
use crate::status::{Condition, ConditionKind, ConditionStatus, Health, Reason, Sync};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// By the config or for the whole daemon: it is left alone.
    Suspended,
    /// By the config or for the whole daemon: differences are only told.
    Detect,
    /// Another controller holds the lease.
    Standby { holder: String },
    /// Nobody can tell who holds the lease.
    Unleased(String),
    /// Too much would be deleted at once, or on too little evidence.
    PruneBlocked(String),
    /// Its config said that it stays.
    Protected,
    /// Its config is gone, and said with this mode that nothing is changed.
    Left(Mode),
}

impl Hold {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Suspended | Self::Left(Mode::Suspended) => Reason::Suspended,
            Self::Detect | Self::Left(_) => Reason::DetectOnly,
            Self::Standby { .. } => Reason::Standby,
            Self::Unleased(_) => Reason::LeaseUnreadable,
            Self::PruneBlocked(_) => Reason::PruneBlocked,
            Self::Protected => Reason::Protected,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended => formatter.write_str("suspended: left alone as it is"),
            Self::Detect => formatter.write_str("only detecting: nothing is changed"),
            Self::Standby { holder } => write!(formatter, "standing by: {holder} holds the lease"),
            Self::Unleased(why) => write!(formatter, "nothing is changed without the lease: {why}"),
            Self::PruneBlocked(why) => write!(formatter, "not deleted: {why}"),
            Self::Protected => formatter.write_str(
                "not deleted: it is protected; put its config back with `deletion: {protect: false}` first, then remove it",
            ),
            Self::Left(mode) => {
                let mode = format!("{mode:?}").to_lowercase();
                write!(
                    formatter,
                    "not deleted: its config said `mode: {mode}` until it was removed; put it back without `mode` first, then remove it"
                )
            }
        }
    }
}

impl Plan {
    /// The same plan with nothing in it to execute.
    #[must_use]
    pub fn held(mut self, hold: &Hold) -> Self {
        let report = &mut self.report;
        self.steps.append(&mut self.later);
        if *hold == Hold::Suspended {
            report.health = Health::Suspended;
            report.conditions.clear();
        }
        self.later = std::mem::take(&mut self.steps);
        let differs = !self.later.is_empty();
        if differs {
            report.sync = Sync::OutOfSync;
        }
        if differs || *hold == Hold::Suspended {
            report.message = hold.to_string();
        }
        report.conditions.push(Condition {
            kind: ConditionKind::Enforced,
            status: ConditionStatus::False,
            reason: hold.reason(),
            message: hold.to_string(),
        });
        report.look_again = None;
        self.garbage.clear();
        self.collects = false;
        self
    }
}
