//! `codeloc logs`: the log lines of a location's tasks.

use std::process::ExitCode;

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use clap::{Arg, ArgAction, ArgMatches, Command};
use jiff::Timestamp;

use super::client::Client;
use super::terminal::{Piece, complain, print_json_line, print_pieces};
use super::{Failure, client};
use crate::api::Line;
use crate::settings;

pub fn command() -> Command {
    Command::new("logs")
        .about("Show the logs of a location: its code server and its runs")
        .arg(Arg::new("name").value_name("NAME").required(true).help("Show the logs of this location"))
        .arg(
            Arg::new("lines")
                .long("lines")
                .short('n')
                .value_name("NUMBER")
                .default_value("100")
                .value_parser(clap::value_parser!(u16).range(1..=1000))
                .help("Show at most this many lines, the newest ones; 1 to 1000"),
        )
        .arg(
            Arg::new("follow")
                .long("follow")
                .short('f')
                .action(ArgAction::SetTrue)
                .help("Show the newest lines, then new ones until Ctrl-C"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print each log line as one line of JSON"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").ok_or("no name given")?;
    let lines = matches.get_one::<u16>("lines").unwrap_or(&100);
    let json = matches.get_flag("json");
    let client = Client::new(matches)?;
    if matches.get_flag("follow") {
        let show = |data: &str| {
            if let Ok(line) = serde_json::from_str::<Line>(data) {
                return print(&line, json);
            }
            complain!("warning: the daemon cannot read new log lines: {data}");
            Ok(())
        };
        client.follow(&format!("/v1/locations/{name}/logs/stream?lines={lines}"), show).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<Line> = client.get(&format!("/v1/locations/{name}/logs?lines={lines}")).await?;
    if lines.is_empty() {
        complain!("{name} has no log lines yet");
    }
    for line in &lines {
        print(line, json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(line: &Line, json: bool) -> Result<(), Failure> {
    if json {
        return print_json_line(line);
    }
    let at = Timestamp::from_millisecond(line.at)
        .map_or_else(|_| line.at.to_string(), |at| at.strftime("%F %TZ").to_string());
    // The name of a stream ends with the task id.
    let task = line.stream.rsplit('/').next().unwrap_or_default();
    let origin = format!("{at} {}", task.get(..8).unwrap_or(task));
    let origin = Piece::of_one_line(&origin, AnsiColor::BrightBlack.on_default());
    // Dagster colours its log. Escaped, the colours would be noise on each line.
    let text = strip_str(&line.text).to_string();
    print_pieces(&[origin, Piece::new(&text, Style::new())]);
    Ok(())
}
