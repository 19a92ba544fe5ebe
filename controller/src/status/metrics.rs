//! What Prometheus is told. Every metric is one [`Definition`], from which the docs are made too.
//!
//! Counters and histograms are recorded where things happen. Gauges are made anew for each scrape, from what is known then, so
//! that a location that went leaves none behind. Labels have few values each: names of locations, of AWS operations, of enums.

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder, exponential_buckets,
};

mod definitions;

use codeloc_core::status::{ConditionKind, ConditionStatus, LocationStatus, Reason};
use definitions::{
    AWS_CALLS, BUILD_INFO, BUILDS, CHANGES, COMMIT, COMMIT_OBSERVED, CONFIG_WRITES, CONVERGED, COST, DELIVERIES, DRIFT,
    EVENTS, FAILED_STEPS, HELD, HOOKS, HTTP, IMAGE_LOOKUPS, LEARNED_RATE, LEASE, LOAD_ERROR, LOCATION, MODE,
    PRUNE_BLOCKED, QUEUE_DEPTH, QUEUE_WAIT, RECONCILES, RELOADS, ROLLOUTS, SOURCE, SOURCE_READ, SOURCE_UP, SWEEPS,
    SWEPT, WAITING_CALLS, WORKSPACE_ENTRIES, WORKSPACE_WRITES,
};

use super::events::EventReason;

pub use definitions::{ALL, Definition, MetricKind};

/// What is recorded as it happens.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Seconds of a pass, by its outcome.
    pub reconciles: HistogramVec,
    /// Seconds between the moment a location was due and its pass, by priority.
    pub queue_wait: HistogramVec,
    /// By kind and action.
    pub changes: IntCounterVec,
    /// By class of the error.
    pub failed_steps: IntCounterVec,
    /// `begun` and `failed`.
    pub rollouts: IntCounterVec,
    /// Seconds, by outcome.
    pub sweeps: HistogramVec,
    /// Seconds, by outcome.
    pub builds: HistogramVec,
    /// `found`, `missing` and `failed`.
    pub image_lookups: IntCounterVec,
    pub workspace_writes: IntCounterVec,
    /// By outcome.
    pub reloads: IntCounterVec,
    /// By reason and severity.
    pub events: IntCounterVec,
    /// By outcome.
    pub deliveries: IntCounterVec,
    /// By sender and outcome.
    pub hooks: IntCounterVec,
    /// By outcome.
    pub config_writes: IntCounterVec,
    /// By method, route and status.
    pub http: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |definition: &Definition| register(&registry, counter(definition));
        let histogram = |definition: &Definition, first: f64| register(&registry, histogram(definition, first));
        let events = counter(&EVENTS);
        for reason in EventReason::ALL {
            events.with_label_values(&reason.labels());
        }
        Self {
            // From a hundredth of a second to five minutes, or ten times as long.
            reconciles: histogram(&RECONCILES, 0.01),
            queue_wait: histogram(&QUEUE_WAIT, 0.01),
            sweeps: histogram(&SWEEPS, 0.1),
            builds: histogram(&BUILDS, 0.1),
            changes: counter(&CHANGES),
            failed_steps: counter(&FAILED_STEPS),
            rollouts: counter(&ROLLOUTS),
            image_lookups: counter(&IMAGE_LOOKUPS),
            workspace_writes: counter(&WORKSPACE_WRITES),
            reloads: counter(&RELOADS),
            events,
            deliveries: counter(&DELIVERIES),
            hooks: counter(&HOOKS),
            config_writes: counter(&CONFIG_WRITES),
            http: counter(&HTTP),
            registry,
        }
    }
}

/// What is read at the moment of a scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    pub statuses: Vec<LocationStatus>,
    pub mode: String,
    /// Calls so far by `service:Operation` and outcome.
    pub calls: Vec<(String, &'static str, u64)>,
    /// Learned calls per second and waiting calls by family.
    pub rates: Vec<(String, f64, usize)>,
    pub queue_waiting: usize,
    pub queue_running: usize,
    pub workspace_entries: usize,
    pub lease: &'static str,
    pub source_up: bool,
    pub source_commit: Option<String>,
    /// Seconds since the epoch.
    pub source_read: Option<f64>,
    pub swept: f64,
    /// Dollars a month by location: fewest tasks, those that run, most tasks.
    pub costs: Vec<(String, [f64; 3])>,
}

/// States of the lease, as the metric names them.
pub const LEASE_STATES: [&str; 4] = ["held", "standby", "unreadable", "unknown"];

/// Hexadecimal digits of a commit that are a label.
const SHORT_COMMIT: usize = 12;

impl Metrics {
    /// Everything, in Prometheus's text format.
    pub fn render(&self, scrape: &Scrape) -> String {
        let gauges = gauges(scrape);
        let mut families = self.registry.gather();
        families.extend(gauges.gather());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("memory takes all of it");
        String::from_utf8(text).expect("names, labels and numbers are text")
    }
}

fn gauges(scrape: &Scrape) -> Registry {
    let registry = Registry::new();
    let gauge = |definition: &Definition| register(&registry, gauge(definition));
    gauge(&BUILD_INFO).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    gauge(&MODE).with_label_values(&[&scrape.mode]).set(1.0);

    of_repositories(&scrape.statuses, gauge);

    let calls = register(&registry, counter(&AWS_CALLS));
    for (operation, outcome, count) in &scrape.calls {
        let (service, operation) = operation.split_once(':').unwrap_or(("", operation));
        calls.with_label_values(&[service, operation, outcome]).inc_by(*count);
    }
    let (rate, waiting) = (gauge(&LEARNED_RATE), gauge(&WAITING_CALLS));
    for (family, calls_per_second, calls) in &scrape.rates {
        rate.with_label_values(&[family]).set(*calls_per_second);
        waiting.with_label_values(&[family]).set(as_float(*calls));
    }
    let depth = gauge(&QUEUE_DEPTH);
    depth.with_label_values(&["waiting"]).set(as_float(scrape.queue_waiting));
    depth.with_label_values(&["running"]).set(as_float(scrape.queue_running));
    gauge(&WORKSPACE_ENTRIES).with_label_values::<&str>(&[]).set(as_float(scrape.workspace_entries));
    let lease = gauge(&LEASE);
    for state in LEASE_STATES {
        lease.with_label_values(&[state]).set(flag(state == scrape.lease));
    }
    gauge(&SOURCE_UP).with_label_values::<&str>(&[]).set(flag(scrape.source_up));
    if let Some(commit) = &scrape.source_commit {
        gauge(&SOURCE).with_label_values(&[short(commit)]).set(1.0);
    }
    if let Some(at) = scrape.source_read {
        gauge(&SOURCE_READ).with_label_values::<&str>(&[]).set(at);
    }
    gauge(&SWEPT).with_label_values::<&str>(&[]).set(scrape.swept);
    let cost = gauge(&COST);
    for (name, dollars) in &scrape.costs {
        for (capacity, dollars) in ["min", "now", "max"].into_iter().zip(dollars) {
            cost.with_label_values(&[name.as_str(), capacity]).set(*dollars);
        }
    }
    registry
}

fn of_repositories(statuses: &[LocationStatus], gauge: impl Fn(&Definition) -> GaugeVec) {
    let (info, commits, observed) = (gauge(&LOCATION), gauge(&COMMIT), gauge(&COMMIT_OBSERVED));
    let (converged, drift) = (gauge(&CONVERGED), gauge(&DRIFT));
    let (held, load_error, blocked) = (gauge(&HELD), gauge(&LOAD_ERROR), gauge(&PRUNE_BLOCKED));
    let mut stopped = 0;
    for status in statuses {
        let name = status.name.as_str();
        let reason = status.reason().map_or_else(String::new, |reason| format!("{reason:?}"));
        info.with_label_values(&[name, &status.sync.to_string(), &status.health.to_string(), &reason]).set(1.0);
        if let Some(commit) = &status.commit {
            commits.with_label_values(&[name, short(commit)]).set(1.0);
        }
        if let Some(at) = status.commit_observed {
            observed.with_label_values(&[name]).set(seconds(at));
        }
        if let Some(at) = status.converged {
            converged.with_label_values(&[name]).set(seconds(at));
        }
        for found in &status.drift {
            drift.with_label_values(&[name, &found.kind]).inc();
        }
        let has = |reason: Reason| status.conditions.iter().any(|dated| dated.condition.reason == reason);
        held.with_label_values(&[name]).set(flag(has(Reason::RolloutFailed)));
        let loaded = |dated: &&codeloc_core::status::DatedCondition| dated.condition.kind == ConditionKind::Loaded;
        let loads = status.conditions.iter().find(loaded);
        let fails = loads.is_some_and(|dated| {
            dated.condition.status == ConditionStatus::False && dated.condition.reason == Reason::LoadError
        });
        load_error.with_label_values(&[name]).set(flag(fails));
        stopped += usize::from(has(Reason::PruneBlocked));
    }
    blocked.with_label_values::<&str>(&[]).set(as_float(stopped));
}

fn counter(definition: &Definition) -> IntCounterVec {
    let options = Opts::new(definition.name, definition.help);
    let counter = IntCounterVec::new(options, definition.labels).expect("a good definition");
    for values in at_the_start(definition) {
        counter.with_label_values(&values);
    }
    counter
}

/// Every combination of the label values that are known beforehand.
fn at_the_start(definition: &Definition) -> Vec<Vec<&'static str>> {
    if definition.values.len() != definition.labels.len() {
        return vec![];
    }
    definition.values.iter().fold(vec![vec![]], |combinations, values| {
        let longer = combinations
            .iter()
            .flat_map(|combination| values.iter().map(move |value| [&combination[..], &[*value]].concat()));
        longer.collect()
    })
}

fn gauge(definition: &Definition) -> GaugeVec {
    GaugeVec::new(Opts::new(definition.name, definition.help), definition.labels).expect("a good definition")
}

/// Fifteen buckets, each twice as wide as the one before.
fn histogram(definition: &Definition, first: f64) -> HistogramVec {
    let buckets = exponential_buckets(first, 2.0, 15).expect("good buckets");
    let options = HistogramOpts::new(definition.name, definition.help).buckets(buckets);
    let histogram = HistogramVec::new(options, definition.labels).expect("a good definition");
    for values in at_the_start(definition) {
        histogram.with_label_values(&values);
    }
    histogram
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("no two metrics have the same name");
    collector
}

fn short(commit: &str) -> &str {
    commit.get(..SHORT_COMMIT).unwrap_or(commit)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn as_float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since the epoch are far below what a double holds exactly"
)]
fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use codeloc_core::status::{Condition, DatedCondition, Drift};

    use super::*;

    fn status() -> LocationStatus {
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let mut status = LocationStatus::unknown("orders", "no".to_owned(), now);
        status.commit = Some("0123456789abcdef0123456789abcdef01234567".to_owned());
        status.converged = Some(now);
        let drift = |field: &str| Drift {
            kind: "role".to_owned(),
            name: "codeloc-orders".to_owned(),
            field: Some(field.to_owned()),
            observed: None,
            desired: None,
        };
        status.drift = vec![drift("tags"), drift("policy")];
        let condition = Condition {
            kind: ConditionKind::Loaded,
            status: ConditionStatus::False,
            reason: Reason::LoadError,
            message: String::new(),
        };
        status.conditions = vec![DatedCondition { condition, since: now }];
        status
    }

    #[test]
    fn a_scrape_tells_of_each_location_and_of_the_lease() {
        let metrics = Metrics::default();
        metrics.events.with_label_values(&["Healthy", "normal"]).inc();
        let calls = vec![("ecs:UpdateService".to_owned(), "throttled", 3)];
        let text = metrics.render(&Scrape { statuses: vec![status()], lease: "held", calls, ..Scrape::default() });
        for line in [
            r#"codeloc_location_info{health="Unknown",location="orders",reason="LoadError",sync="Unknown"} 1"#,
            r#"codeloc_location_commit_info{commit="0123456789ab",location="orders"} 1"#,
            r#"codeloc_location_converged_timestamp_seconds{location="orders"} 1700000000"#,
            r#"codeloc_location_drift_fields{kind="role",location="orders"} 2"#,
            r#"codeloc_location_load_error{location="orders"} 1"#,
            r#"codeloc_lease_state{state="held"} 1"#,
            r#"codeloc_lease_state{state="standby"} 0"#,
            r#"codeloc_aws_calls_total{operation="UpdateService",outcome="throttled",service="ecs"} 3"#,
            r#"codeloc_events_total{reason="Healthy",severity="normal"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn what_is_counted_is_there_from_the_start() {
        let text = Metrics::default().render(&Scrape::default());
        for line in [
            r#"codeloc_event_deliveries_total{outcome="failed"} 0"#,
            r#"codeloc_hooks_total{outcome="refused",sender="github"} 0"#,
            r#"codeloc_image_build_duration_seconds_count{outcome="failed"} 0"#,
            r#"codeloc_image_lookups_total{result="failed"} 0"#,
            r#"codeloc_queue_wait_seconds_bucket{priority="commit",le="+Inf"} 0"#,
            r#"codeloc_dagster_reloads_total{outcome="failed"} 0"#,
            r#"codeloc_events_total{reason="SweepFailed",severity="warning"} 0"#,
            "codeloc_workspace_writes_total 0",
            "codeloc_sweep_timestamp_seconds 0",
        ] {
            assert!(text.lines().any(|told| told == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn values_that_are_known_beforehand_are_known_for_each_label() {
        for definition in ALL {
            let (values, labels) = (definition.values.len(), definition.labels.len());
            assert!(values == 0 || values == labels, "{}", definition.name);
        }
    }

    #[test]
    fn a_location_that_went_leaves_no_metric_behind() {
        let metrics = Metrics::default();
        let before = metrics.render(&Scrape { statuses: vec![status()], ..Scrape::default() });
        let after = metrics.render(&Scrape::default());
        assert!(before.contains("orders") && !after.contains("orders"));
    }

    #[test]
    fn names_follow_prometheus_conventions() {
        for definition in ALL {
            let name = definition.name;
            assert!(name.starts_with("codeloc_"), "{name}");
            assert_eq!(name.ends_with("_total"), definition.kind == MetricKind::Counter, "{name}");
            assert!(definition.kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(definition.help.ends_with('.'), "{name}: {}", definition.help);
        }
    }

    #[test]
    fn every_definition_is_listed_once() {
        let mut names: Vec<&str> = ALL.iter().map(|definition| definition.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
