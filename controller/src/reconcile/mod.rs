//! Acting: a keyed queue, one pass per key, and convergence by an empty plan from a fresh observation.
//!
//! Guarantees: at most one pass per repository at a time; nothing is executed that the plan's lint refuses; a pass that is
//! killed at any point leaves a state from which the next one goes on.

pub mod brakes;
mod clock;
#[cfg(any(test, feature = "aws"))]
mod image_looks;
pub mod queue;
pub mod swept;

pub use clock::Clock;

#[cfg(feature = "aws")]
mod current;
#[cfg(feature = "aws")]
mod daemon;
#[cfg(feature = "aws")]
mod execute;
#[cfg(feature = "aws")]
mod images;
#[cfg(feature = "aws")]
pub mod lease;
#[cfg(feature = "aws")]
mod look;
#[cfg(feature = "aws")]
mod observe;
#[cfg(feature = "aws")]
mod pass;
#[cfg(feature = "aws")]
pub mod place;
#[cfg(any(test, feature = "aws"))]
mod pulse;
#[cfg(feature = "aws")]
mod tell;
#[cfg(feature = "aws")]
mod traceback;
#[cfg(feature = "aws")]
pub mod trouble;
#[cfg(feature = "aws")]
mod wanted;
#[cfg(feature = "aws")]
mod wishes;
#[cfg(feature = "aws")]
mod workspace;

#[cfg(feature = "aws")]
pub use daemon::{Daemon, Progress};
#[cfg(feature = "aws")]
pub use images::Images;
#[cfg(feature = "aws")]
pub use pass::{Outcome, Reconciler, World};
#[cfg(feature = "aws")]
pub use workspace::Workspace;
