//! `codeloc rollback`: rolls a location back to an earlier commit.

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
        .about("Roll a location back to an earlier commit: replace `branch` in its config with `commit`")
        .arg(Arg::new("name").value_name("NAME").required(true).help("Roll back this location"))
        .arg(
            Arg::new("to").long("to").value_name("COMMIT").help(
                "Roll back to this commit, all 40 digits [default: the commit that served before the current one]",
            ),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"))
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
        let message = format!("Roll location {name} back to {commit}");
        return write(matches, Edit { name, change: Change::Set(fields), message }).await;
    }
    // The daemon reads from AWS which commit served.
    let client = Client::new(matches)?;
    let written = client.send_json(Method::POST, &format!("/v1/locations/{name}/rollback"), None).await?;
    if matches.get_flag("json") {
        print_json(&written)?;
    } else {
        let config = written["config"].as_str().unwrap_or_default();
        let commit = config.lines().find_map(|line| line.strip_prefix("commit: ")).unwrap_or("an earlier commit");
        say!(
            "{name}: rolling back to {}; to follow a branch again, run `codeloc update {name} --set commit= --set \
             branch=BRANCH`",
            commit.trim_matches('"')
        );
    }
    Ok(ExitCode::SUCCESS)
}
