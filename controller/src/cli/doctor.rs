//! `codeloc doctor`: checks everything that a deployment depends on.

use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Failure;
use super::prepare::prepare;
use super::terminal::{Piece, print_json, print_pieces, say};
use crate::daemon::wiring;
use crate::doctor::{Verdict, examine};
use crate::settings;

pub fn command() -> Command {
    Command::new("doctor")
        .about("Check credentials, permissions, cluster, bucket, roles, git, Dagster and more, and suggest fixes")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the findings as JSON"))
        .args(settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = settings::load(matches)?;
    let config = wiring::aws(&settings).await;
    let prepared = prepare(&settings).map(drop);
    let findings = examine(&settings, prepared, &config, wiring::git(&settings), wiring::source(&settings)).await;
    if matches.get_flag("json") {
        print_json(&findings)?;
    } else {
        for finding in &findings {
            let (sign, colour, found, fix) = match &finding.verdict {
                Verdict::Good { found } => ("ok", AnsiColor::Green, found, None),
                Verdict::Unknown { found, fix } => ("..", AnsiColor::Yellow, found, Some(fix)),
                Verdict::Bad { found, fix } => ("NO", AnsiColor::Red, found, Some(fix)),
            };
            let found = format!("{:<15} {found}", finding.check);
            print_pieces(&[Piece::new(sign, colour.on_default()), Piece::new(&found, Style::new())]);
            if let Some(fix) = fix {
                say!("                   fix: {fix}");
            }
        }
    }
    let bad = findings.iter().any(|finding| matches!(finding.verdict, Verdict::Bad { .. }));
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
