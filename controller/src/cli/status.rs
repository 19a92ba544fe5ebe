//! `codeloc status`: what the daemon says of every location.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::time::Instant;

use super::client::Client;
use super::out::{Cell, table};
use super::terminal::{complain, print_json, say};
use super::{Failure, client};
use crate::settings;
use crate::status::events::Event;
use crate::status::{Health, RepositoryStatus, Sync, Truth};

const POLL: Duration = Duration::from_millis(500);
/// Events that are shown of one location.
const EVENTS: usize = 8;

pub fn command() -> Command {
    Command::new("status")
        .about("Shows sync, health and reasons of every location, as the daemon has them")
        .arg(Arg::new("name").value_name("NAME").num_args(0..).help("Only these locations, in full"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints what the API answers"))
        .arg(
            Arg::new("wait")
                .long("wait")
                .action(ArgAction::SetTrue)
                .help("Waits until all are Synced and Healthy; exit 1 otherwise"),
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
    let wait = matches.get_flag("wait");
    let timeout = Duration::from_secs(*matches.get_one::<u64>("timeout").unwrap_or(&300));
    let deadline = Instant::now() + timeout;
    let (statuses, good) = loop {
        let answer: Result<Vec<RepositoryStatus>, Failure> = client.get("/v1/repositories").await;
        let expired = Instant::now() >= deadline;
        match answer {
            Ok(statuses) => {
                let statuses: Vec<RepositoryStatus> =
                    statuses.into_iter().filter(|status| names.is_empty() || names.contains(&&status.name)).collect();
                let found = names.iter().all(|name| statuses.iter().any(|status| status.name == **name));
                let good = found && !statuses.is_empty() && statuses.iter().all(settled);
                if !wait || good || expired {
                    break (statuses, good);
                }
            }
            // Not up yet.
            Err(_) if wait && !expired => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(POLL).await;
    };
    if let Some(why) = client.not_ready().await {
        complain!("warning: {why}");
    }
    if matches.get_flag("json") {
        print_json(&statuses)?;
    } else if names.is_empty() {
        print_table(&statuses);
    } else {
        for status in &statuses {
            let mut text = details(std::slice::from_ref(status));
            // An older daemon has none.
            let path = format!("/v1/events?repository={}", status.name);
            let events: Vec<Event> = client.get(&path).await.unwrap_or_default();
            text.push_str(&happened(&events));
            say!("{}", text.strip_suffix('\n').unwrap_or(&text));
        }
    }
    if wait && !good {
        return Err(format!("not all locations were Synced and Healthy within {} s", timeout.as_secs()).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn settled(status: &RepositoryStatus) -> bool {
    status.sync == Sync::Synced && status.health == Health::Healthy
}

fn print_table(statuses: &[RepositoryStatus]) {
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

fn details(statuses: &[RepositoryStatus]) -> String {
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
                Truth::True => "ok",
                Truth::False => "NO",
                Truth::Unknown => "..",
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
