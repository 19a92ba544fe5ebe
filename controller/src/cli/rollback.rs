//! `codeloc rollback`: goes back to an earlier commit and stays there.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::terminal::{print_json, say};
use super::write::{Edit, write};
use super::{Failure, client};
use crate::config_source::write::Change;
use crate::settings;

pub fn command() -> Command {
    Command::new("rollback")
        .about("Goes back to an earlier commit and stays there: puts `commit:` in place of `branch:`")
        .arg(Arg::new("name").value_name("NAME").required(true).help("The location"))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("COMMIT")
                .help("All 40 digits [default: the last commit before the present one that served]"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints what was written as JSON"))
        .args(client::arguments())
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").cloned().ok_or("no name given")?;
    if let Some(commit) = matches.get_one::<String>("to") {
        let fields: Map<String, Value> = [("branch", Value::Null), ("tag", Value::Null), ("commit", json!(commit))]
            .map(|(field, value)| (field.to_owned(), value))
            .into_iter()
            .collect();
        let message = format!("Rolls code location {name} back to {commit}");
        return write(matches, Edit { name, change: Change::Set(fields), message }).await;
    }
    // The daemon knows from AWS which commit served.
    let client = Client::new(matches)?;
    let written = client.send_json(Method::POST, &format!("/v1/locations/{name}/rollback"), None).await?;
    if matches.get_flag("json") {
        print_json(&written)?;
    } else {
        let config = written["config"].as_str().unwrap_or_default();
        let commit = config.lines().find_map(|line| line.strip_prefix("commit: ")).unwrap_or("an earlier commit");
        say!(
            "{name}: stays at {} now; `codeloc update {name} --set commit= --set branch=BRANCH` follows a branch again",
            commit.trim_matches('"')
        );
    }
    Ok(ExitCode::SUCCESS)
}
