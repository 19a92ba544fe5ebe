//! Why tasks stopped, as far as it says whether their revision is to blame. What was short, slow or missing around a task passes, or is put
//! back by codeloc itself; the same revision may start well a few minutes later.

/// In ECS's words: the transient ones of its page 'Stopped tasks error codes', and what is said where a resource of codeloc's own was deleted
/// by hand. Compared without regard to case.
const PASSING: [&str; 9] = [
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
/// A pull that failed for one of these found no network; any other one found no image.
const PULL: &str = "cannotpullcontainererror";
const PULL_PASSES: [&str; 3] = ["i/o timeout", "eof", "connection reset"];

/// Whether these last words, of which the first line says most, speak against the circumstances and not against the revision.
pub fn passes(failure_excerpt: &str) -> bool {
    let first = failure_excerpt.lines().next().unwrap_or_default().to_lowercase();
    let says_one_of = |all: &[&str]| all.iter().any(|words| first.contains(words));
    says_one_of(&PASSING) || (first.contains(PULL) && says_one_of(&PULL_PASSES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circumstances_pass_and_errors_of_the_code_do_not() {
        for words in [
            "Timeout waiting for network interface provisioning to complete.",
            "CannotPullContainerError: ref pull has been retried 5 time(s): dial tcp: i/o timeout",
            "ResourceInitializationError: failed to create Cloudwatch log stream: The specified log group does not exist: /a",
        ] {
            assert!(passes(words), "{words}");
        }
        for words in [
            "",
            "ModuleNotFoundError: No module named 'nothing'\nTimeout waiting for network interface provisioning to complete.",
            "Essential container in task exited; exit code 1",
            "CannotPullContainerError: manifest unknown",
        ] {
            assert!(!passes(words), "{words}");
        }
    }
}
