//! Estimates the cost of a location: vCPU and memory of its code server's tasks on Fargate, on demand, for 730 hours. Runs, logs,
//! images, traffic and the platform itself are not included.

use std::collections::BTreeMap;
use std::path::Path;

use codeloc_crds::{Architecture, Location};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::settings::from_yaml;

/// Hours of a month in the estimates of AWS.
const HOURS: f64 = 730.0;
const DEFAULT_REGION: &str = "default";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Date of the prices.
    pub as_of: String,
    /// Price of Spot as a share of the price on demand.
    pub spot_share: f64,
    regions: BTreeMap<String, Region>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Region {
    /// Dollars per hour of a vCPU and of a GB.
    x86_64: [f64; 2],
    arm64: [f64; 2],
}

/// Estimated cost of one location in dollars per month.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cost {
    pub location: String,
    /// Cost with the fewest tasks.
    pub min: f64,
    /// Cost with the running tasks.
    pub now: f64,
    /// Cost with the most tasks.
    pub max: f64,
    /// Part of `now` that ARM64 would save; 0 if the location already uses it.
    pub saved_by_arm64: f64,
    /// Approximate part of `now` that Fargate Spot would save.
    pub saved_by_spot: f64,
    /// Date of the prices.
    pub as_of: String,
}

impl Prices {
    /// Loads the built-in prices, or a file.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let bundled = || {
            let text = include_str!("prices.yml");
            from_yaml(text)
        };
        let Some(path) = path else { return bundled() };
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("cannot read cost.prices_file {}: {error}; make it readable for the daemon's user", path.display())
        })?;
        let prices: Self = from_yaml(&text).map_err(|error| format!("cost.prices_file {}: {error}", path.display()))?;
        if prices.regions.contains_key(DEFAULT_REGION) {
            Ok(prices)
        } else {
            Err(format!("cost.prices_file {} has no region `{DEFAULT_REGION}`; add it", path.display()))
        }
    }

    pub fn estimate(&self, location: &Location, region: &str, running: u32) -> Cost {
        let prices = self.regions.get(region).or_else(|| self.regions.get(DEFAULT_REGION));
        let resources = &location.resources;
        let task = |architecture: Architecture| {
            let [cpu, memory] = prices.map_or([0.0; 2], |prices| match architecture {
                Architecture::Arm64 => prices.arm64,
                Architecture::X86_64 => prices.x86_64,
            });
            HOURS * (cpu * f64::from(resources.cpu) / 1024.0 + memory * f64::from(resources.memory) / 1024.0)
        };
        let per_task = task(resources.architecture);
        let tasks = |number: u32| cents(per_task * f64::from(number));
        let now = per_task * f64::from(running);
        Cost {
            location: location.name.to_string(),
            min: tasks(location.scaling.min_capacity),
            now: cents(now),
            max: tasks(location.scaling.max_capacity),
            saved_by_arm64: cents(now - task(Architecture::Arm64) * f64::from(running)),
            saved_by_spot: cents(now * (1.0 - self.spot_share)),
            as_of: self.as_of.clone(),
        }
    }
}

fn cents(dollars: f64) -> f64 {
    (dollars * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(resources: &str) -> Location {
        let text = format!(
            "name: orders\ngit_url: https://example.com/orders.git\nmodule: orders\nresources: {resources}\n\
             scaling: {{min_capacity: 1, max_capacity: 4}}\n"
        );
        codeloc_crds::parse("orders/config.yml", &text).unwrap()
    }

    #[test]
    fn the_cost_is_vcpu_and_memory_for_a_month() {
        let prices = Prices::load(None).unwrap();
        let cost = prices.estimate(&location("{cpu: 1024, memory: 2048, architecture: X86_64}"), "us-east-1", 2);
        // 730 h of 0.04048 + 2 * 0.004445 dollars.
        assert_eq!(
            (cost.min.to_string(), cost.now.to_string(), cost.max.to_string()),
            ("36.04".into(), "72.08".into(), "144.16".into())
        );
        assert!(cost.saved_by_arm64 > 14.0 && cost.saved_by_arm64 < 15.0, "{cost:?}");
        assert!(cost.saved_by_spot > 50.0 && cost.saved_by_spot < 51.0, "{cost:?}");
    }

    #[test]
    fn arm64_saves_nothing_and_an_unknown_region_has_default_prices() {
        let prices = Prices::load(None).unwrap();
        let config = location("{cpu: 256, memory: 512, architecture: ARM64}");
        let cost = prices.estimate(&config, "mars-north-1", 1);
        assert_eq!(cost.saved_by_arm64.to_string(), "0");
        assert_eq!(cost, prices.estimate(&config, "us-east-1", 1));
    }

    #[test]
    fn prices_without_a_default_region_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "as_of: 2026-01-01\nspot_share: 0.3\nregions: {}\n").unwrap();
        let error = Prices::load(Some(file.path())).unwrap_err();
        assert!(error.contains("no region `default`"), "{error}");
    }
}
