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
use codeloc_core::resources::service::{FailureExcerpt, Rollout};
use codeloc_crds::LocationName;

use super::traceback::root_cause_line;

/// Log lines in which codeloc looks for the cause. Dagster's own error comes last, and the user's before it.
const LAST_LINES: i32 = 300;
/// Log lines that a message shows.
const SHOWN_LINES: usize = 20;

/// The excerpts by location, each read once for a [`Failing`] rollout.
#[derive(Debug, Default)]
pub struct FailureLogs {
    read: Mutex<HashMap<LocationName, Excerpt>>,
}

#[derive(Clone, Debug)]
struct Excerpt {
    failing: Failing,
    failure: FailureExcerpt,
}

/// The rollout that an excerpt explains. When another task fails, or when ECS gives the rollout up, the cause may be another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failing {
    revision: Revision,
    /// The id, the state and the failed tasks of each ECS deployment of the revision.
    deployments: Vec<(String, Rollout, i32)>,
}

impl Failing {
    fn new(revision: &Revision, observed: &ObservedResources) -> Self {
        let of_revision = |arn: &Arn| {
            let mut definitions = observed.task_definitions.iter();
            definitions.any(|definition| definition.arn == *arn && definition.is_revision(revision))
        };
        let deployments = observed.service.iter().flat_map(|service| &service.deployments);
        let deployments = deployments.filter(|one| of_revision(&one.task_definition));
        let deployments = deployments.map(|one| (one.id.clone(), one.rollout, one.failed)).collect();
        Self { revision: revision.clone(), deployments }
    }
}

impl FailureLogs {
    /// The excerpt for this revision. If AWS does not return the stop reason or the log, the text says why.
    pub async fn excerpt(
        &self,
        session: Session<'_>,
        name: &LocationName,
        observed: &ObservedResources,
        revision: &Revision,
    ) -> FailureExcerpt {
        let failing = Failing::new(revision, observed);
        if let Some(failure) = self.known(name, &failing) {
            return failure;
        }
        let stop_reason = match stop_reason(session, name, observed, revision).await {
            Ok(stop_reason) => stop_reason,
            Err(error) => {
                let message = format!("codeloc cannot read why ECS stopped the task: {error}");
                return FailureExcerpt::unexplained(message);
            }
        };
        match log(session, name, revision).await {
            Ok(log) => {
                let failure = excerpt(&log, stop_reason);
                self.keep(name, failing, &failure);
                failure
            }
            Err(error) => {
                let message = format!("codeloc cannot read the log of the failed task: {error}");
                FailureExcerpt::new(stop_reason, Some(message), &[])
            }
        }
    }

    fn known(&self, name: &LocationName, failing: &Failing) -> Option<FailureExcerpt> {
        let read = lock(&self.read);
        read.get(name).filter(|excerpt| excerpt.failing == *failing).map(|excerpt| excerpt.failure.clone())
    }

    /// An empty log may only be late, so codeloc reads it again.
    fn keep(&self, name: &LocationName, failing: Failing, failure: &FailureExcerpt) {
        if !failure.is_empty() {
            lock(&self.read).insert(name.clone(), Excerpt { failing, failure: failure.clone() });
        }
    }

    /// The next attempt may fail for another reason.
    pub fn forget(&self, name: &LocationName) {
        lock(&self.read).remove(name);
    }
}

async fn stop_reason(
    session: Session<'_>,
    name: &LocationName,
    observed: &ObservedResources,
    revision: &Revision,
) -> Result<Option<String>, CallError> {
    // ECS may hold two equal definitions, because the answer to the first registration was lost. Either may have failed.
    let definitions = observed.task_definitions.iter().filter(|definition| definition.is_revision(revision));
    let arns: Vec<&Arn> = definitions.map(|definition| &definition.arn).collect();
    if arns.is_empty() {
        return Ok(None);
    }
    let family = names::task_family(&session.deployment.id, name);
    aws::service::stop_reason(session, &family, &arns).await
}

/// The last lines of the log of this revision.
async fn log(session: Session<'_>, name: &LocationName, revision: &Revision) -> Result<Vec<String>, CallError> {
    let group = names::log_group(&session.deployment.id, name);
    let lines = codeloc_aws::logs::tail(session, &group, revision, LAST_LINES).await?;
    Ok(lines.into_iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect())
}

fn excerpt(log: &[String], stop_reason: Option<String>) -> FailureExcerpt {
    FailureExcerpt::new(stop_reason, root_cause_line(log), &log[log.len().saturating_sub(SHOWN_LINES)..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    fn lines_of(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_excerpt_has_the_cause_first_and_the_log_last() {
        let lines =
            ["Traceback (most recent call last):", "  File \"/a.py\", line 1, in <module>", "KeyError: 'PASSWORD'"];
        let text = excerpt(&lines_of(&lines), Some("Essential container in task exited".to_owned()));
        let text = text.as_str();
        assert!(text.starts_with("KeyError: 'PASSWORD'"), "{text}");
        assert!(text.contains("Essential container in task exited\nTraceback"), "{text}");
        assert!(text.ends_with("KeyError: 'PASSWORD'"), "{text}");
    }

    #[test]
    fn an_excerpt_shows_only_the_last_lines() {
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        let text = excerpt(&lines, None);
        let text = text.as_str();
        assert!(text.contains("line 80\n") && text.ends_with("line 99"), "{text}");
        assert!(!text.contains("line 79"), "{text}");
    }

    fn failing(revision: &str, rollout: Rollout, failed: i32) -> Failing {
        Failing { revision: revision.into(), deployments: vec![("ecs-svc/1".to_owned(), rollout, failed)] }
    }

    #[test]
    fn an_excerpt_is_read_again_for_another_failure() {
        let (logs, orders) = (FailureLogs::default(), location_name("orders"));
        let failure = excerpt(&lines_of(&["KeyError"]), None);
        logs.keep(&orders, failing("r1", Rollout::InProgress, 1), &failure);
        assert_eq!(logs.known(&orders, &failing("r1", Rollout::InProgress, 1)), Some(failure));
        for other in [
            failing("r2", Rollout::InProgress, 1),
            failing("r1", Rollout::InProgress, 2),
            failing("r1", Rollout::Failed, 1),
        ] {
            assert_eq!(logs.known(&orders, &other), None, "{other:?}");
        }
    }

    #[test]
    fn an_empty_log_is_read_again() {
        let (logs, orders) = (FailureLogs::default(), location_name("orders"));
        logs.keep(&orders, failing("r1", Rollout::Failed, 1), &FailureExcerpt::default());
        assert_eq!(logs.known(&orders, &failing("r1", Rollout::Failed, 1)), None);
    }
}
