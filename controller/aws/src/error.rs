//! One error for all AWS calls, classified by what resolves it.

use std::time::Duration;

/// How to react to a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Network, 5xx, or a conflict with another change: the same call may succeed later.
    Transient,
    /// Rate limits, which sometimes hide in the message of another error (dagster#33439).
    Throttled,
    /// A new resource is not usable yet, such as a role that ECS cannot assume.
    NotYet,
    /// This process may not change anything, because another process holds the lease.
    Fenced,
    /// Only a change of config, settings or permissions helps.
    Terminal,
}

impl Class {
    /// The label of the class in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transient => "Transient",
            Self::Throttled => "Throttled",
            Self::NotYet => "NotYet",
            Self::Fenced => "Fenced",
            Self::Terminal => "Terminal",
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.summary())]
pub struct CallError {
    pub operation: &'static str,
    pub class: Class,
    /// AWS's error code. Empty without an answer of AWS.
    pub code: String,
    pub message: String,
}

impl CallError {
    /// An answer without a part that AWS always sends.
    pub fn malformed(operation: &'static str, missing: &str) -> Self {
        Self::unanswered(operation, Class::Terminal, &format!("the answer has no {missing}"))
    }

    pub fn no_answer(operation: &'static str, within: Duration) -> Self {
        Self::unanswered(operation, Class::Transient, &format!("no answer within {within:?}"))
    }

    /// An error without an error code of AWS.
    pub(crate) fn unanswered(operation: &'static str, class: Class, message: &str) -> Self {
        Self { operation, class, code: String::new(), message: message.to_owned() }
    }

    /// Whether AWS confirmed that it did nothing, for a reason that lies outside the resource: the rate, a role that it does not see yet, a
    /// permission or a quota. The last known state of the resource is then still true.
    pub fn changed_nothing(&self) -> bool {
        const OUTSIDE: [&str; 4] = ["AccessDenied", "UnauthorizedOperation", "LimitExceeded", "QuotaExceeded"];
        let outside = || OUTSIDE.iter().any(|phrase| self.code.contains(phrase));
        !self.code.is_empty()
            && match self.class {
                Class::Throttled | Class::NotYet => true,
                Class::Terminal => outside(),
                Class::Transient | Class::Fenced => false,
            }
    }

    /// Operation, code and message, without the empty ones.
    fn summary(&self) -> String {
        let parts = [self.operation, &self.code, &self.message];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    pub fn is(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }
}

/// Phrases in AWS's answer to a throttled call. ECS also uses them in the messages of other errors (dagster#33439).
pub(crate) const THROTTLED: [&str; 5] =
    ["Throttl", "TooManyRequests", "RequestLimitExceeded", "Rate exceeded", "SlowDown"];

pub(crate) fn classify(code: &str, message: &str, status: Option<u16>) -> Class {
    if THROTTLED.iter().any(|phrase| code.contains(phrase) || message.contains(phrase)) {
        return Class::Throttled;
    }
    // ECS refuses a new role for up to a minute, and a service its new Cloud Map registry. The first services of an account also wait for
    // the service-linked roles, and Application Auto Scaling for a new service.
    let not_yet = [
        "unable to assume",
        "is not authorized to perform: iam:passrole",
        "role is not valid",
        "verify that the ecs service role",
        "ecs service doesn't exist",
        "service registry could not be validated",
    ];
    let lower = message.to_lowercase();
    if not_yet.iter().any(|phrase| lower.contains(phrase)) {
        return Class::NotYet;
    }
    let conflicts = [
        "ConcurrentUpdateException",
        "ConcurrentModification",
        "OperationAborted",
        "ServiceUnavailable",
        "ResourceInUse",
        "UpdateInProgressException",
        // Created by a call whose answer was lost, or too new for the last read: the next observation shows it.
        "AlreadyExists",
    ];
    let conflict = conflicts.iter().any(|phrase| code.contains(phrase));
    if code.is_empty() || conflict || status.is_some_and(|status| status >= 500) {
        return Class::Transient;
    }
    Class::Terminal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_follows_from_code_message_and_status() {
        for (code, message, status, class) in [
            ("ThrottlingException", "", Some(400), Class::Throttled),
            ("ClientException", "Rate exceeded", Some(400), Class::Throttled),
            ("SlowDown", "", Some(503), Class::Throttled),
            ("ClientException", "ECS was unable to assume the role", Some(400), Class::NotYet),
            ("InvalidParameterException", "Unable to assume the service linked role.", Some(400), Class::NotYet),
            ("ValidationException", "ECS service doesn't exist: service/main/orders-service", Some(400), Class::NotYet),
            (
                "InvalidParameterException",
                "The service registry could not be validated. Route 53 error: \"ServiceNotFound\"",
                Some(400),
                Class::NotYet,
            ),
            (
                "AccessDeniedException",
                "is not authorized to perform: iam:PassRole on resource",
                Some(400),
                Class::NotYet,
            ),
            ("AccessDeniedException", "is not authorized to perform: iam:GetRole", Some(400), Class::Terminal),
            ("ResourceInUse", "", Some(400), Class::Transient),
            ("ServiceAlreadyExists", "", Some(400), Class::Transient),
            ("InternalFailure", "", Some(500), Class::Transient),
            ("", "no route to host", None, Class::Transient),
            ("InvalidParameterException", "", Some(400), Class::Terminal),
        ] {
            assert_eq!(classify(code, message, status), class, "{code}: {message}");
        }
    }

    #[test]
    fn the_text_leaves_out_empty_parts() {
        let error = |code: &str, message: &str| CallError {
            operation: "ecs:ListTasks",
            class: Class::Terminal,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        assert_eq!(error("X", "why").to_string(), "ecs:ListTasks: X: why");
        assert_eq!(error("", "why").to_string(), "ecs:ListTasks: why");
        assert_eq!(error("X", "").to_string(), "ecs:ListTasks: X");
    }

    #[test]
    fn only_an_answer_of_aws_confirms_a_refusal() {
        let error = |class, code: &str| CallError {
            operation: "ecs:CreateService",
            class,
            code: code.to_owned(),
            message: String::new(),
        };
        for (class, code, confirmed) in [
            (Class::Throttled, "ThrottlingException", true),
            (Class::NotYet, "ClientException", true),
            (Class::Terminal, "AccessDeniedException", true),
            (Class::Terminal, "LimitExceeded", true),
            (Class::Terminal, "ServiceQuotaExceededException", true),
            // The last known state of the resource may be wrong.
            (Class::Terminal, "ResourceNotFoundException", false),
            (Class::Transient, "ResourceInUse", false),
            (Class::Transient, "InternalFailure", false),
            (Class::Throttled, "", false),
            (Class::Fenced, "", false),
        ] {
            assert_eq!(error(class, code).changed_nothing(), confirmed, "{class:?} {code}");
        }
    }
}
