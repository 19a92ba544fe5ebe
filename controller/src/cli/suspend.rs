//! `codeloc suspend` and `codeloc resume`: the field `mode` of a config.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::write::{Edit, write};
use super::{Failure, client};
use crate::settings;
use crate::source::write::Change;

pub fn commands() -> [Command; 2] {
    let command = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(Arg::new("name").value_name("NAME").required(true).help("The location"))
            .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints what was written as JSON"))
            .args(client::arguments())
            .args(settings::arguments())
    };
    [
        command("suspend", "Leaves a location alone from now on: sets its `mode` to `suspended`"),
        command("resume", "Takes care of a location again: takes its `mode` away"),
    ]
}

pub async fn run(matches: &ArgMatches, suspend: bool) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").cloned().ok_or("no name given")?;
    let (mode, verb) = if suspend { (json!("suspended"), "Suspends") } else { (Value::Null, "Resumes") };
    let fields = Map::from_iter([("mode".to_owned(), mode)]);
    let message = format!("{verb} code location {name}");
    write(matches, Edit { name, change: Change::Set(fields), message }).await
}
