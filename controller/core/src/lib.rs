//! Desired and observed state of a location as data, and the planner that compares them.
//!
//! Guarantees: nothing in this crate reads a clock, a network, a file or an environment variable. It depends neither on tokio nor on the
//! AWS SDK, so planning code that uses them does not compile.

pub mod arns;
pub mod dagster;
pub mod deployment;
pub mod desired;
#[cfg(test)]
mod fixtures;
pub mod ids;
pub mod image;
pub mod lock;
pub mod names;
pub mod planner;
pub mod priority;
pub mod resources;
pub mod shared;
pub mod status;
pub mod tags;
