//! The AWS side: the only crate that names the AWS SDK.

mod attempts;
pub mod build_cache;
mod cache;
mod clients;
pub mod codebuild;
mod config;
pub mod deployment;
mod error;
mod error_detail;
pub mod fence;
pub mod lease;
pub mod limits;
pub mod lookup;
mod observe;
pub mod permissions;
pub mod pulse;
pub mod registry_credentials;
pub mod resources;
pub mod rotation;
mod session;

pub use aws_config::SdkConfig;
pub use cache::Cache;
pub use clients::Clients;
pub use config::{config, region};
pub use error::{CallError, Class};
pub use observe::observe;
pub use session::{Scope, Session, call, in_scope, mutates};
