//! `codeloc abandon-runs`: deletes a removed location without waiting for its runs.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use reqwest::Method;

use super::client::Client;
use super::terminal::say;
use super::{Failure, client};
use crate::settings;

pub fn command() -> Command {
    Command::new("abandon-runs")
        .about("Delete a removed location now, without waiting until its runs end; these runs fail")
        .arg(Arg::new("name").value_name("NAME").required(true).help("Abandon the runs of this location"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").ok_or("no name given")?;
    Client::new(matches)?.send_json(Method::POST, &format!("/v1/locations/{name}/abandon-runs"), None).await?;
    say!("{name}: codeloc deletes the location without waiting for its runs");
    Ok(ExitCode::SUCCESS)
}
