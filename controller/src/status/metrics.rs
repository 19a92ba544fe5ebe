//! Metrics for Prometheus. Each metric is one [`Definition`]; `docs/metrics.md` is generated from them.
//!
//! Counters and histograms record what happens. Each scrape computes all gauges again, so that a deleted location leaves none behind.
//! Labels have few values: names of locations and AWS operations, and enums with a [`Label`].

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder, exponential_buckets,
};

mod definitions;
mod outcomes;

use std::time::Duration;

use codeloc_aws::Class;
use codeloc_core::ids::Commit;
use codeloc_core::priority::Priority;
use codeloc_core::resources::{Action, Kind};
use codeloc_core::status::{ConditionKind, ConditionStatus, LocationStatus, Reason};
use definitions::{
    AWS_CALLS, BUILD_INFO, BUILDS, CHANGES, COMMIT, COMMIT_OBSERVED, CONFIG_WRITES, CONVERGED, COST, DELIVERIES, DRIFT,
    EVENTS, FAILED_STEPS, HELD, HOOKS, HTTP, IMAGE_LOOKUPS, LEARNED_RATE, LEASE, LOAD_ERROR, LOCATION, MODE,
    PRUNE_BLOCKED, QUEUE_DEPTH, QUEUE_WAIT, RECONCILES, RELOADS, ROLLOUTS, SOURCE, SOURCE_READ, SOURCE_UP, START,
    SWEEPS, SWEPT, WAITING_CALLS, WORKSPACE_ENTRIES, WORKSPACE_WRITES,
};

use super::events::EventReason;
use super::label::{LEASE_STATES, Label};

pub use definitions::{ALL, Definition, MetricKind};
pub use outcomes::{
    BuildOutcome, CallOutcome, DeliveryOutcome, HookOutcome, HookSender, ImageLookup, ReconcileOutcome, ReloadOutcome,
    RolloutOutcome, SweepOutcome, WriteOutcome,
};

/// Counters and histograms.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub reconciles: HistogramVec,
    pub queue_wait: HistogramVec,
    pub changes: IntCounterVec,
    pub failed_steps: IntCounterVec,
    rollouts: IntCounterVec,
    pub sweeps: HistogramVec,
    pub builds: HistogramVec,
    pub image_lookups: IntCounterVec,
    pub workspace_writes: IntCounterVec,
    pub reloads: IntCounterVec,
    events: IntCounterVec,
    deliveries: IntCounterVec,
    hooks: IntCounterVec,
    config_writes: IntCounterVec,
    http: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |definition: &Definition| register(&registry, counter(definition));
        let histogram = |definition: &Definition, first: f64| register(&registry, histogram(definition, first));
        let events = counter(&EVENTS);
        for reason in EventReason::ALL {
            events.with_label_values(&[reason.label(), reason.severity().label()]);
        }
        Self {
            // The upper bounds are five minutes from 0.01 s, and 27 minutes from 0.1 s.
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

/// State at the moment of a scrape, for the gauges.
#[derive(Debug, Default)]
pub struct Scrape {
    pub statuses: Vec<LocationStatus>,
    pub deployment: String,
    /// Start of the process in seconds since the epoch.
    pub started: f64,
    pub mode: String,
    /// Calls until now by `service:Operation` and the label of a [`CallOutcome`].
    pub calls: Vec<(String, &'static str, u64)>,
    /// Learned calls per second and waiting calls by family.
    pub rates: Vec<(String, f64, usize)>,
    pub queue_waiting: usize,
    pub queue_running: usize,
    pub workspace_entries: usize,
    pub lease: &'static str,
    pub source_up: bool,
    pub source_commit: Option<Commit>,
    /// Seconds since the epoch.
    pub source_read: Option<f64>,
    /// Seconds since the epoch; 0 before the first sweep has ended.
    pub swept: f64,
    /// Dollars per month by location: with the fewest tasks, with the running tasks, with the most tasks.
    pub costs: Vec<(String, [f64; 3])>,
}

/// Hexadecimal digits of a commit in a label.
const SHORT_COMMIT: usize = 12;

impl Metrics {
    pub fn count_event(&self, reason: EventReason) {
        self.events.with_label_values(&[reason.label(), reason.severity().label()]).inc();
    }

    pub fn count_deliveries(&self, outcome: DeliveryOutcome, number: u64) {
        self.deliveries.with_label_values(&[outcome.label()]).inc_by(number);
    }

    pub fn count_hook(&self, sender: HookSender, outcome: HookOutcome) {
        self.hooks.with_label_values(&[sender.label(), outcome.label()]).inc();
    }

    pub fn count_config_write(&self, outcome: WriteOutcome) {
        self.config_writes.with_label_values(&[outcome.label()]).inc();
    }

    /// `method` and `route` must be from a small set: `other` for any other.
    pub fn count_request(&self, method: &str, route: &str, status: &str) {
        self.http.with_label_values(&[method, route, status]).inc();
    }

    pub fn observe_reconcile(&self, outcome: ReconcileOutcome, duration: Duration) {
        self.reconciles.with_label_values(&[outcome.label()]).observe(duration.as_secs_f64());
    }

    pub fn observe_queue_wait(&self, priority: Priority, waited: Duration) {
        self.queue_wait.with_label_values(&[priority.label()]).observe(waited.as_secs_f64());
    }

    pub fn observe_sweep(&self, outcome: SweepOutcome, duration: Duration) {
        self.sweeps.with_label_values(&[outcome.label()]).observe(duration.as_secs_f64());
    }

    pub fn observe_build(&self, outcome: BuildOutcome, duration: Duration) {
        self.builds.with_label_values(&[outcome.label()]).observe(duration.as_secs_f64());
    }

    pub fn count_image_lookup(&self, result: ImageLookup) {
        self.image_lookups.with_label_values(&[result.label()]).inc();
    }

    pub fn count_change(&self, kind: Kind, action: Action) {
        self.changes.with_label_values(&[kind.title(), action.label()]).inc();
    }

    pub fn count_failed_step(&self, class: Class) {
        self.failed_steps.with_label_values(&[class.label()]).inc();
    }

    pub fn count_rollout(&self, outcome: RolloutOutcome) {
        self.rollouts.with_label_values(&[outcome.label()]).inc();
    }

    pub fn count_workspace_write(&self) {
        self.workspace_writes.with_label_values::<&str>(&[]).inc();
    }

    pub fn count_reload(&self, outcome: ReloadOutcome) {
        self.reloads.with_label_values(&[outcome.label()]).inc();
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self, scrape: &Scrape) -> String {
        let gauges = gauges(scrape);
        let mut families = self.registry.gather();
        families.extend(gauges.gather());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("writing to memory does not fail");
        String::from_utf8(text).expect("names, labels and numbers are text")
    }
}

fn gauges(scrape: &Scrape) -> Registry {
    let registry = Registry::new();
    let gauge = |definition: &Definition| register(&registry, gauge(definition));
    gauge(&BUILD_INFO).with_label_values(&[scrape.deployment.as_str(), env!("CARGO_PKG_VERSION")]).set(1.0);
    gauge(&START).with_label_values::<&str>(&[]).set(scrape.started);
    gauge(&MODE).with_label_values(&[&scrape.mode]).set(1.0);

    location_gauges(&scrape.statuses, gauge);

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

fn location_gauges(statuses: &[LocationStatus], gauge: impl Fn(&Definition) -> GaugeVec) {
    let (info, commits, observed) = (gauge(&LOCATION), gauge(&COMMIT), gauge(&COMMIT_OBSERVED));
    let (converged, drift) = (gauge(&CONVERGED), gauge(&DRIFT));
    let (held, load_error, blocked) = (gauge(&HELD), gauge(&LOAD_ERROR), gauge(&PRUNE_BLOCKED));
    let mut prune_blocked = 0;
    for status in statuses {
        let name = status.name.as_str();
        let reason = status.reason().map_or("", |reason| reason.label());
        info.with_label_values(&[name, status.sync.label(), status.health.label(), reason]).set(1.0);
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
        prune_blocked += usize::from(has(Reason::PruneBlocked));
    }
    blocked.with_label_values::<&str>(&[]).set(as_float(prune_blocked));
}

fn counter(definition: &Definition) -> IntCounterVec {
    let options = Opts::new(definition.name, definition.help);
    let counter = IntCounterVec::new(options, definition.labels).expect("the definition is valid");
    for values in initial_series(definition) {
        counter.with_label_values(&values);
    }
    counter
}

/// Every combination of the label values that are known in advance.
fn initial_series(definition: &Definition) -> Vec<Vec<&'static str>> {
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
    GaugeVec::new(Opts::new(definition.name, definition.help), definition.labels).expect("the definition is valid")
}

/// Fifteen buckets, each twice as wide as the previous one.
fn histogram(definition: &Definition, first: f64) -> HistogramVec {
    let buckets = exponential_buckets(first, 2.0, 15).expect("the buckets are valid");
    let options = HistogramOpts::new(definition.name, definition.help).buckets(buckets);
    let histogram = HistogramVec::new(options, definition.labels).expect("the definition is valid");
    for values in initial_series(definition) {
        histogram.with_label_values(&values);
    }
    histogram
}

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("metric names are unique");
    collector
}

fn short(commit: &Commit) -> &str {
    commit.get(..SHORT_COMMIT).unwrap_or(commit)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn as_float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "a double holds milliseconds since the epoch exactly")]
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
        status.commit = Some(Commit::from("0123456789abcdef0123456789abcdef01234567"));
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
    fn a_scrape_contains_locations_lease_and_calls() {
        let metrics = Metrics::default();
        metrics.count_event(EventReason::Healthy);
        let calls = vec![("ecs:UpdateService".to_owned(), CallOutcome::Throttled.label(), 3)];
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
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn counters_exist_before_the_first_event() {
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
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn initial_values_are_given_for_every_label_or_none() {
        for definition in ALL {
            let (values, labels) = (definition.values.len(), definition.labels.len());
            assert!(values == 0 || values == labels, "{}", definition.name);
        }
    }

    #[test]
    fn a_deleted_location_leaves_no_metric_behind() {
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
