//! One error for all calls, classified by what helps.

use std::time::Duration;

/// What to do about a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Network, 5xx, a conflict with another change: the same call may go through later.
    Transient,
    /// Rate limits, which sometimes hide in the message of another error (dagster#33439).
    Throttled,
    /// Something made a moment ago is not visible yet, such as a role that ECS cannot assume.
    NotYet,
    /// This process may not change anything, or not any more: another one holds the lease.
    Fenced,
    /// Only a change of config, settings or permissions helps.
    Terminal,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.summary())]
pub struct CallError {
    pub operation: &'static str,
    pub class: Class,
    /// AWS's error code, or empty where no answer came.
    pub code: String,
    pub message: String,
}

impl CallError {
    /// An answer that lacks what AWS always sends.
    pub fn malformed(operation: &'static str, what: &str) -> Self {
        Self { operation, class: Class::Terminal, code: String::new(), message: format!("the answer has no {what}") }
    }

    pub fn no_answer(operation: &'static str, within: Duration) -> Self {
        Self::unanswered(operation, Class::Transient, &format!("no answer within {within:?}"))
    }

    /// Without any answer of AWS.
    pub(crate) fn unanswered(operation: &'static str, class: Class, message: &str) -> Self {
        Self { operation, class, code: String::new(), message: message.to_owned() }
    }

    /// Whether AWS said that it did nothing, and that the same call may go through later.
    pub fn refused_for_now(&self) -> bool {
        !self.code.is_empty() && matches!(self.class, Class::Throttled | Class::NotYet)
    }

    /// Operation, code and message, as far as there are any.
    fn summary(&self) -> String {
        let parts = [self.operation, &self.code, &self.message];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    pub fn is(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }
}

/// In what AWS says of a call that it refused for its rate; ECS says it in other errors' messages too (dagster#33439).
pub(crate) const THROTTLED: [&str; 5] =
    ["Throttl", "TooManyRequests", "RequestLimitExceeded", "Rate exceeded", "SlowDown"];

pub(crate) fn classify(code: &str, message: &str, status: Option<u16>) -> Class {
    if THROTTLED.iter().any(|word| code.contains(word) || message.contains(word)) {
        return Class::Throttled;
    }
    // ECS refuses a role for up to a minute after it was made, and a service its fresh Cloud Map registry.
    let not_yet = [
        "unable to assume",
        "is not authorized to perform: iam:PassRole",
        "Role is not valid",
        "verify that the ECS service role",
    ];
    if not_yet.iter().any(|words| message.contains(words)) {
        return Class::NotYet;
    }
    let conflicts = [
        "ConcurrentUpdateException",
        "ConcurrentModification",
        "OperationAborted",
        "ServiceUnavailable",
        "ResourceInUse",
        "UpdateInProgressException",
        // Made by a call whose answer was lost, or not visible to the last read yet: the next observation tells.
        "AlreadyExists",
    ];
    if code.is_empty() || status.is_some_and(|status| status >= 500) || conflicts.iter().any(|word| code.contains(word))
    {
        return Class::Transient;
    }
    Class::Terminal
}
