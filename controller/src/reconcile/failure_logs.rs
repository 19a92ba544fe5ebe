//! Why the tasks of a revision failed: the root cause from the log, ECS's stop reason, and the last lines of the log.
//!
//! Log streams carry the name of the revision, so codeloc finds the reason again after a restart.

use std::collections::HashMap;
use std::sync::Mutex;

use codeloc_aws::resources as aws;
use codeloc_aws::{CallError, Session};
use codeloc_core::ids::{Arn, Revision};
use codeloc_core::lock::lock;
use codeloc_core::names;
use codeloc_core::resources::ObservedResources;
use codeloc_crds::LocationName;

use super::traceback::root_cause_line;

/// Log lines in which codeloc looks for the cause. Dagster's own error comes last, and the user's before it.
const LAST_LINES: i32 = 300;
/// Log lines that a message shows.
const SHOWN_LINES: usize = 20;

/// The excerpts by location, each read once for a revision.
#[derive(Debug, Default)]
pub struct FailureLogs {
    read: Mutex<HashMap<LocationName, Excerpt>>,
}

#[derive(Clone, Debug)]
struct Excerpt {
    revision: Revision,
    text: String,
}

impl FailureLogs {
    /// The excerpt for this revision. If AWS does not return the log, the text says why.
    pub async fn excerpt(
        &self,
        session: Session<'_>,
        name: &LocationName,
        observed: &ObservedResources,
        revision: &Revision,
    ) -> String {
        if let Some(text) = self.known(name, revision) {
            return text;
        }
        match read(session, name, observed, revision).await {
            Ok(text) => {
                self.keep(name, revision, &text);
                text
            }
            Err(error) => format!("codeloc cannot read the log of the failed task: {error}"),
        }
    }

    fn known(&self, name: &LocationName, revision: &Revision) -> Option<String> {
        let read = lock(&self.read);
        read.get(name).filter(|excerpt| excerpt.revision == *revision).map(|excerpt| excerpt.text.clone())
    }

    /// An empty log may only be late, so codeloc reads it again.
    fn keep(&self, name: &LocationName, revision: &Revision, text: &str) {
        if !text.is_empty() {
            let excerpt = Excerpt { revision: revision.clone(), text: text.to_owned() };
            lock(&self.read).insert(name.clone(), excerpt);
        }
    }

    /// The next attempt may fail for another reason.
    pub fn forget(&self, name: &LocationName) {
        lock(&self.read).remove(name);
    }
}

async fn read(
    session: Session<'_>,
    name: &LocationName,
    observed: &ObservedResources,
    revision: &Revision,
) -> Result<String, CallError> {
    // ECS may hold two equal definitions, because the answer to the first registration was lost. Either may have failed.
    let definitions = observed.task_definitions.iter().filter(|definition| definition.is_revision(revision));
    let arns: Vec<&Arn> = definitions.map(|definition| &definition.arn).collect();
    let family = names::task_family(&session.deployment.id, name);
    let stop_reason = if arns.is_empty() { None } else { aws::service::stop_reason(session, &family, &arns).await? };
    let group = names::log_group(&session.deployment.id, name);
    let lines = codeloc_aws::logs::tail(session, &group, revision, LAST_LINES).await?;
    let log: Vec<String> =
        lines.into_iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
    Ok(excerpt(&log, stop_reason))
}

fn excerpt(log: &[String], stop_reason: Option<String>) -> String {
    let shown = &log[log.len().saturating_sub(SHOWN_LINES)..];
    let lines = root_cause_line(log).into_iter().chain(stop_reason).chain(shown.iter().cloned());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    fn log(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_excerpt_has_the_cause_first_and_the_log_last() {
        let lines =
            ["Traceback (most recent call last):", "  File \"/a.py\", line 1, in <module>", "KeyError: 'PASSWORD'"];
        let text = excerpt(&log(&lines), Some("Essential container in task exited".to_owned()));
        assert!(text.starts_with("KeyError: 'PASSWORD'"), "{text}");
        assert!(text.contains("Essential container in task exited\nTraceback"), "{text}");
        assert!(text.ends_with("KeyError: 'PASSWORD'"), "{text}");
    }

    #[test]
    fn an_excerpt_shows_only_the_last_lines() {
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        let text = excerpt(&lines, None);
        assert!(text.contains("line 80\n") && text.ends_with("line 99"), "{text}");
        assert!(!text.contains("line 79"), "{text}");
    }

    #[test]
    fn an_excerpt_is_read_again_for_another_revision() {
        let logs = FailureLogs::default();
        logs.keep(&location_name("orders"), &"r1".into(), "KeyError");
        assert_eq!(logs.known(&location_name("orders"), &"r1".into()).as_deref(), Some("KeyError"));
        assert_eq!(logs.known(&location_name("orders"), &"r2".into()), None);
    }

    #[test]
    fn an_empty_log_is_read_again() {
        let logs = FailureLogs::default();
        logs.keep(&location_name("orders"), &"r1".into(), "");
        assert_eq!(logs.known(&location_name("orders"), &"r1".into()), None);
    }
}
