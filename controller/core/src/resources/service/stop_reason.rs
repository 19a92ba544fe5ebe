//! Why tasks of a revision stopped: because of the revision, or for a transient reason, such as missing capacity or a deleted resource that
//! codeloc creates again. After a transient failure, the same revision may start a few minutes later.
//!
//! Only ECS's stop reason decides which of the two it is. The log explains the failure: any task of the revision may have written it, even
//! one that ran for a week.

/// Messages of ECS: the transient ones of its page 'Stopped tasks error codes', and those about a deleted resource of codeloc. In lower case,
/// because the comparison ignores case.
const TRANSIENT: [&str; 9] = [
    "timeout waiting for network interface provisioning",
    "timeout waiting for ephemeralstorage provisioning",
    "service discovery registration failed",
    "insufficient free addresses",
    "insufficientfreeaddresses",
    "task provisioning failed",
    "capacity is unavailable",
    "the specified log group does not exist",
    "unable to assume the role",
];
/// A failed pull is transient only for these reasons, which mean that the network failed. For other reasons, the image is missing.
const PULL: &str = "cannotpullcontainererror";
const TRANSIENT_PULL: [&str; 3] = ["i/o timeout", "eof", "connection reset"];

/// The image is gone. This is transient if codeloc built it, because codeloc builds it again.
const MISSING_IMAGE: [&str; 3] = ["not found", "manifest unknown", "repository does not exist"];

/// Why tasks of a revision failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureExcerpt {
    stop_reason: Option<String>,
    text: String,
    /// Whether codeloc could not read the stop reason.
    unexplained: bool,
}

impl FailureExcerpt {
    /// `cause` is the root cause in the log, and `log` its last lines. The text begins with what decided.
    pub fn new(stop_reason: Option<String>, cause: Option<String>, log: &[String]) -> Self {
        let (first, second) = match &stop_reason {
            Some(reason) if is_transient_reason(reason) => (stop_reason.clone(), cause),
            _ => (cause, stop_reason.clone()),
        };
        let lines: Vec<String> = first.into_iter().chain(second).chain(log.iter().cloned()).collect();
        Self { stop_reason, text: lines.join("\n"), unexplained: false }
    }

    /// The stop reason cannot be read now, for this reason.
    pub fn unexplained(why: String) -> Self {
        Self { stop_reason: None, text: why, unexplained: true }
    }

    pub fn is_unexplained(&self) -> bool {
        self.unexplained
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for FailureExcerpt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Whether the failure is transient. Without a stop reason of ECS, it is not. `builds_image` is whether codeloc builds the image.
pub fn is_transient(excerpt: &FailureExcerpt, builds_image: bool) -> bool {
    let is_missing = |reason: &str| {
        let reason = reason.to_lowercase();
        builds_image && reason.contains(PULL) && MISSING_IMAGE.iter().any(|text| reason.contains(text))
    };
    excerpt.stop_reason.as_deref().is_some_and(|reason| is_transient_reason(reason) || is_missing(reason))
}

fn is_transient_reason(stop_reason: &str) -> bool {
    let reason = stop_reason.to_lowercase();
    let contains_any = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
    contains_any(&TRANSIENT) || (reason.contains(PULL) && contains_any(&TRANSIENT_PULL))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_INTERFACE: &str = "Timeout waiting for network interface provisioning to complete.";
    const EXITED: &str = "Essential container in task exited; exit code 1";

    fn excerpt(stop_reason: &str, log: &str) -> FailureExcerpt {
        let log: Vec<String> = log.lines().map(str::to_owned).collect();
        FailureExcerpt::new(Some(stop_reason.to_owned()), log.last().cloned(), &log)
    }

    #[test]
    fn missing_capacity_is_transient_and_an_error_of_the_code_is_not() {
        for reason in [
            NO_INTERFACE,
            "CannotPullContainerError: ref pull has been retried 5 time(s): dial tcp: i/o timeout",
            "ResourceInitializationError: failed to create Cloudwatch log stream: The specified log group does not exist: /a",
        ] {
            assert!(is_transient(&excerpt(reason, ""), false), "{reason}");
        }
        for reason in ["", EXITED, "CannotPullContainerError: manifest unknown"] {
            assert!(!is_transient(&excerpt(reason, ""), false), "{reason}");
        }
        assert!(!is_transient(&FailureExcerpt::default(), false));
    }

    #[test]
    fn a_log_does_not_hide_a_transient_failure() {
        for log in ["Started Dagster code server", "ModuleNotFoundError: No module named 'nothing'"] {
            let excerpt = excerpt(NO_INTERFACE, log);
            assert!(is_transient(&excerpt, false), "{log}");
            assert!(excerpt.as_str().starts_with(NO_INTERFACE), "{excerpt}");
            assert!(excerpt.as_str().ends_with(log), "{excerpt}");
        }
    }

    #[test]
    fn a_log_does_not_make_a_failure_transient() {
        for log in [NO_INTERFACE, "botocore: unable to assume the role of the warehouse"] {
            let excerpt = excerpt(EXITED, log);
            assert!(!is_transient(&excerpt, false), "{log}");
            assert!(excerpt.as_str().starts_with(log), "{excerpt}");
        }
        let log = [NO_INTERFACE.to_owned()];
        assert!(!is_transient(&FailureExcerpt::new(None, Some(NO_INTERFACE.to_owned()), &log), false));
    }

    #[test]
    fn a_missing_image_is_transient_only_if_codeloc_builds_it() {
        for reason in [
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref a: a: not found",
            "CannotPullContainerError: manifest unknown",
        ] {
            assert!(is_transient(&excerpt(reason, ""), true) && !is_transient(&excerpt(reason, ""), false), "{reason}");
        }
        assert!(!is_transient(&excerpt("CannotPullContainerError: access denied", ""), true));
        assert!(!is_transient(&excerpt("FileNotFoundError: file not found", ""), true));
    }
}
