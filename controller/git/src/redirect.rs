//! Redirects of a git host.
//!
//! git follows none: it would send the header with the token to the target. codeloc follows a redirect to the same host, such as
//! that of a renamed repository: it checks the new URL, and sends a token only if one is set for it. A redirect to another host is
//! an error that names the host.

use crate::error::{CommandError, GitError};
use crate::git::{Git, LARGEST_ANSWER};
use crate::program::{Output, Program};
use crate::url::Remote;

/// More than a renamed repository and a missing `.git` need.
const MAX_REDIRECTS: usize = 3;

impl Git {
    /// Runs a command at a remote and follows redirects on its host. `prepare` adds the arguments for a URL.
    pub(crate) async fn reach(
        &self,
        remote: &Remote,
        operation: &'static str,
        prepare: impl Fn(Program, &str) -> Program + Send + Sync,
    ) -> Result<Output, GitError> {
        let mut place = remote.clone();
        for _ in 0..=MAX_REDIRECTS {
            let command = prepare(self.remote_command(&place).await?, &place.url);
            match self.run(command, operation, &place).await {
                Err(GitError::Failed { source: CommandError::Message(message), .. }) if is_redirect(&message) => {
                    place = self.redirected(&place).await?;
                }
                answer => return answer,
            }
        }
        let message = format!("its host redirects more than {MAX_REDIRECTS} times");
        Err(GitError::Failed { operation, url: remote.shown.clone(), source: CommandError::Message(message) })
    }

    /// The target of a remote's redirect, which only git's trace contains.
    async fn redirected(&self, place: &Remote) -> Result<Remote, GitError> {
        const OPERATION: &str = "ls-remote";
        let command = self.remote_command(place).await?.arguments(["ls-remote", "--quiet", "--", &place.url, "HEAD"]);
        let command = command.environment([("GIT_TRACE_CURL", "1"), ("GIT_TRACE_CURL_NO_DATA", "1")]);
        let output = self.output(command.largest_output(LARGEST_ANSWER), OPERATION, place).await?;
        let no_target = || GitError::Failed {
            operation: OPERATION,
            url: place.shown.clone(),
            source: CommandError::Message("its host answers with a redirect without a target".to_owned()),
        };
        place.moved_to(location(&output.stderr).ok_or_else(no_target)?)
    }
}

fn is_redirect(message: &str) -> bool {
    ["301", "302", "303", "307", "308"].iter().any(|status| message.contains(&format!("URL returned error: {status}")))
}

/// The last `Location` header in curl's trace.
fn location(trace: &str) -> Option<&str> {
    let headers = trace.lines().filter_map(|line| line.split_once("<= Recv header: ")?.1.split_once(':'));
    let mut locations = headers.filter(|(name, _)| name.eq_ignore_ascii_case("location"));
    locations.next_back().map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests;
