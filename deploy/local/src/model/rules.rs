//! Rules: how strict and how real a cloud is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::quotas::Quotas;

/// What does not change while a cloud lives.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Twelve digits.
    pub account: String,
    /// The only region; a request signed for another one is refused, as a regional endpoint of AWS refuses it.
    pub region: String,
    /// Ids and tokens are drawn from it.
    pub seed: [u8; 32],
    /// Host and port that image names carry.
    pub registry: String,
    /// For how long ECS cannot assume a role after it was made.
    pub role_propagation: Duration,
    /// How long a task without a health check must have run to count as started.
    pub steady_after: Duration,
    /// How long a Cloud Map operation takes.
    pub operation_delay: Duration,
    /// The rates at which calls are refused.
    pub throttling: Throttling,
    /// Reads may answer with what was true up to so long ago. Never those of S3, which AWS promises to be consistent.
    pub stale_reads: Duration,
    /// For how long after a change of a scalable target, or of a policy of it, the next such change is refused.
    pub scaling_conflicts: Duration,
    /// Of 100 tasks so many stop before they run, for a reason that says nothing against what was launched.
    pub transient_stops: u32,
    /// Of 100 Cloud Map services made under the name of a deleted one so many get its id again.
    pub returning_ids: u32,
    /// Whether ECS keeps a field of task definitions (`ephemeralStorage`) that nobody gave, as it may begin to any day.
    pub fills_in: bool,
    /// Whether somebody ends the builds of `CodeBuild`; otherwise each fails at once.
    pub builds: bool,
    /// How much of everything there may be.
    pub quotas: Quotas,
    /// Actions that nobody is allowed, as IAM writes them: `ecs:CreateService`.
    pub denied: BTreeSet<String>,
    /// What Secrets Manager and Parameter Store hold, by ARN. There are no calls for them: tasks find them in their environment.
    pub secrets: BTreeMap<String, String>,
}

impl Rules {
    /// The password that the registry asks for: one for as long as the seed is the same.
    pub fn registry_token(&self) -> String {
        hex::encode(Sha256::new().chain_update(b"registry token").chain_update(self.seed).finalize())
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            account: "123456789012".to_owned(),
            region: "eu-central-1".to_owned(),
            seed: [0; 32],
            registry: "127.0.0.1:4566".to_owned(),
            role_propagation: Duration::ZERO,
            steady_after: Duration::from_secs(5),
            operation_delay: Duration::from_secs(1),
            throttling: Throttling::Off,
            stale_reads: Duration::ZERO,
            scaling_conflicts: Duration::ZERO,
            transient_stops: 0,
            returning_ids: 100,
            builds: false,
            quotas: Quotas::aws(),
            fills_in: false,
            denied: BTreeSet::new(),
            secrets: BTreeMap::new(),
        }
    }
}

/// Whether calls are refused for their rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Throttling {
    #[default]
    Off,
    /// By the figures of `buckets.json`, rates and bursts scaled to this many percent of them.
    Percent(u32),
}
