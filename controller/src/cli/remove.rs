//! `codeloc remove`: takes a config away, and with it the location.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::write::{Edit, write};
use super::{Failure, client};
use crate::config_source::write::Change;
use crate::settings;

pub fn command() -> Command {
    Command::new("remove")
        .about("Removes a location's config; the daemon then removes the location. Its objects in S3 stay")
        .arg(Arg::new("name").value_name("NAME").required(true).help("The location"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints what was written as JSON"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").cloned().ok_or("no name given")?;
    let message = format!("Removes code location {name}");
    write(matches, Edit { name, change: Change::Remove, message }).await
}
