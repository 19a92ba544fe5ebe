//! Why codeloc shows a plan and does not execute it. Its steps stay visible as later steps.

use std::fmt;

use codeloc_crds::{LocationName, Mode};

use super::Plan;
use crate::deployment::Deployment;
use crate::resources::ObservedResources;
use crate::status::{Condition, ConditionKind, ConditionStatus, Health, Reason, Sync};
use crate::tags;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The config or the daemon's settings say `mode: suspended`.
    Suspended,
    /// The config or the daemon's settings say `mode: detect`: codeloc only reports differences.
    Detect,
    /// Another process holds the lease.
    Standby { holder: String },
    /// codeloc cannot read the lease, for this reason.
    Unleased(String),
    /// The prune guard refuses the deletion, for this reason.
    PruneBlocked(String),
    /// The settings name another cluster or namespace than the one in which the location is. The values are those of [`tags::PLACEMENT`].
    Moved { from: String, to: String },
    /// The config of the removed location said `deletion: {protect: true}`.
    Protected,
    /// The config of the removed location had this mode, which allows no change.
    Left(Mode),
}

impl Hold {
    /// In another cluster, codeloc would not see the service: it would create a second one, and delete the role under the first.
    pub fn of_placement(name: &LocationName, observed: &ObservedResources, deployment: &Deployment) -> Option<Self> {
        let role = observed.role.as_deref()?;
        let from = role.tags.get(tags::PLACEMENT)?;
        let to = tags::placement(deployment);
        let is_owned = tags::may_manage(&role.tags, &deployment.id, name, false);
        (is_owned && *from != to).then(|| Self::Moved { from: from.clone(), to })
    }

    pub fn reason(&self) -> Reason {
        match self {
            Self::Suspended | Self::Left(Mode::Suspended) => Reason::Suspended,
            Self::Detect | Self::Left(_) => Reason::DetectOnly,
            Self::Standby { .. } => Reason::Standby,
            Self::Unleased(_) => Reason::LeaseUnreadable,
            Self::PruneBlocked(_) => Reason::PruneBlocked,
            Self::Moved { .. } => Reason::Moved,
            Self::Protected => Reason::Protected,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended => formatter.write_str("suspended: codeloc reports no drift and changes nothing"),
            Self::Detect => formatter.write_str("mode is detect: codeloc reports drift and changes nothing"),
            Self::Standby { holder } => write!(formatter, "standby: {holder} holds the lease"),
            Self::Unleased(reason) => {
                write!(formatter, "this process does not hold the lease and changes nothing: {reason}")
            }
            Self::PruneBlocked(reason) => write!(formatter, "not deleted: {reason}"),
            Self::Moved { from, to } => write!(
                formatter,
                "unchanged: the location is in {}, and the settings name {}; restore `aws.cluster` and `aws.namespace`; to move the \
                 location, remove its config first, and change the settings after codeloc has deleted it; if the old cluster is gone, \
                 delete the tag `{}` of the location's role",
                place(from),
                place(to),
                tags::PLACEMENT
            ),
            Self::Protected => formatter.write_str(
                "not deleted: the location is protected; restore its config with `deletion: {protect: false}`, wait until it is in \
                 sync, then remove it",
            ),
            Self::Left(mode) => {
                let mode = format!("{mode:?}").to_lowercase();
                write!(
                    formatter,
                    "not deleted: its last config had `mode: {mode}`; restore the config without `mode`, then remove it"
                )
            }
        }
    }
}

fn place(placement: &str) -> String {
    let (cluster, namespace) = placement.split_once('/').unwrap_or((placement, "?"));
    format!("the cluster {cluster} and the namespace {namespace}")
}

impl Plan {
    /// The same plan without steps to execute.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::Report;
    use crate::resources::{Step, log_group};

    fn plan(steps: Vec<Step>) -> Plan {
        let report = Report {
            sync: Sync::Synced,
            health: Health::Healthy,
            message: "in sync".to_owned(),
            conditions: vec![],
            revision: None,
            serving: None,
            address: None,
            look_again: Some(std::time::Duration::ZERO),
        };
        Plan::of(steps, vec![], report)
    }

    fn delete() -> Step {
        Step::LogGroup(log_group::Change::Delete { arn: "arn".into(), name: "orders".to_owned() })
    }

    #[test]
    fn a_held_plan_shows_its_steps_and_executes_none() {
        let held = plan(vec![delete()]).held(&Hold::Detect);
        assert_eq!((held.steps, held.later), (vec![], vec![delete()]));
        assert_eq!((held.report.sync, held.report.message), (Sync::OutOfSync, Hold::Detect.to_string()));
        assert_eq!(held.report.look_again, None);
    }

    #[test]
    fn a_hold_without_a_difference_keeps_the_message() {
        let hold = Hold::Standby { holder: "b/1".to_owned() };
        let report = plan(vec![]).held(&hold).report;
        assert_eq!((report.sync, report.message.as_str()), (Sync::Synced, "in sync"));
        assert!(matches!(&report.conditions[..], [Condition { reason: Reason::Standby, .. }]));
    }

    #[test]
    fn a_suspended_location_has_no_other_condition() {
        let held = plan(vec![]).held(&Hold::Suspended).report;
        assert_eq!((held.health, held.message), (Health::Suspended, Hold::Suspended.to_string()));
        assert_eq!(held.conditions.len(), 1);
    }

    #[test]
    fn a_removed_location_reports_the_mode_of_its_last_config() {
        assert_eq!(Hold::Left(Mode::Suspended).reason(), Reason::Suspended);
        assert_eq!(Hold::Left(Mode::Detect).reason(), Reason::DetectOnly);
        assert!(Hold::Left(Mode::Detect).to_string().contains("`mode: detect`"));
    }
}
