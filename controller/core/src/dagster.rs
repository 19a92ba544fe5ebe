//! What Dagster's servers answer, and how Dagster reaches a location.

/// What a code server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Definitions are loaded.
    Loaded { server_id: String, repositories: Vec<String> },
    /// The server is up but the user's code failed: Dagster's own text.
    LoadError { server_id: String, message: String },
    /// Nobody answered in time, or the connection was refused.
    Unreachable { message: String },
}

/// One location as the webserver has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebLocation {
    Loaded { server_id: Option<String> },
    Error { message: String },
    Loading,
}

/// Where Dagster reaches one location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub host: String,
    pub port: u16,
}
