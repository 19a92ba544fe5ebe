//! How each kind of resource is observed, in bulk with the fewest calls, and how one change is applied, idempotently.

pub mod discovery;
pub mod image_repository;
pub mod log_group;
pub mod role;
pub mod run_definition;
pub mod scaling;
pub mod service;
pub mod task_definition;
