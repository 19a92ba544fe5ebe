//! `codeloc status`: the status of locations, as the daemon reports it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_core::status::{ConditionStatus, LocationStatus};
use tokio::time::Instant;

use super::apply::NOT_SETTLED;
use super::client::Client;
use super::out::{Cell, table};
use super::terminal::{complain, print_json, say};
use super::wait::{self, Progress};
use super::{Failure, client, names};
use crate::settings;
use crate::status::Label;
use crate::status::events::Event;

/// Events to show for one location.
const EVENTS: usize = 8;

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
            Arg::new("commit")
                .long("commit")
                .value_name("COMMIT")
                .value_parser(wait::commit)
                .requires("wait")
                .requires("name")
                .help("With --wait and NAME: wait until the locations run this commit of their code; 7 to 40 digits"),
        )
        .arg(
            Arg::new("config-commit")
                .long("config-commit")
                .value_name("COMMIT")
                .value_parser(wait::commit)
                .requires("wait")
                .help("With --wait: wait until codeloc has read this commit of the config repository; 7 to 40 digits"),
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
        let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
        let goal = wait::Goal { names: &names, commit: text("commit"), config_commit: text("config-commit") };
        wait::wait(&client, goal, Instant::now() + timeout).await?
    } else {
        (client.get("/v1/locations").await?, Progress::Settled)
    };
    if let Some(fault) = client.fault().await {
        complain!("warning: {fault}");
    }
    let unknown = names::unknown(&names, &all);
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

fn chosen(names: &[&String], all: Vec<LocationStatus>) -> Vec<LocationStatus> {
    all.into_iter().filter(|status| names.is_empty() || names.contains(&&status.name)).collect()
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
    let platforms: BTreeSet<&str> = statuses.iter().filter_map(|status| status.platform.as_deref()).collect();
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
    use super::*;

    #[test]
    fn a_commit_needs_a_wait_and_a_name() {
        let accepts = |arguments: &[&str]| command().try_get_matches_from([&["status"], arguments].concat()).is_ok();
        assert!(accepts(&["--wait", "--commit", "fedcba9", "orders"]));
        assert!(!accepts(&["--commit", "fedcba9", "orders"]));
        assert!(!accepts(&["--wait", "--commit", "fedcba9"]));
    }
}
