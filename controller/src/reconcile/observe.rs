//! What one pass sees beyond the AWS resources: what each task says of itself, and the last words of a rollout that failed.

use std::net::SocketAddr;

use futures::StreamExt;

use crate::dagster::CodeServer;
use crate::kinds::aws::{CallError, Session};
use crate::kinds::{Live, discovery, log_group, names, service};
use crate::plan::Answered;

/// Tasks of one location that are asked at once.
const ASKED_AT_ONCE: usize = 8;
/// Lines of log that go with a failure: enough for Dagster's own error, which comes last.
const LAST_LINES: i32 = 20;

/// Asks every task that Cloud Map knows of this location.
pub async fn answers<C: CodeServer>(
    session: Session<'_>,
    code_server: &C,
    live: &Live,
) -> Result<Vec<Answered>, CallError> {
    let (Some(discovery), Some(_)) = (&live.discovery, live.service.as_ref().filter(|service| service.exists())) else {
        return Ok(vec![]);
    };
    let addresses: Vec<SocketAddr> = discovery::aws::instances(session, &discovery.id).await?;
    let mut answers: Vec<Answered> = futures::stream::iter(addresses)
        .map(|address| async move { Answered { address, answer: code_server.ask(address).await } })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    answers.sort_by_key(|answered| answered.address);
    Ok(answers)
}

/// Why tasks of this revision ended: first the one line that says most, then ECS's stop reason and the end of the log.
/// Log streams carry the revision's name, so this is found again after any restart.
pub async fn last_words(session: Session<'_>, name: &str, live: &Live, revision: &str) -> Result<String, CallError> {
    let definition = live.task_definitions.iter().find(|definition| definition.revision() == Some(revision));
    let family = names::task_family(&session.place.deployment, name);
    let stop_reason = match definition {
        Some(definition) => service::aws::stop_reason(session, &family, &definition.arn).await?,
        None => None,
    };
    let group = names::log_group(&session.place.deployment, name);
    let lines = log_group::aws::tail(session, &group, revision, LAST_LINES).await?;
    let log: Vec<String> =
        lines.into_iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
    // A traceback ends with its error.
    let essence = log.last().map(|line| line.trim_start().to_owned());
    Ok(essence.into_iter().chain(stop_reason).chain(log).collect::<Vec<_>>().join("\n"))
}
