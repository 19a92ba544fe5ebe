//! A change as a value that commands, logs and events print, and what it means for the rest of its plan.

use serde::{Deserialize, Serialize};

use crate::tags::{REMOVED_AT, TagChange};

/// What a step does to its resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    Update,
    Delete,
}

/// A value that AWS may assign only after codeloc applies the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deferred<T> {
    Known(T),
    AfterApply,
}

impl<T> Deferred<T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::AfterApply => None,
        }
    }
}

impl<T: std::fmt::Display> std::fmt::Display for Deferred<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(value) => value.fmt(formatter),
            Self::AfterApply => formatter.write_str("(known after apply)"),
        }
    }
}

/// One field of a change, as the plan prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    pub name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub to: String,
}

impl Field {
    #[expect(clippy::needless_pass_by_value, reason = "callers pass numbers, texts and references without a borrow")]
    pub fn set(name: &'static str, to: impl ToString) -> Self {
        Self { name, from: None, to: to.to_string() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "as for `set`")]
    pub fn changed(name: &'static str, from: impl ToString, to: impl ToString) -> Self {
        Self { name, from: Some(from.to_string()), to: to.to_string() }
    }

    /// The field, if its value differs.
    pub fn differing<T: PartialEq + ToString>(name: &'static str, observed: &T, desired: &T) -> Option<Self> {
        (observed != desired).then(|| Self::changed(name, observed.to_string(), desired.to_string()))
    }
}

/// A change as the plan, the log and the events print it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    pub action: Action,
    /// The resource's own name.
    pub name: String,
    pub fields: Vec<Field>,
    /// Why this step is in the plan.
    pub reason: String,
}

impl Description {
    pub fn created(name: &str, fields: Vec<Field>) -> Self {
        Self { action: Action::Create, name: name.to_owned(), fields, reason: "does not exist".to_owned() }
    }

    pub fn updated(name: &str, fields: Vec<Field>, reason: &str) -> Self {
        Self { action: Action::Update, name: name.to_owned(), fields, reason: reason.to_owned() }
    }

    pub fn tagged(name: &str, tags: &TagChange) -> Self {
        let reason = if tags.set.contains_key(REMOVED_AT) {
            "codeloc waits for runs since this time"
        } else if tags.remove.contains(REMOVED_AT) {
            "the config is back"
        } else if tags.remove.is_empty() {
            "tags are missing"
        } else {
            "the config has other tags"
        };
        Self::updated(name, vec![Field::set("tags", tags)], reason)
    }

    pub fn deleted(name: &str) -> Self {
        let (name, reason) = (name.to_owned(), "no config uses it any more".to_owned());
        Self { action: Action::Delete, name, fields: vec![], reason }
    }
}

/// What happens when codeloc executes a change. Each kind assigns one to each of its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It creates something, and the answer of AWS contains its whole state.
    Creates,
    /// It creates a service, and ECS starts the first rollout.
    CreatesAndRollsOut,
    /// ECS starts a rollout.
    RollsOut,
    /// It changes, tags or deletes something that exists.
    Modifies,
    /// It only reports a difference, because AWS has no call that removes it.
    Reports,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_listed_only_if_its_value_differs() {
        assert_eq!(Field::differing("count", &1, &1), None);
        assert_eq!(Field::differing("count", &1, &2), Some(Field::changed("count", "1", "2")));
    }

    #[test]
    fn a_value_that_aws_assigns_is_shown_as_such() {
        assert_eq!(Deferred::<String>::AfterApply.to_string(), "(known after apply)");
        assert_eq!(Deferred::Known("arn".to_owned()).to_string(), "arn");
    }
}
