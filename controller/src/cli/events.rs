//! `codeloc events`: the recorded events.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::client::Client;
use super::out::{Cell, age, table};
use super::terminal::{complain, print_json_line, say};
use super::{Failure, client};
use crate::settings;
use crate::status::events::Event;

pub fn command() -> Command {
    Command::new("events")
        .about("Show the last thousand events: what happened to which location, why, and from which commit")
        .arg(Arg::new("location").long("location").value_name("NAME").help("Show only events of this location"))
        .arg(
            Arg::new("severity")
                .long("severity")
                .value_name("SEVERITY")
                .value_parser(["normal", "warning"])
                .help("Show only events of at least this severity"),
        )
        .arg(
            Arg::new("follow")
                .long("follow")
                .short('f')
                .action(ArgAction::SetTrue)
                .help("Show the recorded events, then new ones until Ctrl-C"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print each event as one line of JSON"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    let mut query: Vec<String> = ["location", "severity"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", matches.get_one::<String>(name)?)))
        .collect();
    let json = matches.get_flag("json");
    if matches.get_flag("follow") {
        query.push("after=0".to_owned());
        let path = format!("/v1/events/stream?{}", query.join("&"));
        let show = |data: &str| {
            match serde_json::from_str::<Event>(data) {
                Ok(event) if json => print_json_line(&event)?,
                Ok(event) => say!("{}", line(&event)),
                Err(_) => complain!("warning: {data} events are missing, because this command read them too slowly"),
            }
            Ok(())
        };
        client.follow(&path, show).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let events: Vec<Event> = client.get(&format!("/v1/events?{}", query.join("&"))).await?;
    if json {
        for event in &events {
            print_json_line(event)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = events.into_iter().map(|event| {
        [
            Cell::new(age(event.last)),
            event.severity.into(),
            Cell::new(event.reason.label()),
            Cell::of(event.location),
            Cell::of(event.commit.map(|commit| commit.get(..8).unwrap_or(&commit).to_owned())),
            Cell::new(event.count.to_string()),
            Cell::new(event.message.lines().next().unwrap_or_default()),
        ]
    });
    table(["AGO", "SEVERITY", "REASON", "LOCATION", "COMMIT", "TIMES", "MESSAGE"], rows.collect());
    Ok(ExitCode::SUCCESS)
}

fn line(event: &Event) -> String {
    let location = event.location.as_deref().unwrap_or("-");
    format!("{} {location} {}: {}", event.last.strftime("%F %TZ"), event.reason.label(), event.message)
}
