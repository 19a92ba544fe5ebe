//! Tasks: from the request through the reports of the driver to STOPPED. They are described for another hour.

mod calls;
mod launch;
mod lifecycle;
mod prepare;
mod registration;

pub use calls::{describe, list, run, stop_by_user};
pub use launch::{TaskRequest, launch};
pub use lifecycle::{failed, forget, lose_all, report, stop};
pub use prepare::obstacle;
