//! Talks to Dagster: the code server's gRPC proves that a location runs, the webserver's GraphQL shows what Dagster has loaded, and
//! [`workspace_file`] is the only writer of `workspace.yaml`.

pub mod code_server;
mod errors;
pub mod text;
pub mod webserver;
pub mod workspace_file;

pub use code_server::CodeServer;
pub use errors::{ParseError, WebError, WorkspaceError};
pub use webserver::Webserver;
