//! Asking the tasks of a location which revision they serve.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use codeloc_aws::resources as aws;
use codeloc_aws::{CallError, Session};
use codeloc_core::dagster::Answer;
use codeloc_core::dagster::Entry;
use codeloc_core::lock::lock;
use codeloc_core::planner::Answered;
use codeloc_core::resources::{ObservedResources, discovery, service};
use codeloc_crds::LocationName;
use codeloc_dagster::CodeServer;
use futures::StreamExt;

/// Tasks of one location that codeloc asks at the same time.
const ASKED_AT_ONCE: usize = 8;

/// The addresses of each location's tasks, so that a pass does not ask Cloud Map each time.
#[derive(Debug, Default)]
pub struct Instances {
    found: Mutex<HashMap<LocationName, Found>>,
}

/// Addresses, and the state in which they are valid.
#[derive(Clone, Debug)]
struct Found {
    addresses: Vec<SocketAddr>,
    registry: String,
    deployment: String,
}

impl Found {
    /// Whether the Cloud Map service and the ECS service are still the same.
    fn is_valid(&self, discovery: &discovery::Observed, service: &service::Observed) -> bool {
        let number = i32::try_from(self.addresses.len()).unwrap_or(i32::MAX);
        self.registry == discovery.id
            && discovery.instances.is_none_or(|count| count == number)
            && service.deployments.len() == 1
            && service.running == number
            && service.primary_id() == self.deployment
    }
}

impl Instances {
    /// Asks every task that Cloud Map lists for this location.
    pub async fn answers<C: CodeServer>(
        &self,
        session: Session<'_>,
        code_server: &C,
        name: &LocationName,
        observed: &ObservedResources,
    ) -> Result<Vec<Answered>, CallError> {
        let (Some(discovery), Some(service)) =
            // Without a running task, there is no call.
            (&observed.discovery, observed.service.as_ref().filter(|service| service.exists() && service.running > 0))
        else {
            return Ok(vec![]);
        };
        let found = lock(&self.found).remove(name).filter(|found| found.is_valid(discovery, service));
        if let Some(found) = found {
            let answers = ask(code_server, &found.addresses).await;
            // ECS may have replaced the task, and given its address to another location.
            let own = |answer: &Answer| matches!(answer, Answer::Loaded { server_id, .. } if observed.has_revision(server_id));
            if answers.iter().all(|answered| own(&answered.answer)) {
                lock(&self.found).insert(name.clone(), found);
                return Ok(answers);
            }
        }
        let addresses = aws::discovery::instances(session, &discovery.id).await?;
        let answers = ask(code_server, &addresses).await;
        let (registry, deployment) = (discovery.id.clone(), service.primary_id().to_owned());
        lock(&self.found).insert(name.clone(), Found { addresses, registry, deployment });
        Ok(answers)
    }

    pub fn forget(&self, name: &LocationName) {
        lock(&self.found).remove(name);
    }
}

/// The answer at the published address, if a foreign server gives it: a task of another location may have received the address, and
/// Cloud Map no longer lists it for this one.
pub async fn foreign_at<C: CodeServer>(
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
