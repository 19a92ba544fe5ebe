//! `codeloc schema`: the JSON Schema of `config.yml`, for editors.

use std::process::ExitCode;

use clap::Command;

use super::{Failure, terminal};

pub fn command() -> Command {
    Command::new("schema").about("Print the JSON Schema of config.yml")
}

pub fn run() -> Result<ExitCode, Failure> {
    terminal::print_json(&codeloc_crds::schema())?;
    Ok(ExitCode::SUCCESS)
}
