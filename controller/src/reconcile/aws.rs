//! The AWS account as this process reaches it.

use std::sync::Arc;

use codeloc_aws::lease::Lease;
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_aws::{Cache, Clients, Session};
use codeloc_core::deployment::Deployment;
use codeloc_core::priority::Priority;

pub struct Aws {
    pub clients: Clients,
    pub deployment: Deployment,
    pub cache: Cache,
    pub limits: Arc<RateLimiter>,
    pub lease: Lease,
}

impl Aws {
    pub fn session(&self, priority: Priority) -> Session<'_> {
        Session {
            clients: &self.clients,
            deployment: &self.deployment,
            cache: &self.cache,
            limits: &self.limits,
            fence: self.lease.fence(),
            priority,
        }
    }
}
