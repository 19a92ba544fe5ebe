//! `codeloc completions` and `codeloc man`: files for shells and for `man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;

use super::{Failure, terminal};

pub fn commands() -> [Command; 2] {
    [
        Command::new("completions").about("Print the completion script for a shell").arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(clap::value_parser!(Shell))
                .help("Print the script for this shell: bash, elvish, fish, powershell or zsh"),
        ),
        Command::new("man").about("Write a man page for each command into a folder").arg(
            Arg::new("folder")
                .value_name("FOLDER")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Write into this existing folder, such as /usr/local/share/man/man1"),
        ),
    ]
}

pub fn completions(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let shell = *matches.get_one::<Shell>("shell").ok_or("no shell given")?;
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "codeloc", &mut text);
    // Not escaped: a shell runs the script.
    terminal::write(&String::from_utf8(text)?);
    Ok(ExitCode::SUCCESS)
}

pub fn man(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let folder = matches.get_one::<PathBuf>("folder").ok_or("no folder given")?;
    clap_mangen::generate_to(super::command(), folder).map_err(|error| {
        format!("cannot write man pages into {}: {error}; name an existing folder that you can write", folder.display())
    })?;
    Ok(ExitCode::SUCCESS)
}
