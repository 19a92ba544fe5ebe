//! The statuses of all locations, and what happened: events, metrics and notifications.

mod board;
pub mod events;
mod journal;
pub mod metrics;
pub mod notify;

pub use board::Board;
pub use journal::Journal;
