//! Throttling: a token bucket for each family of operations. `buckets.json` holds the figures and their sources.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::model::rules::Throttling;
use crate::model::time::Time;
use crate::protocol::aws_service::AwsService;

/// The figures of a bucket.
#[derive(Clone, Debug, Deserialize)]
pub struct Family {
    pub name: String,
    /// Calls that a full bucket allows at once.
    pub burst: f64,
    /// Calls per second that it allows continuously.
    pub rate: f64,
    pub source: Source,
    /// `service.Operation`
    pub operations: Vec<String>,
}

/// The source of a figure; `buckets.json` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    Documented,
    Code,
    ThirdParty,
    Recalled,
    Guessed,
}

#[derive(Deserialize)]
struct File {
    families: Vec<Family>,
}

static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    let file: File =
        serde_json::from_str(include_str!("../../buckets.json")).expect("buckets.json is valid: a test reads it");
    file.families
});

static BY_OPERATION: LazyLock<HashMap<&'static str, HashMap<&'static str, usize>>> = LazyLock::new(|| {
    let mut services: HashMap<&str, HashMap<&str, usize>> = HashMap::new();
    for (index, family) in FAMILIES.iter().enumerate() {
        for (service, operation) in family.operations.iter().filter_map(|name| name.split_once('.')) {
            services.entry(service).or_default().insert(operation, index);
        }
    }
    services
});

/// All families.
pub fn families() -> &'static [Family] {
    &FAMILIES
}

/// The index in [`families`] of the family of an operation.
pub fn family(service: &str, operation: &str) -> Option<usize> {
    BY_OPERATION.get(service)?.get(operation).copied()
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Time,
}

/// The buckets and their tokens.
#[derive(Debug, Default)]
pub struct Buckets {
    scale: Option<f64>,
    buckets: Vec<Option<Bucket>>,
}

impl Buckets {
    pub fn new(throttling: Throttling) -> Self {
        let scale = match throttling {
            Throttling::Off => None,
            Throttling::Percent(percent) => Some(f64::from(percent) / 100.0),
        };
        Self { scale, buckets: vec![None; FAMILIES.len()] }
    }

    /// Takes a token for the call; false if there is none. Operations without a family are never throttled.
    pub fn admits(&mut self, service: AwsService, operation: &str, now: Time) -> bool {
        let Some(scale) = self.scale else { return true };
        let Some(index) = family(service.name(), operation) else { return true };
        let family = &FAMILIES[index];
        let burst = (family.burst * scale).max(1.0);
        let bucket = self.buckets[index].get_or_insert(Bucket { tokens: burst, filled: now });
        let refilled = now.since(bucket.filled).as_secs_f64() * family.rate * scale;
        bucket.tokens = (bucket.tokens + refilled).min(burst);
        bucket.filled = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_operation_belongs_to_one_family() {
        let mut seen = BTreeSet::new();
        for name in families().iter().flat_map(|family| &family.operations) {
            assert!(seen.insert(name), "{name} is in two families");
            assert!(name.contains('.'), "{name} names no service");
        }
        assert_eq!(families()[family("ecs", "RegisterTaskDefinition").unwrap()].rate.to_string(), "1");
    }

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let mut buckets = Buckets::new(Throttling::Percent(100));
        let mut admitted = |from: u64, calls: usize| {
            let now = Time::from_millis(from);
            (0..calls).filter(|_| buckets.admits(AwsService::Ecs, "RegisterTaskDefinition", now)).count()
        };
        assert_eq!(admitted(0, 50), 20);
        assert_eq!(admitted(5_000, 50), 5);
        let full = u64::try_from(Duration::from_secs(3600).as_millis()).unwrap();
        assert_eq!(admitted(full, 50), 20);
    }
}
