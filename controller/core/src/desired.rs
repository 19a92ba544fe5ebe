//! What a location is to be, as far as its config says.

/// A config that does not pass: the location stays exactly as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Relative to the folder of configs.
    pub path: String,
    /// One line.
    pub message: String,
    /// With file, line, caret and hint; no colour.
    pub rendered: String,
}
