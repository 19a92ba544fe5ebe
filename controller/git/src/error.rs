//! What goes wrong with git, in its own words and in ours.

/// What went wrong with a call. URLs are without credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    #[error("{program} cannot be started: {reason}")]
    Start { program: String, reason: String },
    #[error("git {operation} of {url} took longer than {seconds} s")]
    TimedOut { operation: &'static str, url: String, seconds: u64 },
    #[error("git {operation} of {url} failed: {detail}")]
    Failed { operation: &'static str, url: String, detail: String },
    #[error("{url} does not exist, or may not be read with the credentials given: {detail}")]
    RepositoryNotFound { url: String, detail: String },
    #[error("{url} has no {reference}")]
    ReferenceNotFound { url: String, reference: String },
    /// A path, a mode or a submodule that no honest client writes.
    #[error("{url} holds what git refuses: {detail}")]
    Malformed { url: String, detail: String },
    #[error("the token for {url} cannot be read from {path}: {reason}")]
    Token { url: String, path: String, reason: String },
    #[error(
        "{url} redirects to {host}; codeloc follows redirects only to repositories on the same host, so that no token leaves it: \
         write the new URL where this one is written (git_url, source.git_url or git.url_rewrites)"
    )]
    Redirected { url: String, host: String },
    #[error("{url} is refused: {reason}")]
    Refused { url: String, reason: String },
}

impl GitError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::TimedOut { .. }
            | Self::Failed { .. }
            | Self::Token { .. }
            // Hosts redirect to a page while they are maintained.
            | Self::Redirected { .. } => true,
            Self::RepositoryNotFound { .. }
            | Self::ReferenceNotFound { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// What git's own words say about the cause.
pub(super) enum Cause {
    Repository,
    Reference,
    Malformed,
    Other,
}

/// What git's own words say about the cause; hosts answer for a private repository as for one that is not there.
pub(super) fn cause(stderr: &str) -> Cause {
    let text = stderr.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if says(&["fsck error"]) {
        Cause::Malformed
    } else if says(&["couldn't find remote ref", "not our ref", "unadvertised object", "no such remote ref"]) {
        Cause::Reference
    } else if says(&[
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

/// The lines that matter, joined, without control characters.
pub(super) fn one_line(stderr: &str, status: std::process::ExitStatus) -> String {
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
