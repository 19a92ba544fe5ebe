//! Desired and observed state of a location as data, and the planner that compares them.
//!
//! Guarantees: nothing here reads a clock, a network, a file or an environment variable. This crate depends neither on tokio nor on
//! the AWS SDK, so the compiler refuses planning code that reaches for them.

pub mod dagster;
pub mod deployment;
pub mod desired;
pub mod image;
pub mod lock;
pub mod names;
pub mod planner;
pub mod priority;
pub mod resources;
pub mod shared;
pub mod status;
pub mod tags;
