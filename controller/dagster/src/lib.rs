//! Talks to Dagster: the code server's gRPC proves a location, the webserver's GraphQL shows what Dagster loaded, and
//! [`workspace`] is the only writer of `workspace.yaml`.

pub mod code_server;
pub mod text;
pub mod webserver;
pub mod workspace;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;

use codeloc_core::dagster::{Answer, WebLocation};

/// Port: one running code server.
pub trait CodeServer: Send + Sync + 'static {
    fn ask(&self, address: SocketAddr) -> impl Future<Output = Answer> + Send;
}

/// Port: the Dagster webserver.
pub trait Webserver: Send + Sync + 'static {
    /// Whether it answers at all: asked often, so that it has to be cheap.
    fn ping(&self) -> impl Future<Output = Result<(), WebError>> + Send {
        async { self.locations().await.map(drop) }
    }
    /// All locations by name, in one query.
    fn locations(&self) -> impl Future<Output = Result<BTreeMap<String, WebLocation>, WebError>> + Send;
    /// Reads workspace.yaml again. Call only when membership or a host changed: the webserver loads serially.
    fn reload_workspace(&self) -> impl Future<Output = Result<(), WebError>> + Send;
    /// Connects to one location again, where it shows definitions of an old revision.
    fn reload_location(&self, name: &str) -> impl Future<Output = Result<WebLocation, WebError>> + Send;
    /// Whether a run of this location is queued or has not ended: it may start from a definition that nothing else names.
    fn has_unfinished_runs(&self, location: &str) -> impl Future<Output = Result<bool, WebError>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("the webserver did not answer: {0}")]
    Unreachable(String),
    #[error("the webserver refused: {0}")]
    Refused(String),
}

/// What comes before the words of a server that is no webserver.
const NOT_JSON: &str = ", not JSON: ";

impl WebError {
    /// The error without words of the other side that may be different each time.
    pub fn topic(&self) -> String {
        let text = self.to_string();
        text.split_once(NOT_JSON).map_or(text.as_str(), |(before, _)| before).to_owned()
    }
}
