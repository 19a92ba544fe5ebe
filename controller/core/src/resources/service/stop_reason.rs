//! Whether tasks stopped because of their revision or for a transient reason, such as missing capacity or a deleted resource that codeloc
//! creates again. After a transient failure, the same revision may start a few minutes later.

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

/// Whether the failure is transient. The first line of the excerpt is the root cause.
pub fn is_transient(failure_excerpt: &str) -> bool {
    let first = failure_excerpt.lines().next().unwrap_or_default().to_lowercase();
    let contains_any = |texts: &[&str]| texts.iter().any(|text| first.contains(text));
    contains_any(&TRANSIENT) || (first.contains(PULL) && contains_any(&TRANSIENT_PULL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capacity_is_transient_and_an_error_of_the_code_is_not() {
        for excerpt in [
            "Timeout waiting for network interface provisioning to complete.",
            "CannotPullContainerError: ref pull has been retried 5 time(s): dial tcp: i/o timeout",
            "ResourceInitializationError: failed to create Cloudwatch log stream: The specified log group does not exist: /a",
        ] {
            assert!(is_transient(excerpt), "{excerpt}");
        }
        for excerpt in [
            "",
            "ModuleNotFoundError: No module named 'nothing'\nTimeout waiting for network interface provisioning to complete.",
            "Essential container in task exited; exit code 1",
            "CannotPullContainerError: manifest unknown",
        ] {
            assert!(!is_transient(excerpt), "{excerpt}");
        }
    }
}
