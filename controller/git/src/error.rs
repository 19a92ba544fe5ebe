//! Errors of git: in codeloc's terms, with git's own message.

use std::io;
use std::sync::Arc;

use crate::program::ProgramError;

/// Why a call failed. URLs are without credentials.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GitError {
    #[error("cannot start {program}: {source}; check that it is installed")]
    Start { program: String, source: Arc<io::Error> },
    #[error("git {operation} of {url} took longer than {seconds} s")]
    TimedOut { operation: &'static str, url: String, seconds: u64 },
    #[error("git {operation} of {url} failed: {source}")]
    Failed { operation: &'static str, url: String, source: CommandError },
    #[error("{url} does not exist, or codeloc's credentials cannot read it: {detail}")]
    RepositoryNotFound { url: String, detail: String },
    #[error("{url} has no {reference}")]
    ReferenceNotFound { url: String, reference: String },
    /// A path, a mode or a submodule that no honest client writes.
    #[error("git refuses the content of {url}: {detail}")]
    Malformed { url: String, detail: String },
    #[error("cannot read the token for {url} from {path}: {source}")]
    Token { url: String, path: String, source: TokenError },
    #[error(
        "{url} redirects to {host}; codeloc follows redirects only to repositories on the same host, so that no token leaves it: \
         write the new URL where this one is written (git_url, source.git_url or git.url_rewrites)"
    )]
    Redirected { url: String, host: String },
    #[error("codeloc refuses {url}: {reason}")]
    Refused { url: String, reason: String },
}

/// Equal if variant and text are equal: the text contains every field, and an I/O error has no equality itself.
impl PartialEq for GitError {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.to_string() == other.to_string()
    }
}

impl Eq for GitError {}

/// Why one git command failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    /// git's own message, or codeloc's about git's answer.
    #[error("{0}")]
    Message(String),
    #[error("{0}")]
    Io(#[source] Arc<io::Error>),
    #[error("{path}: {source}")]
    File { path: String, source: Arc<io::Error> },
    #[error("{0}")]
    Program(#[source] ProgramError),
}

/// Why there is no token. Never contains the content of the file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{0}")]
    Read(#[source] Arc<io::Error>),
    #[error("the file must contain exactly one line of text")]
    NotOneLine,
}

impl GitError {
    /// Whether the same call may succeed later without a change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::TimedOut { .. }
            | Self::Failed { .. }
            | Self::Token { .. }
            // Hosts redirect to a page during maintenance.
            | Self::Redirected { .. } => true,
            Self::RepositoryNotFound { .. }
            | Self::ReferenceNotFound { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// The cause of a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Repository,
    Reference,
    Malformed,
    Other,
}

/// Derives the cause from git's message. A host answers for a private repository as for a missing one.
pub(crate) fn cause(stderr: &str) -> Cause {
    let text = stderr.to_lowercase();
    let contains = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if contains(&["fsck error"]) {
        Cause::Malformed
    } else if contains(&["couldn't find remote ref", "not our ref", "unadvertised object", "no such remote ref"]) {
        Cause::Reference
    } else if contains(&[
        "repository not found",
        "does not appear to be a git repository",
        "does not exist",
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied",
        "host key verification failed",
        "returned error: 401",
        "returned error: 403",
    ]) || (text.contains("repository '") && text.contains("' not found"))
    {
        Cause::Repository
    } else {
        Cause::Other
    }
}

/// The first lines of git's message, joined, without control characters.
pub(crate) fn one_line(stderr: &str, status: std::process::ExitStatus) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .map(|line| line.trim().trim_start_matches("fatal: ").trim_start_matches("error: "))
        .filter(|line| !line.is_empty())
        .take(5)
        .collect();
    if lines.is_empty() {
        return status.to_string();
    }
    lines.join("; ").chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn the_cause_follows_from_the_message_of_git() {
        for (message, expected) in [
            ("fatal: couldn't find remote ref refs/heads/x", Cause::Reference),
            ("fatal: remote error: upload-pack: not our ref 0123", Cause::Reference),
            ("fatal: repository 'https://host/x/' not found", Cause::Repository),
            ("The requested URL returned error: 403", Cause::Repository),
            ("git@host: Permission denied (publickey).", Cause::Repository),
            ("error: object 01: gitmodulesUrl\nfatal: fsck error in packed object", Cause::Malformed),
            ("fatal: unable to access: Could not resolve host: host", Cause::Other),
        ] {
            assert_eq!(cause(message), expected, "{message}");
        }
    }

    #[test]
    fn a_message_is_one_line_without_prefixes() {
        let status = ExitStatus::from_raw(128 << 8);
        assert_eq!(one_line("fatal: a\n\n  error: b\u{1b}[0m\n", status), "a; b[0m");
        assert_eq!(one_line("\n", status), "exit status: 128");
        assert!(one_line(&"x".repeat(1000), status).len() == 500);
    }

    #[test]
    fn only_a_change_helps_after_a_refusal() {
        let url = || "https://host/x".to_owned();
        assert!(GitError::TimedOut { operation: "fetch", url: url(), seconds: 1 }.is_transient());
        assert!(GitError::Token { url: url(), path: String::new(), source: TokenError::NotOneLine }.is_transient());
        assert!(!GitError::Refused { url: url(), reason: String::new() }.is_transient());
        assert!(!GitError::ReferenceNotFound { url: url(), reference: String::new() }.is_transient());
    }

    #[test]
    fn errors_with_the_same_cause_are_equal() {
        let failed = |kind: io::ErrorKind| GitError::Failed {
            operation: "commit",
            url: "https://host/x".to_owned(),
            source: CommandError::Io(Arc::new(kind.into())),
        };
        assert_eq!(failed(io::ErrorKind::NotFound), failed(io::ErrorKind::NotFound));
        assert_ne!(failed(io::ErrorKind::NotFound), failed(io::ErrorKind::PermissionDenied));
    }
}
