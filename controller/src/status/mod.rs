//! Statuses of all locations, and what happens to them: events, metrics and notifications.

pub mod events;
mod label;
pub mod metrics;
pub mod notify;
mod recorder;
mod settled;
mod store;

pub use label::Label;
pub use recorder::Recorder;
pub use settled::{is_settled, is_stuck};
pub use store::StatusStore;
