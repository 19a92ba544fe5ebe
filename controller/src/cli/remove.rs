//! `codeloc remove`: removes a config, and with it the location.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::write::{Edit, write};
use super::{Failure, client};
use crate::config_source::write::Change;
use crate::settings;

pub fn command() -> Command {
    Command::new("remove")
        .about("Remove the config of a location; the daemon then deletes the location, but not its objects in S3")
        .arg(Arg::new("name").value_name("NAME").required(true).help("Remove the config of this location"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
        .args(client::arguments_for_writes())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").cloned().ok_or("no name given")?;
    let message = format!("Remove location {name}");
    write(matches, Edit { name, change: Change::Remove, message }).await
}
