//! What becomes of a redirect.
//!
//! git follows none: it would send the header with the token to wherever the host points. A place on the same host, such as that
//! of a renamed repository, is a URL like any other: it is checked, and gets a token only where one is set for it. Any other
//! host is an error that names it.

use super::url::Remote;
use super::{Git, GitError, LARGEST_ANSWER, Output, Program};

/// More than a renamed repository and a missing `.git` need.
const MOST: usize = 3;

impl Git {
    /// Runs a command at a remote, or where that has moved to on its host. `prepare` adds the arguments for a URL.
    pub(super) async fn reach(
        &self,
        remote: &Remote,
        operation: &'static str,
        prepare: impl Fn(Program, &str) -> Program + Send + Sync,
    ) -> Result<Output, GitError> {
        let mut place = remote.clone();
        for _ in 0..=MOST {
            let command = prepare(self.remote_command(&place).await?, &place.url);
            match self.run(command, operation, &place).await {
                Err(GitError::Failed { detail, .. }) if is_redirect(&detail) => place = self.moved(&place).await?,
                answer => return answer,
            }
        }
        let detail = format!("its host redirects more than {MOST} times");
        Err(GitError::Failed { operation, url: remote.shown.clone(), detail })
    }

    /// Where a remote redirects to. Only git's trace tells that.
    async fn moved(&self, place: &Remote) -> Result<Remote, GitError> {
        const OPERATION: &str = "ls-remote";
        let command = self.remote_command(place).await?.arguments(["ls-remote", "--quiet", "--", &place.url, "HEAD"]);
        let command = command.environment([("GIT_TRACE_CURL", "1"), ("GIT_TRACE_CURL_NO_DATA", "1")]);
        let output = self.output(command.largest_output(LARGEST_ANSWER), OPERATION, place).await?;
        let unnamed = || GitError::Failed {
            operation: OPERATION,
            url: place.shown.clone(),
            detail: "its host answers with a redirect to nowhere".to_owned(),
        };
        place.moved_to(location(&output.stderr).ok_or_else(unnamed)?)
    }
}

fn is_redirect(detail: &str) -> bool {
    ["301", "302", "303", "307", "308"].iter().any(|status| detail.contains(&format!("URL returned error: {status}")))
}

/// The last `Location` in a trace of curl's.
fn location(trace: &str) -> Option<&str> {
    let headers = trace.lines().filter_map(|line| line.split_once("<= Recv header: ")?.1.split_once(':'));
    let mut locations = headers.filter(|(name, _)| name.eq_ignore_ascii_case("location"));
    locations.next_back().map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests;
