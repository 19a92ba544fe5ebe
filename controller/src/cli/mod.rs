//! The command line: one file per command. Exit codes: 0 done (for `plan`: no change), 1 an error, 2 wrong usage (for
//! `plan`: there are changes).

#[cfg(feature = "aws")]
mod apply;
#[cfg(feature = "aws")]
mod assemble;
#[cfg(feature = "aws")]
mod log;
#[cfg(feature = "aws")]
mod plan;
#[cfg(feature = "aws")]
mod run;
mod schema;
mod status;
mod validate;

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::settings;

/// What ends a command: a sentence for people on standard error, and exit code 1.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub fn command() -> Command {
    let command = Command::new("codeloc")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Turns a git folder of configs into running, isolated Dagster code locations on AWS ECS, and keeps them so")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(validate::command())
        .subcommand(status::command())
        .subcommand(schema::command());
    #[cfg(feature = "aws")]
    let command = command.subcommand(run::command()).subcommand(apply::command()).subcommand(plan::command());
    command
}

/// Runs what the arguments say.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let result = match matches.subcommand() {
        Some(("validate", matches)) => validate::run(matches),
        Some(("status", matches)) => block_on(status::run(matches)),
        Some(("schema", _)) => schema::run(),
        #[cfg(feature = "aws")]
        Some(("run", matches)) => block_on(run::run(matches)),
        #[cfg(feature = "aws")]
        Some(("apply", matches)) => block_on(apply::run(matches)),
        #[cfg(feature = "aws")]
        Some(("plan", matches)) => block_on(plan::run(matches)),
        _ => Err("no such command".into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn block_on(future: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A build or a watcher under way is cut off, as by a crash: the next start goes on from there.
    runtime.shutdown_background();
    result
}

/// The settings of one invocation, checked.
#[cfg(feature = "aws")]
fn settings(matches: &ArgMatches) -> Result<settings::Settings, Failure> {
    let settings = settings::load(matches)?;
    settings.check()?;
    Ok(settings)
}

/// Where the daemon of these settings is reached, unless `--server` says otherwise.
fn server(matches: &ArgMatches) -> Result<String, Failure> {
    match matches.get_one::<String>("server") {
        Some(server) => Ok(server.trim_end_matches('/').to_owned()),
        None => Ok(format!("http://{}", settings::load(matches)?.listen)),
    }
}
