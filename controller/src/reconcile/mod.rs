//! Acting: a keyed queue, one pass per key, and convergence by an empty plan from a fresh observation.
//!
//! Guarantees: at most one pass per repository at a time; nothing is executed that the plan's lint refuses; a pass that is
//! killed at any point leaves a state from which the next one goes on.

mod image_looks;
pub mod observations;
pub mod prune_guard;
pub mod queue;

mod current;
mod daemon;
pub mod deployment;
mod desired;
mod execute;
pub mod fault;
mod images;
mod last_configs;
mod look;
mod observe;
mod pass;
mod recorder;
mod traceback;
mod workspace;

pub use daemon::{Daemon, Progress};
pub use images::Images;
pub use pass::{Context, Outcome, Reconciler};
pub use workspace::Workspace;
