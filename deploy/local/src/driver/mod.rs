//! What runs a task. The state machine asks a driver to launch and to stop; the driver reports what became of it.
//!
//! Two drivers: `simulated` does as the test told it, `process` runs what was pushed as real processes.

pub mod addresses;
pub mod process;
pub mod simulated;

use std::net::Ipv4Addr;

use addresses::Addresses;
use tokio::sync::mpsc::UnboundedSender;

use crate::model::launch::{Launch, Report};

pub trait Driver: Send + Sync + 'static {
    /// Starts a task, which has one of these addresses, and returns at once; everything further goes through `reports`.
    fn launch(&self, launch: Launch, addresses: &Addresses, reports: UnboundedSender<Report>);
    /// Where its tasks' addresses lie.
    fn network(&self) -> Ipv4Addr;
    /// Asks a task to end; `Report::Exited` follows.
    fn stop(&self, task_arn: &str);
}
