//! The answers of Dagster's code servers and webserver, and the address of a location.

/// The answer of a code server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has loaded its definitions.
    Loaded { server_id: String, repositories: Vec<String> },
    /// The server runs, but the location's code failed to load. The message is Dagster's.
    LoadError { server_id: String, message: String },
    /// It did not answer in time, or refused the connection.
    Unreachable { message: String },
}

/// The state of a location in the webserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebLocation {
    Loaded { server_id: Option<String> },
    Error { message: String },
    Loading,
}

/// The address at which Dagster reaches a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub host: String,
    pub port: u16,
}
