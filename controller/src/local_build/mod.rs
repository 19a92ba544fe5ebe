//! Builds on the machine of a developer, without AWS: the same builder, an OCI layout instead of ECR, and a sandbox instead of ECS tasks.

mod guest;
mod layout;
mod load;

pub use guest::SandboxBuilder;
pub use layout::{Layout, Served};
pub use load::{Loaded, load};
