//! What the code servers at a location's addresses prove. Only the id of one of the location's own revisions is proof: an address that one task
//! frees is the next one's, and that may be another location's.

use std::net::SocketAddr;

use super::{Answered, Input, WebserverState, host};
use crate::dagster::Answer;
use crate::dagster::Entry;
use crate::deployment::Address;
use crate::resources::workspace;

/// A revision that answered with its definitions loaded, and where Dagster reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proven {
    pub revision: String,
    pub entry: Entry,
    /// Whether every instance answered with this revision.
    pub agreed: bool,
}

/// The wanted revision where some instance has it loaded, else the one that serves.
pub(super) fn proven(input: &Input<'_>, wanted: Option<&str>) -> Option<Proven> {
    let mut loaded: Vec<(SocketAddr, &str)> = loaded(input).filter(|(_, id)| is_own(input, wanted, id)).collect();
    loaded.sort();
    let revision = loaded
        .iter()
        .map(|(_, id)| *id)
        .find(|id| Some(*id) == wanted)
        .or_else(|| loaded.first().map(|(_, id)| *id))?;
    let agreed = loaded.len() == input.answers.len() && loaded.iter().all(|(_, id)| *id == revision);
    let addresses = || loaded.iter().filter(|(_, id)| *id == revision).map(|(address, _)| *address);
    let entry = match &input.deployment.address {
        Address::Dns { .. } => Entry { host: host(input.deployment, input.name), port: input.deployment.port },
        Address::Discovered => {
            // An address that still answers is kept, so that replicas do not make the file flap.
            let published = input.workspace.entry.as_ref();
            addresses().map(entry).find(|entry| Some(entry) == published).or_else(|| addresses().next().map(entry))?
        }
    };
    Some(Proven { revision: revision.to_owned(), entry, agreed })
}

/// Whether a server id is that of one of the location's own revisions: one that is registered, or the one that is wanted.
pub(super) fn is_own(input: &Input<'_>, wanted: Option<&str>, id: &str) -> bool {
    Some(id) == wanted || input.observed.has_revision(id)
}

/// Where a code server answers that is certainly not this location's, and with which id.
pub(super) fn foreign<'a>(input: &Input<'a>, wanted: Option<&'a str>) -> impl Iterator<Item = (SocketAddr, &'a str)> {
    // Which id a definition has that is registered no more is not known: then no id is certainly foreign.
    let certain = input.observed.knows_its_revisions();
    let input = *input;
    loaded(&input).filter(move |(_, id)| certain && !is_own(&input, wanted, id)).collect::<Vec<_>>().into_iter()
}

/// What follows for the entry in `workspace.yaml`.
pub(super) fn change(input: &Input<'_>, proven: Option<&Proven>, wanted: Option<&str>) -> Option<workspace::Change> {
    let Some(Proven { revision, entry, agreed }) = proven else { return withdrawal(input, wanted) };
    let webserver = matches!(input.webserver, WebserverState::Answers);
    workspace::diff(input.name, entry, revision, input.workspace, webserver && *agreed)
}

/// Takes the entry out where it leads to another location's code server, and none of the location's own is there to be published instead.
fn withdrawal(input: &Input<'_>, wanted: Option<&str>) -> Option<workspace::Change> {
    let published = input.workspace.entry.as_ref()?;
    let leads_there = |address: SocketAddr| match &input.deployment.address {
        Address::Dns { .. } => true,
        Address::Discovered => entry(address) == *published,
    };
    let (_, found) = foreign(input, wanted).find(|(address, _)| leads_there(*address))?;
    Some(workspace::Change::Withdraw {
        name: input.name.to_owned(),
        from: format!("{}:{}", published.host, published.port),
        found: found.to_owned(),
    })
}

fn loaded<'a>(input: &Input<'a>) -> impl Iterator<Item = (SocketAddr, &'a str)> {
    let of = |answered: &'a Answered| match &answered.answer {
        Answer::Loaded { server_id, .. } => Some((answered.address, server_id.as_str())),
        Answer::LoadError { .. } | Answer::Unreachable { .. } => None,
    };
    input.answers.iter().filter_map(of)
}

fn entry(address: SocketAddr) -> Entry {
    Entry { host: address.ip().to_string(), port: address.port() }
}
