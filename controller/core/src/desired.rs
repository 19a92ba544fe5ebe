//! The desired state of a location: its config and its image.

use std::sync::Arc;

use codeloc_crds::Location;

use crate::ids::Commit;
use crate::image::ImageStatus;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    Present(Box<DesiredLocation>),
    /// The config is invalid: codeloc neither changes nor deletes the location.
    Invalid(Invalid),
    /// There is no config.
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredLocation {
    pub config: Arc<Location>,
    pub image: ImageStatus,
    /// The commit that the branch names; absent while it is not known, and for an image that was built elsewhere.
    pub commit: Option<Commit>,
}

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

impl Invalid {
    /// An error without a position in the file.
    pub fn new(path: &str, message: &str) -> Self {
        Self { path: path.to_owned(), message: message.to_owned(), rendered: message.to_owned() }
    }
}
