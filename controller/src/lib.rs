//! codeloc reads the desired state from git and the observed state from AWS, and stores nothing that it cannot rebuild from them.
//!
//! The pipeline: [`config_source`] reads configs, `codeloc_images` builds images from commits, `codeloc_core` plans, [`reconcile`] acts
//! through `codeloc_aws`, `codeloc_dagster` checks code servers and publishes them, and [`status`] reports to [`api`] and [`cli`].

pub mod api;
pub mod cli;
pub mod config_source;
pub mod cost;
pub mod daemon;
pub mod doctor;
#[cfg(test)]
mod fixtures;
pub mod local_build;
pub mod reconcile;
pub mod runtime;
pub mod settings;
pub mod status;
