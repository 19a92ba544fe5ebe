//! `codeloc list`: one line for each location.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_core::status::LocationStatus;

use super::client::Client;
use super::out::{Cell, age, table};
use super::terminal::print_json;
use super::{Failure, client};
use crate::cost::Cost;
use crate::settings;

pub fn command() -> Command {
    Command::new("list")
        .about("List locations with sync, health, commit, tasks, monthly costs, and when they were last in sync")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the JSON response of the API"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    let statuses: Vec<LocationStatus> = client.get("/v1/locations").await?;
    if matches.get_flag("json") {
        print_json(&statuses)?;
        return Ok(ExitCode::SUCCESS);
    }
    let costs: Vec<Cost> = client.get("/v1/costs").await?;
    let costs: BTreeMap<String, f64> = costs.into_iter().map(|cost| (cost.location, cost.now)).collect();
    let rows = statuses.into_iter().map(|status| {
        [
            Cell::new(status.name.clone()),
            status.sync.into(),
            status.health.into(),
            Cell::of(status.commit.as_deref().map(|commit| commit.get(..8).unwrap_or(commit).to_owned())),
            Cell::of(status.commit_observed.map(age)),
            Cell::new(status.running.to_string()),
            Cell::of(costs.get(&status.name).map(|dollars| format!("{dollars:.2}"))),
            Cell::of(status.converged.map(age)),
            Cell::new(status.message.lines().next().unwrap_or_default()),
        ]
    });
    let titles = ["NAME", "SYNC", "HEALTH", "COMMIT", "COMMIT AGE", "TASKS", "$/MONTH", "LAST SYNCED", "MESSAGE"];
    table(titles, rows.collect());
    Ok(ExitCode::SUCCESS)
}
