//! ECS services: the calls. [`super::scheduler`] starts and stops the tasks.

mod change;
mod describe;
mod history;
mod settings;

pub use change::{clamp, create, delete, forget, update};
pub use describe::{describe, list};
pub use history::{describe_revisions, list_deployments};
