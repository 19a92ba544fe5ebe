//! Acting: a keyed queue, one pass per key, and convergence by an empty plan from a fresh observation.
//!
//! Guarantees: at most one pass per repository at a time; nothing is executed that the plan's lint refuses; a pass that is
//! killed at any point leaves a state from which the next one goes on.

pub mod brakes;
mod image_looks;
pub mod queue;
pub mod swept;

mod current;
mod daemon;
mod execute;
mod images;
mod look;
mod observe;
mod pass;
pub mod place;
mod tell;
mod traceback;
pub mod trouble;
mod wanted;
mod wishes;
mod workspace;

pub use daemon::{Daemon, Progress};
pub use images::Images;
pub use pass::{Outcome, Reconciler, World};
pub use workspace::Workspace;
