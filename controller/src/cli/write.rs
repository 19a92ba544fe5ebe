//! Writes configs: through the daemon at `--server`, or directly into the folder or repository in the settings.

use std::process::{Command, ExitCode};

use clap::ArgMatches;
use codeloc_crds::{LocationName, assignment};
use codeloc_git::commit::Author;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{Client, without_prefix};
use super::terminal::{print_json, say};
use crate::config_source::write::{Change, WriteError, Writer};
use crate::daemon::wiring;
use crate::settings::{self, Settings};

/// A change of one config, for the API or for git.
pub struct Edit {
    pub name: String,
    pub change: Change,
    /// The commit's message.
    pub message: String,
}

pub enum Destination {
    Daemon(Client),
    /// The folder or repository in the settings.
    Source(Box<Settings>),
}

/// The place to which a command writes. Refuses settings with which no daemon would read the config that the command writes.
pub fn destination(matches: &ArgMatches) -> Result<Destination, Failure> {
    if matches.get_one::<String>("server").is_some() {
        return Ok(Destination::Daemon(Client::new(matches)?));
    }
    let settings = settings::load(matches)?;
    if settings.source.path.is_none() && settings.source.git_url.is_none() {
        return Ok(Destination::Daemon(Client::new(matches)?));
    }
    settings.check_source()?;
    Ok(Destination::Source(Box::new(settings)))
}

/// Makes the change and prints the result.
pub async fn write(matches: &ArgMatches, edit: Edit) -> Result<ExitCode, Failure> {
    let written = match destination(matches)? {
        Destination::Daemon(client) => through_daemon(&client, &edit).await?,
        Destination::Source(settings) => into_source(&settings, &edit).await?,
    };
    if matches.get_flag("json") {
        print_json(&written)?;
        return Ok(ExitCode::SUCCESS);
    }
    match (written["changed"].as_bool(), written["commit"].as_str()) {
        (Some(false), _) => say!("{}: {}", edit.name, unchanged(&edit.change)),
        (_, Some(commit)) => say!("{}: committed {commit}: {}", edit.name, edit.message),
        (_, None) => say!("{}: saved in the config folder: {}", edit.name, edit.message),
    }
    Ok(ExitCode::SUCCESS)
}

/// Message for a change without effect.
fn unchanged(change: &Change) -> &'static str {
    match change {
        Change::Suspend => "already suspended; nothing to change",
        Change::Resume => "not suspended; nothing to change",
        _ => "nothing to change",
    }
}

async fn through_daemon(client: &Client, edit: &Edit) -> Result<Value, Failure> {
    let path = format!("/v1/locations/{}", edit.name);
    match &edit.change {
        Change::AddText(text) => client.send_yaml("/v1/locations", text.clone()).await,
        Change::Add(fields) => client.send_json(Method::POST, "/v1/locations", Some(&json!(fields))).await,
        Change::Set(fields) => client.send_json(Method::PATCH, &path, Some(&json!(fields))).await,
        Change::Suspend => client.send_json(Method::POST, &format!("{path}/suspend"), None).await,
        Change::Resume => client.send_json(Method::POST, &format!("{path}/resume"), None).await,
        Change::Remove => client.send_json(Method::DELETE, &path, None).await,
    }
}

async fn into_source(settings: &Settings, edit: &Edit) -> Result<Value, Failure> {
    let work = tempfile::tempdir()?;
    let writer = Writer::new(&wiring::source(settings), wiring::git(settings), work.path().join("writing.git"));
    let shown = |error: WriteError| match error {
        WriteError::Invalid(error) => without_prefix(&error.render(false)),
        other => other.to_string(),
    };
    let name = LocationName::new(&edit.name).map_err(|error| shown(error.into()))?;
    let written = writer.write(&name, &edit.change, &edit.message, &identity()).await.map_err(shown)?;
    Ok(json!({"commit": written.commit, "changed": written.changed, "config": written.text}))
}

/// The user in the configuration of git.
fn identity() -> Author {
    let ask = |key: &str| {
        let output = Command::new("git").args(["config", "--get", key]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
    };
    Author {
        name: ask("user.name").unwrap_or_else(|| "codeloc".to_owned()),
        email: ask("user.email").unwrap_or_else(|| "codeloc@codeloc.invalid".to_owned()),
    }
}

/// The fields that all `--set` flags set.
pub fn assignments(matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let given = matches.get_many::<String>("set").into_iter().flatten();
    Ok(assignment::fields(given.map(String::as_str)).map_err(|error| format!("--set {error}"))?)
}
