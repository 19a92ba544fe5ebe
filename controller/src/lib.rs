//! codeloc: desired state from git, observed state from AWS, and nothing remembered that those two cannot rebuild.
//!
//! Follow the data: [`config_source`] reads configs, `codeloc_images` turns a commit into an image, `codeloc_core` knows each
//! resource and compares, [`reconcile`] acts through `codeloc_aws`, `codeloc_dagster` proves and publishes, [`status`] reports, [`api`]
//! and [`cli`] answer.

pub mod api;
pub mod cli;
pub mod config_source;
pub mod cost;
pub mod daemon;
pub mod doctor;
pub mod reconcile;
pub mod runtime;
pub mod settings;
pub mod status;
