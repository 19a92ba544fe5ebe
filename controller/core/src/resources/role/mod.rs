//! Roles. The role of a location's code permits its own S3 prefix and granted ones. The execution role of a location with secrets permits
//! ECS to start its tasks.

mod policy;

use std::collections::BTreeMap;

use codeloc_crds::Location;
use serde::Serialize;
use serde_json::Value;

use super::change::{Description, Effect, Field};
use super::tracked_fields::{Found, TrackedField};
use crate::arns;
use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, TagChange, Tags};

pub use policy::{Document, Kept};

/// The inline policy that codeloc writes.
pub const POLICY_NAME: &str = "codeloc";

const CREATE_AGAIN: &str = "delete the role, and codeloc creates it again";

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::report_only("path", "the path in its ARN", CREATE_AGAIN),
    TrackedField::new("trust", "the trust policy, with lists in any order", "iam:UpdateAssumeRolePolicy"),
    TrackedField::new("policy", "the inline policy `codeloc`, with lists in any order", "iam:PutRolePolicy"),
    TrackedField::new("foreign_policy", "no other inline policy", "iam:DeleteRolePolicy"),
    TrackedField::new("attached_policy", "no managed policy", "iam:DetachRolePolicy"),
    TrackedField::new(
        "permissions_boundary",
        "the setting's ARN, or none",
        "iam:PutRolePermissionsBoundary, iam:DeleteRolePermissionsBoundary",
    ),
    TrackedField::tags("iam:TagRole", Found::NextSweep),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Desired {
    pub name: String,
    /// With slashes at both ends.
    pub path: String,
    pub trust: Value,
    pub policy: Value,
    pub permissions_boundary: Option<Arn>,
    pub tags: Tags,
}

impl Desired {
    pub fn arn(&self, deployment: &Deployment) -> Arn {
        arns::role_named(&self.name, deployment)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: Arn,
    pub name: String,
    pub path: String,
    pub trust: Document,
    /// Inline policies by name.
    pub policies: BTreeMap<String, Document>,
    /// ARNs of managed policies attached to it.
    pub attached: Vec<Arn>,
    pub permissions_boundary: Option<Arn>,
    pub tags: Shared<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Create(Desired),
    SetTrust {
        name: String,
        trust: Value,
    },
    SetBoundary {
        name: String,
        from: Option<Arn>,
        to: Option<Arn>,
    },
    PutPolicy {
        name: String,
        policy: Value,
        created: bool,
    },
    /// Deletes a policy that another AWS user added: it would widen the permissions of the location.
    RemovePolicy {
        name: String,
        policy: String,
    },
    Detach {
        name: String,
        policy_arn: Arn,
    },
    Tag {
        name: String,
        tags: TagChange,
    },
    /// Only reported: AWS cannot change the path of a role.
    Immutable {
        name: String,
        path: String,
        desired: String,
    },
    Delete {
        name: String,
        policies: Vec<String>,
        attached: Vec<Arn>,
    },
}

pub fn desired(location: &Location, kept: &Kept, deployment: &Deployment) -> Desired {
    let mut tags = tags::desired(location, deployment);
    tags.insert(tags::PLACEMENT.to_owned(), tags::placement(deployment));
    Desired {
        name: names::role(&deployment.id, &location.name),
        path: names::role_path(&deployment.id),
        trust: policy::trust(deployment),
        policy: policy::access(location, kept, deployment),
        permissions_boundary: deployment.permissions_boundary.clone(),
        tags,
    }
}

/// The execution role of a location with secrets. Without secrets, it stays until no definition names it.
pub fn desired_execution(location: &Location, kept: &Kept, deployment: &Deployment) -> Desired {
    Desired {
        name: names::execution_role(&deployment.id, &location.name),
        policy: policy::execution(location, kept, deployment),
        ..desired(location, kept, deployment)
    }
}

pub fn diff(desired: &Desired, observed: Option<&Observed>) -> Vec<Change> {
    let name = desired.name.clone();
    let Some(observed) = observed else {
        return vec![
            Change::Create(desired.clone()),
            Change::PutPolicy { name, policy: desired.policy.clone(), created: true },
        ];
    };
    let mut changes = Vec::new();
    if observed.path != desired.path {
        changes.push(Change::Immutable {
            name: name.clone(),
            path: observed.path.clone(),
            desired: desired.path.clone(),
        });
    }
    let missing = tags::missing(&observed.tags, &desired.tags);
    if !missing.is_empty() {
        changes.push(Change::Tag { name: name.clone(), tags: missing });
    }
    if !observed.trust.matches(&desired.trust) {
        changes.push(Change::SetTrust { name: name.clone(), trust: desired.trust.clone() });
    }
    if observed.permissions_boundary != desired.permissions_boundary {
        let (from, to) = (observed.permissions_boundary.clone(), desired.permissions_boundary.clone());
        changes.push(Change::SetBoundary { name: name.clone(), from, to });
    }
    // Two calls create a role and put its policy. After a crash between them, this repairs it.
    let current = observed.policies.get(POLICY_NAME);
    if !current.is_some_and(|current| current.matches(&desired.policy)) {
        changes.push(Change::PutPolicy {
            name: name.clone(),
            policy: desired.policy.clone(),
            created: current.is_none(),
        });
    }
    for policy in observed.policies.keys().filter(|policy| *policy != POLICY_NAME) {
        changes.push(Change::RemovePolicy { name: name.clone(), policy: policy.clone() });
    }
    for policy_arn in &observed.attached {
        changes.push(Change::Detach { name: name.clone(), policy_arn: policy_arn.clone() });
    }
    changes
}

pub fn delete(observed: &Observed) -> Change {
    Change::Delete {
        name: observed.name.clone(),
        policies: observed.policies.keys().cloned().collect(),
        attached: observed.attached.clone(),
    }
}

impl Change {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Create(_) | Self::PutPolicy { created: true, .. } => Effect::Creates,
            Self::SetTrust { .. }
            | Self::SetBoundary { .. }
            | Self::PutPolicy { created: false, .. }
            | Self::RemovePolicy { .. }
            | Self::Detach { .. }
            | Self::Tag { .. }
            | Self::Delete { .. } => Effect::Modifies,
            Self::Immutable { .. } => Effect::Reports,
        }
    }

    pub fn describe(&self) -> Description {
        let update = |name: &str, field: Field, reason: &str| Description::updated(name, vec![field], reason);
        let text = |arn: &Option<Arn>| arn.as_ref().map_or_else(|| "none".to_owned(), Arn::to_string);
        match self {
            Self::Create(desired) => Description::created(
                &desired.name,
                vec![
                    Field::set("path", &desired.path),
                    Field::set("trust", &desired.trust),
                    Field::set("permissions_boundary", text(&desired.permissions_boundary)),
                    Field::set("tags", tags::render(&desired.tags)),
                ],
            ),
            Self::SetTrust { name, trust } => {
                update(name, Field::set("trust", trust), "differs from the desired policy")
            }
            Self::SetBoundary { name, from, to } => {
                update(name, Field::changed("permissions_boundary", text(from), text(to)), "differs from the settings")
            }
            Self::PutPolicy { name, policy, created } => update(
                name,
                Field::set("policy", policy),
                if *created { "inline policy is missing" } else { "differs from the desired policy" },
            ),
            Self::RemovePolicy { name, policy } => update(
                name,
                Field::changed("foreign_policy", policy, "removed"),
                "codeloc did not write this policy, and it can extend the permissions of the role",
            ),
            Self::Detach { name, policy_arn } => update(
                name,
                Field::changed("attached_policy", policy_arn, "detached"),
                "codeloc did not attach this policy, and it can extend the permissions of the role",
            ),
            Self::Tag { name, tags } => Description::tagged(name, tags),
            Self::Immutable { name, path, desired } => update(
                name,
                Field::changed("path", path, desired),
                &format!("AWS cannot change the path of a role: {CREATE_AGAIN}"),
            ),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{deployment, location};

    fn observed(desired: &Desired) -> Observed {
        Observed {
            arn: desired.arn(&deployment()),
            name: desired.name.clone(),
            path: desired.path.clone(),
            trust: (&desired.trust).into(),
            policies: [(POLICY_NAME.to_owned(), (&desired.policy).into())].into(),
            attached: vec![],
            permissions_boundary: None,
            tags: desired.tags.clone().into(),
        }
    }

    #[test]
    fn policies_of_others_are_removed() {
        let desired = desired(&location(512, 1, None), &Kept::default(), &deployment());
        let mut observed = observed(&desired);
        assert_eq!(diff(&desired, Some(&observed)), []);
        observed.policies.insert("by-hand".to_owned(), Document::new("{}"));
        observed.attached.push("arn:by-hand".into());
        let changes = diff(&desired, Some(&observed));
        assert!(matches!(&changes[..], [Change::RemovePolicy { .. }, Change::Detach { .. }]), "{changes:?}");
    }

    #[test]
    fn a_role_without_its_policy_gets_one() {
        let desired = desired(&location(512, 1, None), &Kept::default(), &deployment());
        let observed = Observed { policies: BTreeMap::new(), ..observed(&desired) };
        let changes = diff(&desired, Some(&observed));
        assert!(matches!(&changes[..], [Change::PutPolicy { created: true, .. }]), "{changes:?}");
        assert_eq!(changes[0].describe().reason, "inline policy is missing");
    }

    #[test]
    fn only_the_path_cannot_be_changed() {
        let desired = desired(&location(512, 1, None), &Kept::default(), &deployment());
        let observed = Observed { path: "/".to_owned(), ..observed(&desired) };
        let changes = diff(&desired, Some(&observed));
        assert!(matches!(&changes[..], [Change::Immutable { .. }]), "{changes:?}");
        assert_eq!(changes[0].effect(), Effect::Reports);
    }
}
