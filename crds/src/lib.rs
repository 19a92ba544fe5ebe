//! Config of a location: the [`Location`] type, its checks with file and line, and its JSON Schema.
//!
//! A `Location` has passed all checks of one file. [`check_fleet`] checks configs against each other. Reading never
//! uses the file system or the network. Errors never show credentials of URLs.

pub mod assignment;
mod check;
pub mod edit;
mod error;
mod excerpt;
mod fields;
mod fleet;
mod git;
mod glimpse;
mod location;
mod prefix;
mod problem;
mod read;
mod rewrite;
mod schema;
mod structure;
pub mod suspend;
mod syntax;
mod yaml;

pub use check::{MAX_TAGS, is_secret_arn};
pub use error::ConfigError;
pub use fleet::{FleetErrors, check_fleet};
pub use git::{mask_credentials, reaches_metadata, reaches_this_machine, valid_reference_name};
pub use glimpse::{Glimpse, glimpse};
pub use location::*;
pub use prefix::is_reserved as is_reserved_prefix;
pub use problem::Problem;
pub use read::{Parsed, parse, read};
pub use schema::schema;
