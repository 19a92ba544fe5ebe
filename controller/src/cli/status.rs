//! `codeloc status`: what the daemon says of every location.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_core::status::{ConditionStatus, Health, LocationStatus, Sync};
use jiff::Timestamp;
use reqwest::Method;
use tokio::time::Instant;

use super::client::Client;
use super::out::{Cell, table};
use super::terminal::{complain, print_json, say};
use super::{Failure, client};
use crate::api::DaemonStatus;
use crate::settings;
use crate::status::events::Event;

const POLL: Duration = Duration::from_millis(500);
/// Events that are shown of one location.
const EVENTS: usize = 8;
/// Locations that an error names.
const SHOWN: usize = 5;
/// The similarity, from 0 to 1, from which on a name is suggested.
const LIKE: f64 = 0.8;

pub fn command() -> Command {
    Command::new("status")
        .about("Shows sync, health and reasons of every location, as the daemon has them")
        .arg(Arg::new("name").value_name("NAME").num_args(0..).help("Only these locations, in full"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints what the API answers"))
        .arg(
            Arg::new("wait")
                .long("wait")
                .action(ArgAction::SetTrue)
                .help("Waits until all are Synced and Healthy with what was pushed before; exit 1 otherwise"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("300")
                .value_parser(clap::value_parser!(u64))
                .help("How long --wait waits"),
        )
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    let names: Vec<&String> = matches.get_many("name").map(Iterator::collect).unwrap_or_default();
    let timeout = Duration::from_secs(*matches.get_one::<u64>("timeout").unwrap_or(&300));
    let (all, unsettled) = if matches.get_flag("wait") {
        wait(&client, &names, Instant::now() + timeout).await?
    } else {
        (client.get("/v1/locations").await?, None)
    };
    if let Some(why) = client.not_ready().await {
        complain!("warning: {why}");
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
            // An older daemon has none.
            let path = format!("/v1/events?location={}", status.name);
            let events: Vec<Event> = client.get(&path).await.unwrap_or_default();
            text.push_str(&happened(&events));
            say!("{}", text.strip_suffix('\n').unwrap_or(&text));
        }
    }
    if let Some(unsettled) = unsettled {
        let seconds = timeout.as_secs();
        return Err(format!("not all locations were Synced and Healthy within {seconds} s: {unsettled}").into());
    }
    match unknown {
        Some(unknown) => Err(unknown.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Polls until all locations are settled with everything pushed before now. At the deadline, says which are not.
async fn wait(
    client: &Client,
    names: &[&String],
    deadline: Instant,
) -> Result<(Vec<LocationStatus>, Option<String>), Failure> {
    let mut first: Option<DaemonStatus> = None;
    loop {
        let answer = look(client, &mut first, names).await;
        let expired = Instant::now() >= deadline;
        match answer {
            Ok((statuses, None)) => return Ok((statuses, None)),
            Ok((statuses, why)) if expired => return Ok((statuses, why)),
            Err(error) if expired => return Err(error),
            // Not settled yet, or the daemon is not up yet.
            Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// All statuses, and why the wait goes on. `first` keeps the first answer of the daemon about itself.
async fn look(
    client: &Client,
    first: &mut Option<DaemonStatus>,
    names: &[&String],
) -> Result<(Vec<LocationStatus>, Option<String>), Failure> {
    let daemon: DaemonStatus = client.get("/v1/status").await?;
    if first.is_none() {
        hurry(client, names).await;
    }
    // By the daemon's clock; an older daemon tells none.
    let began = first.get_or_insert_with(|| daemon.clone()).now;
    let statuses: Vec<LocationStatus> = client.get("/v1/locations").await?;
    let mut unsettled: Vec<String> = statuses
        .iter()
        .filter(|status| names.is_empty() || names.contains(&&status.name))
        .filter_map(|status| unsettled(status, began))
        .collect();
    unsettled.extend(unknown(names, &statuses));
    if names.is_empty() && statuses.is_empty() {
        unsettled.push("there are no locations".to_owned());
    }
    if names.is_empty() && began.is_some() && daemon.as_of < began {
        unsettled.push("the daemon has not read the configs again, or has not looked at all of them yet".to_owned());
    }
    let more = unsettled.len().saturating_sub(SHOWN);
    unsettled.truncate(SHOWN);
    if more > 0 {
        unsettled.push(format!("and {more} more"));
    }
    Ok((statuses, (!unsettled.is_empty()).then(|| unsettled.join("; "))))
}

/// Asks the daemon to look now. A token that may only read is refused, and waits for the next poll of the daemon.
async fn hurry(client: &Client, names: &[&String]) {
    let mut known = !names.is_empty();
    for name in names {
        known &= client.send_json(Method::POST, &format!("/v1/locations/{name}/sync"), None).await.is_ok();
    }
    if !known {
        let _ = client.send_json(Method::POST, "/v1/sync", None).await;
    }
}

/// Why a location is not settled with everything pushed before `began`.
fn unsettled(status: &LocationStatus, began: Option<Timestamp>) -> Option<String> {
    if !settled(status) {
        let message = status.message.lines().next().unwrap_or_default();
        return Some(format!("{} is {}, {}: {message}", status.name, status.sync, status.health));
    }
    let newest = began.is_none() || status.as_of >= began;
    (!newest)
        .then(|| format!("{} may be out of date: the daemon has not read its config or its branch again", status.name))
}

fn chosen(names: &[&String], all: Vec<LocationStatus>) -> Vec<LocationStatus> {
    all.into_iter().filter(|status| names.is_empty() || names.contains(&&status.name)).collect()
}

/// An error for names that no location has, with similar names.
fn unknown(names: &[&String], all: &[LocationStatus]) -> Option<String> {
    let unknown = names.iter().filter(|name| all.iter().all(|status| status.name != ***name));
    let told: Vec<String> = unknown
        .map(|name| {
            let mut similar: Vec<(f64, &str)> =
                all.iter().map(|status| (strsim::jaro_winkler(name, &status.name), status.name.as_str())).collect();
            similar.retain(|(likeness, _)| *likeness >= LIKE);
            similar.sort_by(|left, right| right.0.total_cmp(&left.0));
            let similar: Vec<String> = similar.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
            match similar.join(" or ") {
                none if none.is_empty() => format!("there is no location `{name}`; `codeloc list` shows all of them"),
                similar => format!("there is no location `{name}`; did you mean {similar}?"),
            }
        })
        .collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn settled(status: &LocationStatus) -> bool {
    status.sync == Sync::Synced && status.health == Health::Healthy
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
        say!("Images are built for {platform}, not for each config's architecture (setting build.platform).");
    }
}

/// The last events, the newest last.
fn happened(events: &[Event]) -> String {
    let mut out = String::new();
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        let times = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
        let first = event.message.lines().next().unwrap_or_default();
        let _ = writeln!(out, "  {} {:?}{times}: {first}", event.last.strftime("%F %TZ"), event.reason);
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
            ("commit", &status.commit),
            ("image", &status.image),
            ("platform", &status.platform),
            ("revision", &status.revision),
            ("serving", &status.serving),
            ("address", &status.address),
        ];
        for (key, value) in optional {
            line(&mut out, key, value.as_deref().unwrap_or("-"));
        }
        for dated in &status.conditions {
            let condition = &dated.condition;
            let sign = match condition.status {
                ConditionStatus::True => "ok",
                ConditionStatus::False => "NO",
                ConditionStatus::Unknown => "..",
            };
            let (kind, reason) = (format!("{:?}", condition.kind), format!("{:?}", condition.reason));
            let _ = writeln!(out, "  {sign} {kind:<15} {reason} since {}", dated.since.strftime("%F %TZ"));
            for text in condition.message.lines() {
                let _ = writeln!(out, "       {text}");
            }
        }
        out.push('\n');
    }
    out
}
