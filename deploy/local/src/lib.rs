//! AWS in one process, small and strict: what the controller calls, as AWS answers it.
//!
//! [`cloud::Cloud`] is the state machine, pure; [`LocalCloud`] gives it a clock, a driver for tasks and two front doors:
//! [`http`] for any AWS client, [`connector`] for the Rust SDK in the same process.

pub mod calls;
pub mod cloud;
pub mod connector;
pub mod dns;
pub mod driver;
pub mod fault;
pub mod faults;
pub mod fields;
mod front_door;
pub mod http;
mod local_cloud;
mod lock;
pub mod paging;
mod past;
pub mod quotas;
pub mod registry;
pub mod rollout;
pub mod services;
pub mod store;
mod tags;
pub mod throttling;
pub mod time;
pub mod wire;

pub use cloud::Rules;
pub use local_cloud::{LocalCloud, Settings};
