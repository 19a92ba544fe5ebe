//! The AWS account as this process reaches it, and what the process remembers of it.

use std::sync::{Arc, Mutex};

use codeloc_aws::fence::Epoch;
use codeloc_aws::lease::Lease;
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_aws::{Cache, Clients, Session};
use codeloc_core::deployment::Deployment;
use codeloc_core::lock::lock;
use codeloc_core::priority::Priority;

pub struct Aws {
    pub clients: Clients,
    pub deployment: Deployment,
    pub limits: Arc<RateLimiter>,
    pub lease: Lease,
    memory: Mutex<Memory>,
}

/// What this process remembers of AWS since it acquired the lease. A pass or a sweep keeps the one with which it began: it then neither
/// acts on anything that was read in an earlier epoch, nor adds to what a later one remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub epoch: Epoch,
    cache: Arc<Cache>,
}

impl Aws {
    pub fn new(clients: Clients, deployment: Deployment, limits: Arc<RateLimiter>, lease: Lease) -> Self {
        Self { clients, deployment, limits, lease, memory: Mutex::default() }
    }

    /// The memory of the current epoch: empty at its start, because another process may have changed everything before.
    pub fn memory(&self) -> Memory {
        let mut memory = lock(&self.memory);
        let epoch = self.lease.fence().epoch();
        if memory.epoch < epoch {
            *memory = Memory { epoch, cache: Arc::default() };
        }
        memory.clone()
    }

    pub fn session<'a>(&'a self, memory: &'a Memory, priority: Priority) -> Session<'a> {
        Session {
            clients: &self.clients,
            deployment: &self.deployment,
            cache: &memory.cache,
            limits: &self.limits,
            fence: self.lease.fence(),
            epoch: memory.epoch,
            priority,
        }
    }
}
