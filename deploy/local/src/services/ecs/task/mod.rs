//! Tasks: from a request through what the driver reports to STOPPED, and another hour in which they are described.

mod calls;
mod launch;
mod lifecycle;
mod registration;

pub use calls::{describe, list, run, stop_by_user};
pub use launch::{Order, launch};
pub use lifecycle::{failed, forget, lose_all, report, stop};
