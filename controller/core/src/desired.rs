//! The desired state of a location, as far as its config defines it.

/// An invalid config: codeloc changes nothing of its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Relative to the folder of configs.
    pub path: String,
    /// One line.
    pub message: String,
    /// With file, line, caret and hint; without colors.
    pub rendered: String,
}
