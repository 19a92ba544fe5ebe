//! How codeloc observes each kind of resource, in bulk with the fewest calls, and applies one change, idempotently.

pub mod discovery;
pub mod image_repository;
pub mod log_group;
pub mod role;
pub mod run_definition;
pub mod scaling;
pub mod service;
pub mod task_definition;
