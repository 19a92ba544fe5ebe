//! `codeloc retry`: looks for the image of a location again.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use reqwest::Method;

use super::client::Client;
use super::terminal::say;
use super::{Failure, client};
use crate::settings;

pub fn command() -> Command {
    Command::new("retry")
        .about("Look for the image of a location again, and build it if the registry does not have it")
        .arg(Arg::new("name").value_name("NAME").num_args(1..).required(true).help("Retry these locations"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let client = Client::new(matches)?;
    for name in matches.get_many::<String>("name").into_iter().flatten() {
        client.send_json(Method::POST, &format!("/v1/locations/{name}/retry"), None).await?;
        say!("looking for the image of {name}; codeloc builds it if the registry does not have it");
    }
    Ok(ExitCode::SUCCESS)
}
