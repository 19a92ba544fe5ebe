//! The revision that a location's code servers have loaded, and what codeloc therefore publishes.
//!
//! Guarantees: only the server id of one of the location's own revisions counts. After a task stops, another location's task may get its
//! address.

use std::net::SocketAddr;

use codeloc_crds::LocationName;

use super::{Answered, Input, WebserverState};
use crate::dagster::{Answer, Entry};
use crate::deployment::{Address, Deployment};
use crate::ids::Revision;
use crate::names;
use crate::resources::workspace;

/// A revision that answered with its definitions loaded, and the address for Dagster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub revision: Revision,
    pub entry: Entry,
    /// Whether every instance answered with this revision.
    pub unanimous: bool,
}

/// The desired revision if an instance has loaded it, else another loaded revision of the location.
pub(super) fn ready(input: &Input<'_>, desired: Option<&Revision>) -> Option<Ready> {
    let mut loaded: Vec<(SocketAddr, &str)> = loaded(input).filter(|(_, id)| is_own(input, desired, id)).collect();
    loaded.sort();
    let revision = loaded
        .iter()
        .map(|(_, id)| *id)
        .find(|id| desired.is_some_and(|desired| desired == id))
        .or_else(|| loaded.first().map(|(_, id)| *id))?;
    let unanimous = loaded.len() == input.answers.len() && loaded.iter().all(|(_, id)| *id == revision);
    let addresses = || loaded.iter().filter(|(_, id)| *id == revision).map(|(address, _)| *address);
    let entry = match &input.deployment.address {
        Address::Dns { .. } => Entry { host: host(input.deployment, input.name), port: input.deployment.port },
        Address::Discovered => {
            // Keep a published address that still answers: with several replicas, the file would change at every read.
            let published = input.workspace.entry.as_ref();
            addresses().map(entry).find(|entry| Some(entry) == published).or_else(|| addresses().next().map(entry))?
        }
    };
    Some(Ready { revision: revision.into(), entry, unanimous })
}

/// Whether a server id belongs to the location: to the desired revision or to a registered one.
pub(super) fn is_own(input: &Input<'_>, desired: Option<&Revision>, id: &str) -> bool {
    desired.is_some_and(|desired| desired == id) || input.observed.has_revision(id)
}

/// The addresses at which another location's code server certainly answers, with its id.
pub(super) fn foreign<'a>(
    input: &Input<'a>,
    desired: Option<&'a Revision>,
) -> impl Iterator<Item = (SocketAddr, &'a str)> {
    // The server id of a deregistered definition is unknown. While a task may run one, no id is certainly foreign.
    let certain = input.observed.knows_its_revisions();
    let input = *input;
    loaded(&input).filter(move |(_, id)| certain && !is_own(&input, desired, id)).collect::<Vec<_>>().into_iter()
}

/// The change of the entry in `workspace.yaml`.
pub(super) fn change(
    input: &Input<'_>,
    ready: Option<&Ready>,
    desired: Option<&Revision>,
) -> Option<workspace::Change> {
    let Some(Ready { revision, entry, unanimous }) = ready else { return withdrawal(input, desired) };
    let webserver = matches!(input.webserver, WebserverState::Answers);
    workspace::diff(input.name, entry, revision, input.workspace, webserver && *unanimous)
}

/// Removes the entry if it leads to another location's code server and none of the location's own code servers is ready.
fn withdrawal(input: &Input<'_>, desired: Option<&Revision>) -> Option<workspace::Change> {
    let published = input.workspace.entry.as_ref()?;
    let is_published = |address: SocketAddr| match &input.deployment.address {
        Address::Dns { .. } => true,
        Address::Discovered => entry(address) == *published,
    };
    let (_, found) = foreign(input, desired).find(|(address, _)| is_published(*address))?;
    Some(workspace::Change::Withdraw {
        name: input.name.clone(),
        from: format!("{}:{}", published.host, published.port),
        found: found.to_owned(),
    })
}

fn loaded<'a>(input: &Input<'a>) -> impl Iterator<Item = (SocketAddr, &'a str)> {
    let server_id = |answered: &'a Answered| match &answered.answer {
        Answer::Loaded { server_id, .. } => Some((answered.address, server_id.as_str())),
        Answer::LoadError { .. } | Answer::Unreachable { .. } => None,
    };
    input.answers.iter().filter_map(server_id)
}

fn entry(address: SocketAddr) -> Entry {
    Entry { host: address.ip().to_string(), port: address.port() }
}

/// The host that codeloc publishes, as far as it is known before a task answers.
pub(super) fn host(deployment: &Deployment, name: &LocationName) -> String {
    match &deployment.address {
        Address::Dns { template } => {
            template.replace("{service}", &names::service(name)).replace("{namespace}", &deployment.namespace)
        }
        Address::Discovered => "(known after apply)".to_owned(),
    }
}
