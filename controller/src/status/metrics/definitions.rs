//! The list of metrics. Help texts say what to alert on.

use super::outcomes::{
    BuildOutcome, DeliveryOutcome, HookOutcome, HookSender, ImageLookup, ReloadOutcome, RolloutOutcome, SweepOutcome,
    WriteOutcome,
};
use crate::status::label::{CLASSES, PRIORITIES};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    /// Values of each label, if they are known in advance. Their series exist from the start: the first occurrence is then an increase,
    /// and an alert on it fires.
    pub values: &'static [&'static [&'static str]],
    pub help: &'static str,
}

impl Definition {
    const fn starting_with(self, values: &'static [&'static [&'static str]]) -> Self {
        Self { values, ..self }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Definition {
    Definition { name, kind: MetricKind::Counter, labels, values: &[], help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Definition {
    Definition { name, kind: MetricKind::Gauge, labels, values: &[], help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Definition {
    Definition { name, kind: MetricKind::Histogram, labels, values: &[], help }
}

pub const BUILD_INFO: Definition = gauge(
    "codeloc_build_info",
    &["deployment", "version"],
    "Always 1, with the deployment and the version. Alert if it is absent: Prometheus does not reach codeloc.",
);
pub const START: Definition = gauge("codeloc_start_timestamp_seconds", &[], "Time at which this process started.");
pub const MODE: Definition =
    gauge("codeloc_mode_info", &["mode"], "Always 1, with the mode of the daemon: enforce, detect or suspended.");
pub const LOCATION: Definition = gauge(
    "codeloc_location_info",
    &["location", "sync", "health", "reason"],
    "Always 1, with sync, health, and the reason of the first condition that is not True. Alert on health=\"Degraded\" for 5 minutes and on sync=\"OutOfSync\" for 30 minutes. Aggregate by location: each change of another label starts a new series.",
);
pub const COMMIT: Definition =
    gauge("codeloc_location_commit_info", &["location", "commit"], "Always 1, with the desired commit.");
pub const COMMIT_OBSERVED: Definition = gauge(
    "codeloc_location_commit_observed_timestamp_seconds",
    &["location"],
    "Time at which this process first saw the desired commit.",
);
pub const CONVERGED: Definition = gauge(
    "codeloc_location_converged_timestamp_seconds",
    &["location"],
    "Time at which the location was last observed in sync. Alert if it is more than three sweeps ago.",
);
pub const DRIFT: Definition = gauge(
    "codeloc_location_drift_fields",
    &["location", "kind"],
    "Fields that differ from the desired state at the last observation, by kind of resource. Alert if it stays above 0 for 10 minutes. Aggregate by location: different kinds may have drift one after another.",
);
pub const HELD: Definition = gauge(
    "codeloc_location_failed_revision_held",
    &["location"],
    "1 while codeloc does not retry a revision that failed to roll out; the previous revision serves. Alert on 1: the location needs a new commit.",
);
pub const LOAD_ERROR: Definition = gauge(
    "codeloc_location_load_error",
    &["location"],
    "1 while the code of a location fails to load. Alert on 1 for 5 minutes.",
);
pub const COST: Definition = gauge(
    "codeloc_location_cost_dollars_per_month",
    &["location", "capacity"],
    "Estimated dollars for 730 hours of a location's tasks on Fargate: with the fewest tasks (min), the running tasks (now) and the most tasks (max).",
);
pub const PRUNE_BLOCKED: Definition = gauge(
    "codeloc_prune_blocked_locations",
    &[],
    "Locations without a config that codeloc keeps because the prune guard blocks their deletion. Alert above 0: a person must confirm the deletion.",
);
pub const WORKSPACE_ENTRIES: Definition =
    gauge("codeloc_workspace_entries", &[], "Locations in workspace.yaml. Alert if it falls to 0.");
pub const QUEUE_DEPTH: Definition = gauge(
    "codeloc_queue_depth",
    &["state"],
    "Locations in the queue (waiting, including those that are not due yet) and locations that codeloc reconciles now (running).",
);
pub const LEASE: Definition = gauge(
    "codeloc_lease_state",
    &["state"],
    "1 for the current state of the lease: held, standby, unreadable or unknown. Alert if no process of a deployment (by job) holds it for 5 minutes.",
);
pub const SOURCE_UP: Definition = gauge(
    "codeloc_source_up",
    &[],
    "1 if the last attempt to read the configs succeeded. Alert on 0 for 5 minutes: codeloc does not see new commits.",
);
pub const SOURCE: Definition =
    gauge("codeloc_source_commit_info", &["commit"], "Always 1, with the commit of the config repository in force.");
pub const SOURCE_READ: Definition = gauge(
    "codeloc_source_read_timestamp_seconds",
    &[],
    "Time at which codeloc last read the configs successfully. Alert if it is more than 10 minutes ago.",
);
pub const SWEPT: Definition = gauge(
    "codeloc_sweep_timestamp_seconds",
    &[],
    "Time of the last complete sweep; 0 before the first one. Alert if it stays more than 5 minutes ago for 10 minutes: codeloc does not see drift.",
);
pub const LEARNED_RATE: Definition = gauge(
    "codeloc_aws_learned_rate_calls_per_second",
    &["family"],
    "Calls per second to which codeloc limits itself, by family of operations. It learns this rate from throttled calls.",
);
pub const WAITING_CALLS: Definition = gauge(
    "codeloc_aws_waiting_calls",
    &["family"],
    "Calls that wait for the rate limiter, by family of operations. Alert if it stays high: the rates of the AWS account limit codeloc.",
);
pub const AWS_CALLS: Definition = counter(
    "codeloc_aws_calls_total",
    &["service", "operation", "outcome"],
    "Attempts of AWS calls, including retries of the SDK: passed, failed or throttled. Alert if more than 5% are throttled for 10 minutes.",
);
pub const RECONCILES: Definition = histogram(
    "codeloc_reconcile_duration_seconds",
    &["outcome"],
    "Duration of the reconcile of one location. Alert on the rate of outcome=\"failed\".",
);
pub const QUEUE_WAIT: Definition = histogram(
    "codeloc_queue_wait_seconds",
    &["priority"],
    "Time that a due location waits until codeloc reconciles it, by priority: commit, again (retries and waits), making (creation in progress), cold (not created yet), resync or garbage. Alert if it is above 10 seconds for priority=\"commit\".",
)
.starting_with(&[&PRIORITIES]);
pub const SWEEPS: Definition = histogram(
    "codeloc_sweep_duration_seconds",
    &["outcome"],
    "Duration of a sweep, which reads the whole deployment from AWS.",
)
.starting_with(&[SweepOutcome::LABELS]);
pub const BUILDS: Definition = histogram(
    "codeloc_image_build_duration_seconds",
    &["outcome"],
    "Duration of image builds, including the push. Alert on outcome=\"failed\".",
)
.starting_with(&[BuildOutcome::LABELS]);
pub const IMAGE_LOOKUPS: Definition = counter(
    "codeloc_image_lookups_total",
    &["result"],
    "Lookups of images in the registry: found, missing (codeloc builds the image), or failed (the registry did not answer). Alert on failed.",
)
.starting_with(&[ImageLookup::LABELS]);
pub const CHANGES: Definition = counter(
    "codeloc_changes_applied_total",
    &["kind", "action"],
    "Changes that codeloc made in AWS and in workspace.yaml. Alert if it keeps rising without commits: another user or program changes the same resources.",
);
pub const FAILED_STEPS: Definition = counter(
    "codeloc_steps_failed_total",
    &["class"],
    "Changes that failed, by class of error: Transient (network, 5xx, conflict), Throttled, NotYet (AWS does not see a new resource yet), Fenced (this process does not hold the lease) or Terminal (a person must change a config, a setting or a permission).",
)
.starting_with(&[&CLASSES]);
pub const ROLLOUTS: Definition = counter(
    "codeloc_rollouts_total",
    &["outcome"],
    "Rollouts: started, and failed (the revision did not become healthy). Alert on failed.",
)
.starting_with(&[RolloutOutcome::LABELS]);
pub const WORKSPACE_WRITES: Definition = counter("codeloc_workspace_writes_total", &[], "Writes of workspace.yaml.");
pub const RELOADS: Definition = counter(
    "codeloc_dagster_reloads_total",
    &["outcome"],
    "Reloads of workspace.yaml by Dagster's webserver: done or failed. Alert on failed.",
)
.starting_with(&[ReloadOutcome::LABELS]);
pub const EVENTS: Definition =
    counter("codeloc_events_total", &["reason", "severity"], "Events, including repetitions.");
pub const DELIVERIES: Definition = counter(
    "codeloc_event_deliveries_total",
    &["outcome"],
    "Events for the webhook: delivered, failed after all attempts, or dropped because too many were waiting. Alert on failed.",
)
.starting_with(&[DeliveryOutcome::LABELS]);
pub const HOOKS: Definition = counter(
    "codeloc_hooks_total",
    &["sender", "outcome"],
    "Requests to /hooks/git: accepted, refused (not signed with the secret) or ignored (no location uses the repository). Alert on refused.",
)
.starting_with(&[HookSender::LABELS, HookOutcome::LABELS]);
pub const CONFIG_WRITES: Definition = counter(
    "codeloc_config_writes_total",
    &["outcome"],
    "Changes of the config repository through the API: written, unchanged, refused or failed.",
)
.starting_with(&[WriteOutcome::LABELS]);
pub const HTTP: Definition = counter(
    "codeloc_http_requests_total",
    &["method", "route", "status"],
    "Requests to the API by method, route and status.",
);

/// All metrics.
pub const ALL: [&Definition; 37] = [
    &BUILD_INFO,
    &START,
    &MODE,
    &LOCATION,
    &COMMIT,
    &COMMIT_OBSERVED,
    &CONVERGED,
    &DRIFT,
    &HELD,
    &LOAD_ERROR,
    &COST,
    &PRUNE_BLOCKED,
    &WORKSPACE_ENTRIES,
    &QUEUE_DEPTH,
    &LEASE,
    &SOURCE_UP,
    &SOURCE,
    &SOURCE_READ,
    &SWEPT,
    &LEARNED_RATE,
    &WAITING_CALLS,
    &AWS_CALLS,
    &RECONCILES,
    &QUEUE_WAIT,
    &SWEEPS,
    &BUILDS,
    &IMAGE_LOOKUPS,
    &CHANGES,
    &FAILED_STEPS,
    &ROLLOUTS,
    &WORKSPACE_WRITES,
    &RELOADS,
    &EVENTS,
    &DELIVERIES,
    &HOOKS,
    &CONFIG_WRITES,
    &HTTP,
];
