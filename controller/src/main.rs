//! The `codeloc` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    codeloc::cli::run(&codeloc::cli::command().get_matches())
}
