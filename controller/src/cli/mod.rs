//! The command line: one file for each command. Exit codes: 0 success (`plan`: no changes), 1 error, 2 wrong usage (`plan`: there are
//! changes), 141 the reader of the output closed the pipe. All output goes through [`terminal`].

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod abandon_runs;
mod add;
mod apply;
mod build;
mod client;
mod completions;
mod cost;
mod doctor;
mod events;
mod list;
mod log;
mod logs;
mod names;
mod out;
mod plan;
mod prepare;
mod remove;
mod retry;
mod rollback;
mod run;
mod schema;
mod status;
mod suspend;
mod sync;
mod terminal;
mod update;
mod validate;
mod wait;
mod write;

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::settings;

/// An error that ends a command: a message on standard error, and exit code 1.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub fn command() -> Command {
    Command::new("codeloc")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Turn a git folder of configs into running, isolated Dagster code locations on AWS ECS")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(validate::command())
        .subcommand(status::command())
        .subcommand(list::command())
        .subcommand(logs::command())
        .subcommand(events::command())
        .subcommand(cost::command())
        .subcommand(sync::command())
        .subcommand(retry::command())
        .subcommand(schema::command())
        .subcommands(completions::commands())
        .subcommand(run::command())
        .subcommand(apply::command())
        .subcommand(plan::command())
        .subcommand(add::command())
        .subcommand(build::command())
        .subcommand(update::command())
        .subcommand(remove::command())
        .subcommand(abandon_runs::command())
        .subcommands(suspend::commands())
        .subcommand(rollback::command())
        .subcommand(doctor::command())
}

/// Runs the command in the arguments.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let result = match matches.subcommand() {
        Some(("validate", matches)) => validate::run(matches),
        Some(("status", matches)) => block_on(status::run(matches)),
        Some(("list", matches)) => block_on(list::run(matches)),
        Some(("logs", matches)) => block_on(logs::run(matches)),
        Some(("events", matches)) => block_on(events::run(matches)),
        Some(("cost", matches)) => block_on(cost::run(matches)),
        Some(("sync", matches)) => block_on(sync::run(matches)),
        Some(("retry", matches)) => block_on(retry::run(matches)),
        Some(("schema", _)) => schema::run(),
        Some(("completions", matches)) => completions::completions(matches),
        Some(("man", matches)) => completions::man(matches),
        Some(("add", matches)) => block_on(add::run(matches)),
        Some(("build", matches)) => block_on(build::run(matches)),
        Some(("update", matches)) => block_on(update::run(matches)),
        Some(("remove", matches)) => block_on(remove::run(matches)),
        Some(("abandon-runs", matches)) => block_on(abandon_runs::run(matches)),
        Some(("suspend", matches)) => block_on(suspend::run(matches, true)),
        Some(("resume", matches)) => block_on(suspend::run(matches, false)),
        Some(("doctor", matches)) => block_on(doctor::run(matches)),
        Some(("rollback", matches)) => block_on(rollback::run(matches)),
        Some(("run", matches)) => block_on(run::run(matches)),
        Some(("apply", matches)) => block_on(apply::run(matches)),
        Some(("plan", matches)) => block_on(plan::run(matches)),
        _ => Err("no such command".into()),
    };
    result.unwrap_or_else(|error| {
        terminal::warn(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

fn block_on(future: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // Cuts off builds and watchers, like a crash: the next start continues.
    runtime.shutdown_background();
    result
}

/// Loads and checks the settings of one invocation.
fn settings(matches: &ArgMatches) -> Result<settings::Settings, Failure> {
    let settings = settings::load(matches)?;
    settings.check()?;
    Ok(settings)
}
