//! `codeloc status`: the status of locations, as the daemon reports it.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_core::status::{ConditionStatus, LocationStatus};
use jiff::Timestamp;
use reqwest::Method;
use tokio::time::Instant;

use super::apply::NOT_SETTLED;
use super::client::Client;
use super::out::{Cell, table};
use super::terminal::{complain, print_json, say};
use super::{Failure, client};
use crate::api::DaemonStatus;
use crate::settings;
use crate::status::events::Event;
use crate::status::{Label, is_settled, is_stuck};

const POLL: Duration = Duration::from_millis(500);
/// Events to show for one location.
const EVENTS: usize = 8;
/// Locations to name in an error.
const SHOWN: usize = 5;
/// Similarity, from 0 to 1, from which codeloc suggests a name.
const MIN_SIMILARITY: f64 = 0.8;

pub fn command() -> Command {
    Command::new("status")
        .about("Show sync, health and message of all locations, or the full status of some")
        .arg(Arg::new("name").value_name("NAME").num_args(0..).help("Show only these locations, in full"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the JSON response of the API"))
        .arg(
            Arg::new("wait").long("wait").action(ArgAction::SetTrue).help(
                "Wait until all locations are Synced and Healthy with every commit pushed so far; otherwise exit 1",
            ),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("300")
                .value_parser(clap::value_parser!(u64))
                .help("Wait at most this long with --wait"),
        )
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    let names: Vec<&String> = matches.get_many("name").map(Iterator::collect).unwrap_or_default();
    let timeout = Duration::from_secs(*matches.get_one::<u64>("timeout").unwrap_or(&300));
    let (all, progress) = if matches.get_flag("wait") {
        wait(&client, &names, Instant::now() + timeout).await?
    } else {
        (client.get("/v1/locations").await?, Progress::Settled)
    };
    if let Some(fault) = client.fault().await {
        complain!("warning: {fault}");
    }
    let unknown = unknown(&names, &all);
    let statuses = chosen(&names, all);
    if matches.get_flag("json") {
        print_json(&statuses)?;
    } else if names.is_empty() {
        print_table(&statuses);
    } else {
        for status in &statuses {
            let mut text = details(std::slice::from_ref(status));
            // An older daemon records no events.
            let path = format!("/v1/events?location={}", status.name);
            let events: Vec<Event> = client.get(&path).await.unwrap_or_default();
            text.push_str(&recent(&events));
            say!("{}", text.strip_suffix('\n').unwrap_or(&text));
        }
    }
    match progress {
        Progress::Settled => {}
        Progress::Pending(why) => {
            let seconds = timeout.as_secs();
            return Err(format!("not all locations were Synced and Healthy within {seconds} s: {why}").into());
        }
        Progress::Stuck(why) => return Err(format!("{NOT_SETTLED}: {why}").into()),
    }
    match unknown {
        Some(unknown) => Err(unknown.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Whether to wait longer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Settled,
    /// Some locations need more time.
    Pending(String),
    /// The locations that are not settled need a person.
    Stuck(String),
}

/// Polls until all locations are settled with everything pushed before now, until waiting does not help, or until the deadline.
async fn wait(
    client: &Client,
    names: &[&String],
    deadline: Instant,
) -> Result<(Vec<LocationStatus>, Progress), Failure> {
    let mut first: Option<DaemonStatus> = None;
    loop {
        let answer = poll(client, &mut first, names).await;
        let expired = Instant::now() >= deadline;
        match answer {
            Ok((statuses, progress)) if expired || !matches!(progress, Progress::Pending(_)) => {
                return Ok((statuses, progress));
            }
            Err(error) if expired => return Err(error),
            // Not settled yet, or the daemon does not answer yet.
            Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// All statuses, and whether to wait longer. `first` keeps the daemon's first answer.
async fn poll(
    client: &Client,
    first: &mut Option<DaemonStatus>,
    names: &[&String],
) -> Result<(Vec<LocationStatus>, Progress), Failure> {
    let daemon: DaemonStatus = client.get("/v1/status").await?;
    if first.is_none() {
        hurry(client, names).await;
    }
    // By the daemon's clock; an older daemon does not report it.
    let began = first.get_or_insert_with(|| daemon.clone()).now;
    let statuses: Vec<LocationStatus> = client.get("/v1/locations").await?;
    let progress = progress(names, &statuses, daemon.as_of, began);
    Ok((statuses, progress))
}

/// `as_of` is the moment up to which the daemon knows all configs, `began` the moment before which every push counts.
fn progress(
    names: &[&String],
    statuses: &[LocationStatus],
    as_of: Option<Timestamp>,
    began: Option<Timestamp>,
) -> Progress {
    let mut pending = false;
    let mut reasons = Vec::new();
    for status in statuses.iter().filter(|status| names.is_empty() || names.contains(&&status.name)) {
        let is_current = status.as_of >= began;
        if !is_settled(status) {
            let message = status.message.lines().next().unwrap_or_default();
            reasons.push(format!("{} is {}, {}: {message}", status.name, status.sync, status.health));
            // A fix may have been pushed before the command started.
            pending |= !(is_stuck(status) && is_current && began.is_some());
        } else if !is_current {
            reasons.push(format!(
                "the status of {} may be old: the daemon has not read its config or its branch since this command \
                 started",
                status.name
            ));
            pending = true;
        }
    }
    let mut more_time = |reason: String| {
        reasons.push(reason);
        pending = true;
    };
    if let Some(unknown) = unknown(names, statuses) {
        more_time(unknown);
    }
    if names.is_empty() && statuses.is_empty() {
        more_time("the daemon has no locations".to_owned());
    }
    if names.is_empty() && began.is_some() && as_of < began {
        more_time(
            "since this command started, the daemon has not read the configs, or not reconciled all of them".to_owned(),
        );
    }
    if reasons.is_empty() {
        return Progress::Settled;
    }
    let more = reasons.len().saturating_sub(SHOWN);
    reasons.truncate(SHOWN);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    let reasons = reasons.join("; ");
    if pending { Progress::Pending(reasons) } else { Progress::Stuck(reasons) }
}

/// Asks the daemon to reconcile now. With a read-only token, the command waits for the daemon's next poll.
async fn hurry(client: &Client, names: &[&String]) {
    let mut all_known = !names.is_empty();
    for name in names {
        all_known &= client.send_json(Method::POST, &format!("/v1/locations/{name}/sync"), None).await.is_ok();
    }
    if !all_known {
        let _ = client.send_json(Method::POST, "/v1/sync", None).await;
    }
}

fn chosen(names: &[&String], all: Vec<LocationStatus>) -> Vec<LocationStatus> {
    all.into_iter().filter(|status| names.is_empty() || names.contains(&&status.name)).collect()
}

/// The error for names without a location. It suggests similar names.
fn unknown(names: &[&String], all: &[LocationStatus]) -> Option<String> {
    let unknown = names.iter().filter(|name| all.iter().all(|status| status.name != ***name));
    let errors: Vec<String> = unknown
        .map(|name| {
            let mut similar: Vec<(f64, &str)> =
                all.iter().map(|status| (strsim::jaro_winkler(name, &status.name), status.name.as_str())).collect();
            similar.retain(|(similarity, _)| *similarity >= MIN_SIMILARITY);
            similar.sort_by(|left, right| right.0.total_cmp(&left.0));
            let similar: Vec<String> = similar.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
            match similar.join(" or ") {
                none if none.is_empty() => format!("there is no location `{name}`; `codeloc list` shows all of them"),
                similar => format!("there is no location `{name}`; did you mean {similar}?"),
            }
        })
        .collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

fn print_table(statuses: &[LocationStatus]) {
    let rows = statuses.iter().map(|status| {
        [
            Cell::new(&status.name),
            status.sync.into(),
            status.health.into(),
            Cell::of(status.commit.as_deref().map(|commit| commit.get(..8).unwrap_or(commit))),
            Cell::of(status.address.as_deref()),
            Cell::new(status.message.lines().next().unwrap_or_default()),
        ]
    });
    table(["NAME", "SYNC", "HEALTH", "COMMIT", "ADDRESS", "MESSAGE"], rows.collect());
    let platforms: std::collections::BTreeSet<&str> =
        statuses.iter().filter_map(|status| status.platform.as_deref()).collect();
    for platform in platforms {
        say!("codeloc builds images for {platform}, not for the architecture in each config (setting build.platform).");
    }
}

/// The last events; the newest is the last.
fn recent(events: &[Event]) -> String {
    let mut out = String::new();
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        let times = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
        let first = event.message.lines().next().unwrap_or_default();
        let _ = writeln!(out, "  {} {}{times}: {first}", event.last.strftime("%F %TZ"), event.reason.label());
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn details(statuses: &[LocationStatus]) -> String {
    let mut out = String::new();
    for status in statuses {
        let line = |out: &mut String, key: &str, value: &str| {
            let _ = writeln!(out, "  {key:<10} {value}");
        };
        let _ = writeln!(out, "{}: {}, {}", status.name, status.sync, status.health);
        let optional = [
            ("commit", status.commit.as_deref()),
            ("image", status.image.as_deref()),
            ("platform", status.platform.as_deref()),
            ("revision", status.revision.as_deref()),
            ("serving", status.serving.as_deref()),
            ("address", status.address.as_deref()),
        ];
        for (key, value) in optional {
            line(&mut out, key, value.unwrap_or("-"));
        }
        for dated in &status.conditions {
            let condition = &dated.condition;
            let sign = match condition.status {
                ConditionStatus::True => "ok",
                ConditionStatus::False => "NO",
                ConditionStatus::Unknown => "..",
            };
            let (kind, reason) = (condition.kind.label(), condition.reason.label());
            let _ = writeln!(out, "  {sign} {kind:<15} {reason} since {}", dated.since.strftime("%F %TZ"));
            for text in condition.message.lines() {
                let _ = writeln!(out, "       {text}");
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use codeloc_core::status::{Condition, ConditionKind, DatedCondition, Health, Reason, Sync};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settled(name: &str, as_of: i64) -> LocationStatus {
        let mut status = LocationStatus::unknown(name, "in sync".to_owned(), at(0));
        (status.sync, status.health, status.as_of) = (Sync::Synced, Health::Healthy, Some(at(as_of)));
        status
    }

    fn with(name: &str, as_of: i64, reason: Reason) -> LocationStatus {
        let (kind, message) = (ConditionKind::Deployed, "no module shop".to_owned());
        let condition = Condition { kind, status: ConditionStatus::False, reason, message: message.clone() };
        let conditions = vec![DatedCondition { condition, since: at(0) }];
        LocationStatus { health: Health::Degraded, message, conditions, ..settled(name, as_of) }
    }

    fn judge(statuses: &[LocationStatus]) -> Progress {
        progress(&[], statuses, Some(at(20)), Some(at(10)))
    }

    #[test]
    fn waiting_ends_if_all_other_locations_are_stuck() {
        let stuck = with("orders", 15, Reason::RolloutFailed);
        let expected = Progress::Stuck("orders is Synced, Degraded: no module shop".to_owned());
        assert_eq!(judge(&[settled("billing", 15), stuck]), expected);
    }

    #[test]
    fn waiting_goes_on_while_one_location_needs_time() {
        let stuck = with("orders", 15, Reason::RolloutFailed);
        for other in [with("billing", 15, Reason::Rolling), settled("billing", 5)] {
            assert!(matches!(judge(&[stuck.clone(), other]), Progress::Pending(_)));
        }
    }

    #[test]
    fn a_fix_that_the_daemon_has_not_read_is_waited_for() {
        let stuck = with("orders", 5, Reason::RolloutFailed);
        assert!(matches!(judge(std::slice::from_ref(&stuck)), Progress::Pending(_)));
        let unread = progress(&[], &[with("orders", 15, Reason::RolloutFailed)], Some(at(5)), Some(at(10)));
        assert!(matches!(unread, Progress::Pending(_)), "{unread:?}");
        let older_daemon = progress(&[], &[stuck], None, None);
        assert!(matches!(older_daemon, Progress::Pending(_)), "{older_daemon:?}");
    }
}
