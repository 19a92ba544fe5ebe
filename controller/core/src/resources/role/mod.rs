//! Roles: what a location's code may do in AWS, which is its own S3 prefix and nothing of its neighbours; and, where it has secrets, what
//! ECS may do to start its tasks.

mod policy;

use std::collections::BTreeMap;

use codeloc_crds::Location;
use serde::Serialize;
use serde_json::Value;

use super::drift::{Found, TrackedField};
use super::{Description, Effect, Field};
use crate::deployment::Deployment;
use crate::names;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub use policy::Document;

/// The one inline policy of a role.
pub const POLICY_NAME: &str = "codeloc";

pub const TRACKED_FIELDS: &[TrackedField] = &[
    TrackedField::report_only("path", "the path in its ARN", "delete the role by hand, and it is made anew"),
    TrackedField::new("trust", "the trust policy, whatever the order of its lists", "iam:UpdateAssumeRolePolicy"),
    TrackedField::new("policy", "the inline policy `codeloc`, whatever the order of its lists", "iam:PutRolePolicy"),
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
    pub permissions_boundary: Option<String>,
    pub tags: Tags,
}

impl Desired {
    pub fn arn(&self, deployment: &Deployment) -> String {
        arn_of(&self.name, deployment)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub arn: String,
    pub name: String,
    pub path: String,
    pub trust: Document,
    /// Inline policies by name.
    pub policies: BTreeMap<String, Document>,
    /// ARNs of managed policies attached to it.
    pub attached: Vec<String>,
    pub permissions_boundary: Option<String>,
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
        from: Option<String>,
        to: Option<String>,
    },
    PutPolicy {
        name: String,
        policy: Value,
        created: bool,
    },
    /// A policy somebody added: it would widen what the location may do.
    RemovePolicy {
        name: String,
        policy: String,
    },
    Detach {
        name: String,
        policy_arn: String,
    },
    Tag {
        name: String,
        tags: Tags,
    },
    /// Only told: a role keeps its path.
    Immutable {
        name: String,
        path: String,
        desired: String,
    },
    Delete {
        name: String,
        policies: Vec<String>,
        attached: Vec<String>,
    },
}

/// Known before the role exists: account, path and name decide it.
fn arn_of(name: &str, deployment: &Deployment) -> String {
    format!("arn:{}:iam::{}:role{}{name}", deployment.partition, deployment.account, names::role_path(&deployment.id))
}

/// ARN of the role that a location's code has.
pub fn arn(location: &Location, deployment: &Deployment) -> String {
    arn_of(&names::role(&deployment.id, location.name.as_str()), deployment)
}

pub fn desired(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::role(&deployment.id, location.name.as_str()),
        path: names::role_path(&deployment.id),
        trust: policy::trust(deployment),
        policy: policy::access(location, deployment),
        permissions_boundary: deployment.permissions_boundary.clone(),
        tags: tags::wanted(location, deployment),
    }
}

/// The execution role of a location with secrets. One that was made stays, without them, until the location goes: definitions that may
/// still start a task name it.
pub fn desired_execution(location: &Location, deployment: &Deployment) -> Desired {
    Desired {
        name: names::execution_role(&deployment.id, location.name.as_str()),
        policy: policy::execution(location, deployment),
        ..desired(location, deployment)
    }
}

/// ARN of the role with which ECS starts a location's tasks: its own where it has secrets, else the platform's.
pub fn execution_arn(location: &Location, deployment: &Deployment) -> String {
    if location.secrets.is_empty() {
        deployment.execution_role_arn.clone()
    } else {
        arn_of(&names::execution_role(&deployment.id, location.name.as_str()), deployment)
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
    // Creating the role and putting its policy are two calls: a crash between them is repaired here.
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
        let none = || "none".to_owned();
        match self {
            Self::Create(desired) => Description::created(
                &desired.name,
                vec![
                    Field::set("path", &desired.path),
                    Field::set("trust", &desired.trust),
                    Field::set("permissions_boundary", desired.permissions_boundary.clone().unwrap_or_else(none)),
                    Field::set("tags", tags::render(&desired.tags)),
                ],
            ),
            Self::SetTrust { name, trust } => update(name, Field::set("trust", trust), "differs from what is wanted"),
            Self::SetBoundary { name, from, to } => update(
                name,
                Field::changed(
                    "permissions_boundary",
                    from.clone().unwrap_or_else(none),
                    to.clone().unwrap_or_else(none),
                ),
                "differs from the settings",
            ),
            Self::PutPolicy { name, policy, created } => update(
                name,
                Field::set("policy", policy),
                if *created { "the role has no policy yet" } else { "differs from what is wanted" },
            ),
            Self::RemovePolicy { name, policy } => update(
                name,
                Field::changed("foreign_policy", policy, "removed"),
                "a policy that codeloc did not write widens this role",
            ),
            Self::Detach { name, policy_arn } => update(
                name,
                Field::changed("attached_policy", policy_arn, "detached"),
                "a policy that codeloc did not attach widens this role",
            ),
            Self::Tag { name, tags } => Description::tagged(name, tags),
            Self::Immutable { name, path, desired } => update(
                name,
                Field::changed("path", path, desired),
                "a role keeps its path: delete the role by hand, and it is made anew",
            ),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}
