//! `codeloc validate FOLDER`: checks all configs, offline.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::Failure;
use super::terminal::{complain, say};
use crate::config_source::read_folder;

pub fn command() -> Command {
    Command::new("validate").about("Check every NAME/config.yml in a folder, without a network").arg(
        Arg::new("folder")
            .value_name("FOLDER")
            .default_value("repos")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Check the configs in this folder"),
    )
}

pub fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let folder = matches.get_one::<PathBuf>("folder").ok_or("no folder given")?;
    let snapshot = read_folder(folder)?;
    let invalid: Vec<_> = snapshot.invalid().collect();
    for one in &invalid {
        complain!("{}\n", one.rendered.trim_end());
    }
    let valid = snapshot.locations.len() + snapshot.invalid_dirs.len() - invalid.len();
    if valid + invalid.len() == 0 {
        complain!("warning: {} contains no NAME/config.yml; check the folder", folder.display());
    }
    say!("{valid} valid, {} invalid", invalid.len());
    Ok(if invalid.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
