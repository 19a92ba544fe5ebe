//! Roles: what a location's code may do in AWS, which is its own S3 prefix and nothing of its neighbours; and, where it has secrets, what
//! ECS may do to start its tasks.

mod policy;

use std::collections::BTreeMap;

use codeloc_crds::Repository;
use serde::Serialize;
use serde_json::Value;

use super::drift::{Found, Watched};
use super::{Description, Field};
use crate::names;
use crate::place::Place;
use crate::shared::Shared;
use crate::tags::{self, Tags};

pub use policy::Document;

/// The one inline policy of a role.
pub const POLICY_NAME: &str = "codeloc";

pub const WATCHED: &[Watched] = &[
    Watched::told("path", "the path in its ARN", "delete the role by hand, and it is made anew"),
    Watched::new("trust", "the trust policy, whatever the order of its lists", "iam:UpdateAssumeRolePolicy"),
    Watched::new("policy", "the inline policy `codeloc`, whatever the order of its lists", "iam:PutRolePolicy"),
    Watched::new("foreign_policy", "no other inline policy", "iam:DeleteRolePolicy"),
    Watched::new("attached_policy", "no managed policy", "iam:DetachRolePolicy"),
    Watched::new(
        "permissions_boundary",
        "the setting's ARN, or none",
        "iam:PutRolePermissionsBoundary, iam:DeleteRolePermissionsBoundary",
    ),
    Watched::tags("iam:TagRole", Found::NextSweep),
];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Want {
    pub name: String,
    /// With slashes at both ends.
    pub path: String,
    pub trust: Value,
    pub policy: Value,
    pub permissions_boundary: Option<String>,
    pub tags: Tags,
}

impl Want {
    pub fn arn(&self, place: &Place) -> String {
        arn_of(&self.name, place)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
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
    Create(Want),
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
        want: String,
    },
    Delete {
        name: String,
        policies: Vec<String>,
        attached: Vec<String>,
    },
}

/// Known before the role exists: account, path and name decide it.
fn arn_of(name: &str, place: &Place) -> String {
    format!("arn:{}:iam::{}:role{}{name}", place.partition, place.account, names::role_path(&place.deployment))
}

/// ARN of the role that a location's code has.
pub fn arn(repository: &Repository, place: &Place) -> String {
    arn_of(&names::role(&place.deployment, repository.name.as_str()), place)
}

pub fn want(repository: &Repository, place: &Place) -> Want {
    Want {
        name: names::role(&place.deployment, repository.name.as_str()),
        path: names::role_path(&place.deployment),
        trust: policy::trust(place),
        policy: policy::access(repository, place),
        permissions_boundary: place.permissions_boundary.clone(),
        tags: tags::wanted(repository, place),
    }
}

/// The execution role of a location with secrets. One that was made stays, without them, until the location goes: definitions that may
/// still start a task name it.
pub fn want_execution(repository: &Repository, place: &Place) -> Want {
    Want {
        name: names::execution_role(&place.deployment, repository.name.as_str()),
        policy: policy::execution(repository, place),
        ..want(repository, place)
    }
}

/// ARN of the role with which ECS starts a location's tasks: its own where it has secrets, else the platform's.
pub fn execution_arn(repository: &Repository, place: &Place) -> String {
    if repository.secrets.is_empty() {
        place.execution_role_arn.clone()
    } else {
        arn_of(&names::execution_role(&place.deployment, repository.name.as_str()), place)
    }
}

pub fn diff(want: &Want, live: Option<&Live>) -> Vec<Change> {
    let name = want.name.clone();
    let Some(live) = live else {
        return vec![
            Change::Create(want.clone()),
            Change::PutPolicy { name, policy: want.policy.clone(), created: true },
        ];
    };
    let mut changes = Vec::new();
    if live.path != want.path {
        changes.push(Change::Immutable { name: name.clone(), path: live.path.clone(), want: want.path.clone() });
    }
    let missing = tags::missing(&live.tags, &want.tags);
    if !missing.is_empty() {
        changes.push(Change::Tag { name: name.clone(), tags: missing });
    }
    if !live.trust.says(&want.trust) {
        changes.push(Change::SetTrust { name: name.clone(), trust: want.trust.clone() });
    }
    if live.permissions_boundary != want.permissions_boundary {
        let (from, to) = (live.permissions_boundary.clone(), want.permissions_boundary.clone());
        changes.push(Change::SetBoundary { name: name.clone(), from, to });
    }
    // Creating the role and putting its policy are two calls: a crash between them is repaired here.
    let current = live.policies.get(POLICY_NAME);
    if !current.is_some_and(|current| current.says(&want.policy)) {
        changes.push(Change::PutPolicy { name: name.clone(), policy: want.policy.clone(), created: current.is_none() });
    }
    for policy in live.policies.keys().filter(|policy| *policy != POLICY_NAME) {
        changes.push(Change::RemovePolicy { name: name.clone(), policy: policy.clone() });
    }
    for policy_arn in &live.attached {
        changes.push(Change::Detach { name: name.clone(), policy_arn: policy_arn.clone() });
    }
    changes
}

pub fn delete(live: &Live) -> Change {
    Change::Delete {
        name: live.name.clone(),
        policies: live.policies.keys().cloned().collect(),
        attached: live.attached.clone(),
    }
}

impl Change {
    pub fn describe(&self) -> Description {
        let update = |name: &str, field: Field, reason: &str| Description::updated(name, vec![field], reason);
        let none = || "none".to_owned();
        match self {
            Self::Create(want) => Description::created(
                &want.name,
                vec![
                    Field::set("path", &want.path),
                    Field::set("trust", &want.trust),
                    Field::set("permissions_boundary", want.permissions_boundary.clone().unwrap_or_else(none)),
                    Field::set("tags", tags::render(&want.tags)),
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
            Self::Immutable { name, path, want } => update(
                name,
                Field::changed("path", path, want),
                "a role keeps its path: delete the role by hand, and it is made anew",
            ),
            Self::Delete { name, .. } => Description::deleted(name),
        }
    }
}
