//! `codeloc sync`: reconciles now instead of at the next interval.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use reqwest::Method;

use super::client::Client;
use super::terminal::say;
use super::{Failure, client};
use crate::settings;

pub fn command() -> Command {
    Command::new("sync")
        .about("Reconcile all locations now, or only some: read configs, branches and AWS")
        .arg(Arg::new("name").value_name("NAME").num_args(0..).help("Reconcile only these locations"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    let names: Vec<&String> = matches.get_many("name").map(Iterator::collect).unwrap_or_default();
    if names.is_empty() {
        client.send_json(Method::POST, "/v1/sync", None).await?;
        say!("reconciling all locations");
    }
    for name in names {
        client.send_json(Method::POST, &format!("/v1/locations/{name}/sync"), None).await?;
        say!("reconciling {name}");
    }
    Ok(ExitCode::SUCCESS)
}
