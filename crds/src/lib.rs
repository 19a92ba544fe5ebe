//! What a user writes: the [`Repository`] type, its checks with file and line, and its JSON Schema.
//!
//! Guarantees: a `Repository` that exists has passed every check that needs only its own file; checks across files
//! (overlapping prefixes) are in [`check_fleet`]. Reading never touches the file system or the network.

mod repository;

pub use repository::*;
