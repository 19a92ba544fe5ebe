//! `codeloc update`: changes fields of a config.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::write::{Edit, assignments, write};
use super::{Failure, client};
use crate::config_source::write::Change;
use crate::settings;

pub fn command() -> Command {
    Command::new("update")
        .about("Change fields of a location's config and keep the rest, including comments")
        .arg(Arg::new("name").value_name("NAME").required(true).help("Change the config of this location"))
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("FIELD=VALUE")
                .required(true)
                .action(ArgAction::Append)
                .help("Set a field, for example --set branch=next --set resources.cpu=512; put quotes around a key with dots: --set 'tags.\"a.b\"=c'; FIELD= removes the field"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
        .args(client::arguments_for_writes())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").cloned().ok_or("no name given")?;
    let fields = assignments(matches)?;
    let named: Vec<&str> = fields.keys().map(String::as_str).collect();
    let message = format!("Change {} of location {name}", named.join(", "));
    write(matches, Edit { name, change: Change::Set(fields), message }).await
}
