//! What one pass sees beyond the AWS resources: what each task says of itself, and the last words of a rollout that failed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use codeloc_aws::resources as aws;
use codeloc_aws::{CallError, Session};
use codeloc_core::dagster::Answer;
use codeloc_core::dagster::Entry;
use codeloc_core::lock::lock;
use codeloc_core::names;
use codeloc_core::planner::Answered;
use codeloc_core::resources::{ObservedResources, discovery, service};
use codeloc_dagster::CodeServer;
use futures::StreamExt;

use crate::reconcile::traceback::root_cause_line;

/// Tasks of one location that are asked at once.
const ASKED_AT_ONCE: usize = 8;
/// Lines of log in which the cause of a failure is looked for: Dagster's own error comes last, and the user's before it.
const LAST_LINES: i32 = 300;
/// Lines of log that go with a failure.
const SHOWN_LINES: usize = 20;

/// Where each location's tasks were found, so that a sweep need not ask Cloud Map for every one of them.
#[derive(Debug, Default)]
pub struct Addresses {
    found: Mutex<HashMap<String, Found>>,
}

/// Addresses, and the circumstances under which they still hold.
#[derive(Clone, Debug)]
struct Found {
    addresses: Vec<SocketAddr>,
    registry: String,
    deployment: String,
}

impl Found {
    /// Whether nothing that Cloud Map and ECS said of the location since speaks against it.
    fn holds(&self, discovery: &discovery::Observed, service: &service::Observed) -> bool {
        let number = i32::try_from(self.addresses.len()).unwrap_or(i32::MAX);
        self.registry == discovery.id
            && discovery.instances.is_none_or(|count| count == number)
            && service.deployments.len() == 1
            && service.running == number
            && service.primary_id() == self.deployment
    }
}

impl Addresses {
    /// Asks every task that Cloud Map knows of this location.
    pub async fn answers<C: CodeServer>(
        &self,
        session: Session<'_>,
        code_server: &C,
        name: &str,
        observed: &ObservedResources,
    ) -> Result<Vec<Answered>, CallError> {
        let (Some(discovery), Some(service)) =
            // Where no task runs, none is asked for.
            (&observed.discovery, observed.service.as_ref().filter(|service| service.exists() && service.running > 0))
        else {
            return Ok(vec![]);
        };
        let found = lock(&self.found).remove(name).filter(|found| found.holds(discovery, service));
        if let Some(found) = found {
            let answers = ask(code_server, &found.addresses).await;
            // A task that was replaced has another address, and its old one may be another location's.
            let own = |answer: &Answer| matches!(answer, Answer::Loaded { server_id, .. } if observed.has_revision(server_id));
            if answers.iter().all(|answered| own(&answered.answer)) {
                lock(&self.found).insert(name.to_owned(), found);
                return Ok(answers);
            }
        }
        let addresses = aws::discovery::instances(session, &discovery.id).await?;
        let answers = ask(code_server, &addresses).await;
        let (registry, deployment) = (discovery.id.clone(), service.primary_id().to_owned());
        lock(&self.found).insert(name.to_owned(), Found { addresses, registry, deployment });
        Ok(answers)
    }

    pub fn forget(&self, name: &str) {
        lock(&self.found).remove(name);
    }
}

/// Who answers at the published address of a location of which no task answers, where that is not the location itself: a task of another
/// one may have got the address since, and Cloud Map no longer lists it here.
pub async fn at_published<C: CodeServer>(
    code_server: &C,
    published: &Entry,
    observed: &ObservedResources,
    answers: &[Answered],
) -> Option<Answered> {
    let address = SocketAddr::new(published.host.parse().ok()?, published.port);
    let own = |answer: &Answer| matches!(answer, Answer::Loaded { server_id, .. } if observed.has_revision(server_id));
    if answers.iter().any(|answered| answered.address == address || own(&answered.answer)) {
        return None;
    }
    let answer = code_server.ask(address).await;
    (matches!(answer, Answer::Loaded { .. }) && !own(&answer)).then_some(Answered { address, answer })
}

async fn ask<C: CodeServer>(code_server: &C, addresses: &[SocketAddr]) -> Vec<Answered> {
    let mut answers: Vec<Answered> = futures::stream::iter(addresses.iter().copied())
        .map(|address| async move { Answered { address, answer: code_server.ask(address).await } })
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await;
    answers.sort_by_key(|answered| answered.address);
    answers
}

/// Why tasks of this revision ended: first the exception that says most, then ECS's stop reason and the end of the log.
/// Log streams carry the revision's name, so this is found again after any restart.
pub async fn failure_excerpt(
    session: Session<'_>,
    name: &str,
    observed: &ObservedResources,
    revision: &str,
) -> Result<String, CallError> {
    // A registration whose answer came too late was made twice: either may be the one that failed.
    let definitions = observed.task_definitions.iter().filter(|definition| definition.revision() == Some(revision));
    let arns: Vec<&str> = definitions.map(|definition| definition.arn.as_str()).collect();
    let family = names::task_family(&session.deployment.id, name);
    let stop_reason = if arns.is_empty() { None } else { aws::service::stop_reason(session, &family, &arns).await? };
    let group = names::log_group(&session.deployment.id, name);
    let lines = codeloc_aws::logs::tail(session, &group, revision, LAST_LINES).await?;
    let log: Vec<String> =
        lines.into_iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
    let root_cause_line = root_cause_line(&log);
    let shown = log.into_iter().rev().take(SHOWN_LINES).collect::<Vec<_>>().into_iter().rev();
    Ok(root_cause_line.into_iter().chain(stop_reason).chain(shown).collect::<Vec<_>>().join("\n"))
}
