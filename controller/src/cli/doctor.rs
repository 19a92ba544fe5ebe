//! `codeloc doctor`: looks at everything that a deployment stands on, before it hurts.

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
        .about("Looks at credentials, permissions, cluster, bucket, roles, git, Dagster and more, and says how to mend what is wrong")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints the findings as JSON"))
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
            let (sign, colour, found, mend) = match &finding.verdict {
                Verdict::Good { found } => ("ok", AnsiColor::Green, found, None),
                Verdict::Unknown { found, mend } => ("..", AnsiColor::Yellow, found, Some(mend)),
                Verdict::Bad { found, mend } => ("NO", AnsiColor::Red, found, Some(mend)),
            };
            let found = format!("{:<15} {found}", finding.check);
            print_pieces(&[Piece::new(sign, colour.on_default()), Piece::new(&found, Style::new())]);
            if let Some(mend) = mend {
                say!("                   mend: {mend}");
            }
        }
    }
    let bad = findings.iter().any(|finding| matches!(finding.verdict, Verdict::Bad { .. }));
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
