//! The statuses of all locations, and what happened: events, metrics and notifications.

pub mod events;
pub mod metrics;
pub mod notify;
mod recorder;
mod store;

pub use recorder::Recorder;
pub use store::StatusStore;
