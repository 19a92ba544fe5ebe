//! Drivers run tasks: they launch and stop them, and report changes.
//!
//! `simulated` follows the scripts of a test; `process` runs pushed images as processes.

pub mod addresses;
pub mod process;
pub mod simulated;

use std::net::Ipv4Addr;

use addresses::Addresses;
use tokio::sync::mpsc::UnboundedSender;

use crate::model::launch::{Launch, Report};

pub trait Driver: Send + Sync + 'static {
    /// Starts a task on one of the addresses and returns at once. Changes are sent to `reports`.
    fn launch(&self, launch: Launch, addresses: &Addresses, reports: UnboundedSender<Report>);
    /// The network of the task addresses.
    fn network(&self) -> Ipv4Addr;
    /// Stops a task; `Report::Exited` follows.
    fn stop(&self, task_arn: &str);
}
