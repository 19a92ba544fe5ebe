//! codeloc: desired state from git, live state from AWS, and nothing remembered that those two cannot rebuild.
//!
//! Follow the data: [`source`] reads configs, [`build`] turns a commit into an image, [`kinds`] knows each live
//! resource, [`plan`] compares, [`reconcile`] acts, [`dagster`] proves and publishes, [`status`] tells, [`api`] and [`cli`] are asked.

pub mod api;
pub mod build;
pub mod cli;
pub mod cost;
pub mod dagster;
#[cfg(feature = "aws")]
pub mod doctor;
pub mod kinds;
mod lock;
pub mod plan;
pub mod priority;
pub mod program;
pub mod reconcile;
pub mod settings;
pub mod source;
pub mod status;
