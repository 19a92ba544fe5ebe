//! `codeloc sync`: looks now, rather than at the next interval.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use reqwest::Method;

use super::client::Client;
use super::terminal::say;
use super::{Failure, client};
use crate::settings;

pub fn command() -> Command {
    Command::new("sync")
        .about("Makes the daemon look at configs, branches and AWS now: of all locations, or of those that are named")
        .arg(Arg::new("name").value_name("NAME").num_args(0..).help("Only these locations"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    let names: Vec<&String> = matches.get_many("name").map(Iterator::collect).unwrap_or_default();
    if names.is_empty() {
        client.send_json(Method::POST, "/v1/sync", None).await?;
        say!("all locations are looked at");
    }
    for name in names {
        client.send_json(Method::POST, &format!("/v1/locations/{name}/sync"), None).await?;
        say!("{name} is looked at");
    }
    Ok(ExitCode::SUCCESS)
}
