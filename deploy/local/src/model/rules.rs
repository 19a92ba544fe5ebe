//! Rules: the behaviour of a cloud that callers and tests can choose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::quotas::Quotas;

/// The behaviour of a cloud.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Twelve digits.
    pub account: String,
    /// The only region. Requests signed for another region are refused, as a regional endpoint of AWS does.
    pub region: String,
    /// The seed of ids and tokens.
    pub seed: [u8; 32],
    /// Host and port in image names.
    pub registry: String,
    /// How long ECS cannot assume a new role.
    pub role_propagation: Duration,
    /// How long a task without a health check must run to count as started.
    pub steady_after: Duration,
    /// How long a Cloud Map operation takes.
    pub operation_delay: Duration,
    /// The rates above which calls are refused.
    pub throttling: Throttling,
    /// The maximum age of the state that a read can return. Reads of S3 are always current, as AWS promises.
    pub stale_reads: Duration,
    /// How long a change of a scalable target or of its policies blocks the next such change.
    pub scaling_conflicts: Duration,
    /// The percentage of tasks that stop before they run, for a transient reason.
    pub transient_stops: u32,
    /// The percentage of Cloud Map services that get the id of a deleted service of the same name.
    pub returning_ids: u32,
    /// Whether ECS adds a default field (`ephemeralStorage`) to task definitions, as AWS can start to do at any time.
    pub fills_in: bool,
    /// Whether a test ends the builds of `CodeBuild`; otherwise each build fails at once.
    pub builds: bool,
    /// The quotas of the account.
    pub quotas: Quotas,
    /// Actions denied to every caller, as IAM writes them: `ecs:CreateService`.
    pub denied: BTreeSet<String>,
    /// Values of Secrets Manager and Parameter Store, by ARN. Tasks get them in their environment; there are no calls for them.
    pub secrets: BTreeMap<String, String>,
}

impl Rules {
    /// The password of the registry. It depends only on the seed.
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

/// Whether calls are throttled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Throttling {
    #[default]
    Off,
    /// This percentage of the rates and bursts in `buckets.json`.
    Percent(u32),
}
