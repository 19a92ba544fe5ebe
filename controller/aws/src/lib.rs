//! The AWS side: the only crate that names the AWS SDK.
//!
//! Every call of a [`Session`] waits for its rate limit, and a call that changes something needs the fence to be open.
//! [`observe`] reads all kinds of resources at once; [`apply`] makes the calls of one step.

mod apply;
pub mod build_cache;
mod cache;
mod clients;
pub mod codebuild;
mod config;
pub mod deployment;
mod error;
mod error_detail;
pub mod fence;
pub mod isolated;
pub mod lease;
pub mod logs;
pub mod lookup;
mod observe;
mod operation;
pub mod permissions;
pub mod pulse;
pub mod rate_limit;
pub mod registry_credentials;
pub mod resources;
mod rotation;
mod scope;
mod session;

pub use apply::{AwsStep, StepTarget, apply};
pub use aws_config::SdkConfig;
pub use cache::Cache;
pub use clients::Clients;
pub use config::{config, region};
pub use error::{CallError, Class};
pub use observe::observe;
pub use scope::Scope;
pub use session::{Session, call};
