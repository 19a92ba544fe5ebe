//! `codeloc suspend` and `codeloc resume`: the field `mode` of a config.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::write::{Edit, write};
use super::{Failure, client};
use crate::config_source::write::Change;
use crate::settings;

pub fn commands() -> [Command; 2] {
    let command = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(Arg::new("name").value_name("NAME").required(true).help("Change the mode of this location"))
            .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
            .args(client::arguments_for_writes())
            .args(settings::arguments())
    };
    [
        command("suspend", "Suspend a location: set its `mode` to `suspended` and store the previous mode"),
        command("resume", "Resume a suspended location: restore its previous `mode`"),
    ]
}

pub async fn run(matches: &ArgMatches, suspend: bool) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").cloned().ok_or("no name given")?;
    let (change, verb) = if suspend { (Change::Suspend, "Suspend") } else { (Change::Resume, "Resume") };
    let message = format!("{verb} location {name}");
    write(matches, Edit { name, change, message }).await
}
