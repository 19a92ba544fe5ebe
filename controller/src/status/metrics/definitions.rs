//! The list of metrics. Help texts say what to alert on.

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
    /// The values of each label, where they are known beforehand: these series are there from the start, so that the first time something
    /// happens is an increase, and an alert on it fires.
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
    &["version"],
    "Always 1, with the version. Alert where it is absent: nothing is scraped.",
);
pub const MODE: Definition =
    gauge("codeloc_mode_info", &["mode"], "Always 1, with what the daemon may do: Enforce, Detect or Suspended.");
pub const LOCATION: Definition = gauge(
    "codeloc_location_info",
    &["location", "sync", "health", "reason"],
    "Always 1, with sync, health, and the reason of the first condition that is not true. Alert on health=\"Degraded\" for 5 minutes, and on sync=\"OutOfSync\" for 30; by repository alone, since each change of a label begins another series.",
);
pub const COMMIT: Definition =
    gauge("codeloc_location_commit_info", &["location", "commit"], "Always 1, with the commit that is wanted.");
pub const COMMIT_OBSERVED: Definition = gauge(
    "codeloc_location_commit_observed_timestamp_seconds",
    &["location"],
    "When this process first saw the commit that is wanted.",
);
pub const CONVERGED: Definition = gauge(
    "codeloc_location_converged_timestamp_seconds",
    &["location"],
    "When the location was last seen to be as wanted. Alert where that is longer ago than three sweeps.",
);
pub const DRIFT: Definition = gauge(
    "codeloc_location_drift_fields",
    &["location", "kind"],
    "Fields that differ from what is wanted, by kind of resource, at the last look. Alert where it stays above 0 for 10 minutes.",
);
pub const HELD: Definition = gauge(
    "codeloc_location_failed_revision_held",
    &["location"],
    "1 while a revision that failed to roll out is not tried again; the one before serves. Alert on 1: it waits for a commit.",
);
pub const LOAD_ERROR: Definition = gauge(
    "codeloc_location_load_error",
    &["location"],
    "1 while the code of a location fails to load. Alert on 1 for 5 minutes.",
);
pub const COST: Definition = gauge(
    "codeloc_location_cost_dollars_per_month",
    &["location", "capacity"],
    "Estimated dollars for 730 hours of a location's tasks on Fargate: fewest (min), those that run (now), most (max).",
);
pub const PRUNE_BLOCKED: Definition = gauge(
    "codeloc_prune_blocked_locations",
    &[],
    "Locations without a config that are not deleted, since that would be too many at once. Alert above 0: somebody has to confirm.",
);
pub const WORKSPACE_ENTRIES: Definition =
    gauge("codeloc_workspace_entries", &[], "Locations in workspace.yaml. Alert where it falls to 0.");
pub const QUEUE_DEPTH: Definition =
    gauge("codeloc_queue_depth", &["state"], "Locations that wait for a pass, its time come or not, and those in one.");
pub const LEASE: Definition = gauge(
    "codeloc_lease_state",
    &["state"],
    "1 for the state of the lease: held, standby, unreadable or unknown. Alert where no process of a deployment (by job) holds it for 5 minutes.",
);
pub const SOURCE_UP: Definition = gauge(
    "codeloc_source_up",
    &[],
    "Whether the configs could be read at the last try. Alert on 0 for 5 minutes: commits are not seen.",
);
pub const SOURCE: Definition = gauge(
    "codeloc_source_commit_info",
    &["commit"],
    "Always 1, with the commit of the config repository that is in force.",
);
pub const SOURCE_READ: Definition = gauge(
    "codeloc_source_read_timestamp_seconds",
    &[],
    "When the configs were last read well. Alert where that is longer ago than 10 minutes.",
);
pub const SWEPT: Definition = gauge(
    "codeloc_sweep_timestamp_seconds",
    &[],
    "When AWS was last read whole; before the first time, when the process started. Alert where that is longer ago than 10 minutes: drift is not seen.",
);
pub const LEARNED_RATE: Definition = gauge(
    "codeloc_aws_learned_rate_calls_per_second",
    &["family"],
    "Calls per second that AWS is taken to admit, by family of operations; learned from refusals.",
);
pub const WAITING_CALLS: Definition = gauge(
    "codeloc_aws_waiting_calls",
    &["family"],
    "Calls that wait for their turn, by family of operations. Alert where it stays high: the account's rates are what is short.",
);
pub const AWS_CALLS: Definition = counter(
    "codeloc_aws_calls_total",
    &["service", "operation", "outcome"],
    "Attempts of calls to AWS, the SDK's own retries included: passed, failed or throttled. Alert where throttled is more than a twentieth for 10 minutes.",
);
pub const RECONCILES: Definition = histogram(
    "codeloc_reconcile_duration_seconds",
    &["outcome"],
    "Duration of passes on one location. Alert on the rate of outcome=\"failed\".",
);
pub const QUEUE_WAIT: Definition = histogram(
    "codeloc_queue_wait_seconds",
    &["priority"],
    "Time between the moment a location was due and its pass. Alert where that of commits is above 10 seconds.",
)
.starting_with(&[&["commit", "again", "making", "cold", "resync", "garbage"]]);
pub const SWEEPS: Definition =
    histogram("codeloc_sweep_duration_seconds", &["outcome"], "Duration of reading the whole deployment from AWS.")
        .starting_with(&[&["done", "failed"]]);
pub const BUILDS: Definition = histogram(
    "codeloc_image_build_duration_seconds",
    &["outcome"],
    "Duration of image builds, push included. Alert on outcome=\"failed\".",
)
.starting_with(&[&["built", "failed"]]);
pub const IMAGE_LOOKUPS: Definition = counter(
    "codeloc_image_lookups_total",
    &["result"],
    "Images that were asked for: found in the registry, missing and so to be built, or failed where the registry did not tell. Alert on failed.",
)
.starting_with(&[&["found", "missing", "failed"]]);
pub const CHANGES: Definition = counter(
    "codeloc_changes_applied_total",
    &["kind", "action"],
    "Changes made in AWS and in workspace.yaml. Alert where it keeps rising without commits: somebody else changes the same things.",
);
pub const FAILED_STEPS: Definition = counter(
    "codeloc_steps_failed_total",
    &["class"],
    "Changes that failed, by what is done about it: Transient, Throttled and NotYet are tried again soon; Terminal needs somebody.",
)
.starting_with(&[&["Transient", "Throttled", "NotYet", "Fenced", "Terminal"]]);
pub const ROLLOUTS: Definition = counter(
    "codeloc_rollouts_total",
    &["outcome"],
    "Rollouts begun, and those that ended in a failed revision. Alert on failed.",
)
.starting_with(&[&["begun", "failed"]]);
pub const WORKSPACE_WRITES: Definition = counter("codeloc_workspace_writes_total", &[], "Writes of workspace.yaml.");
pub const RELOADS: Definition = counter(
    "codeloc_dagster_reloads_total",
    &["outcome"],
    "Reloads that Dagster's webserver was asked for: done or failed. Alert on failed.",
)
.starting_with(&[&["done", "failed"]]);
pub const EVENTS: Definition =
    counter("codeloc_events_total", &["reason", "severity"], "Events, repeated ones included.");
pub const DELIVERIES: Definition = counter(
    "codeloc_event_deliveries_total",
    &["outcome"],
    "Events sent to webhooks: delivered, failed after all tries, or dropped since too many waited. Alert on failed.",
)
.starting_with(&[&["delivered", "failed", "dropped"]]);
pub const HOOKS: Definition = counter(
    "codeloc_hooks_total",
    &["sender", "outcome"],
    "Requests to /hooks/git: accepted, refused (forged or unsigned) or ignored (about nothing of ours). Alert on refused.",
)
.starting_with(&[&["github", "gitlab", "bitbucket", "generic"], &["accepted", "refused", "ignored"]]);
pub const CONFIG_WRITES: Definition = counter(
    "codeloc_config_writes_total",
    &["outcome"],
    "Changes of the config repository through the API: written, unchanged, refused or failed.",
)
.starting_with(&[&["written", "unchanged", "refused", "failed"]]);
pub const HTTP: Definition =
    counter("codeloc_http_requests_total", &["method", "route", "status"], "Requests to the API by route and status.");

/// Every metric there is.
pub const ALL: [&Definition; 36] = [
    &BUILD_INFO,
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
