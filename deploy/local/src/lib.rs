//! A small, strict AWS in one process: the calls that the controller makes, answered as AWS answers them.
//!
//! [`model`] holds the data of a cloud, [`services`] the API calls, [`control_plane`] time, timers and dispatch. The engine adds
//! a clock and a driver; [`transport`] connects any AWS client over HTTP, or the Rust SDK in the same process.

mod access;
pub mod calls;
pub mod control_plane;
pub mod dns;
pub mod driver;
mod engine;
pub mod fault_injection;
mod local_cloud;
mod lock;
pub mod model;
pub mod protocol;
pub mod registry;
pub mod services;
pub mod store;
pub mod transport;

pub use local_cloud::{LocalCloud, Settings};
pub use model::quotas::Quotas;
pub use model::rules::{Rules, Throttling};
