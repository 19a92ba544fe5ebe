//! `codeloc doctor`: looks at everything that a deployment stands on, before it hurts.

use std::process::ExitCode;

use anstream::println;
use anstyle::AnsiColor;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::prepare::prepare;
use super::{Failure, assemble};
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
    let config = assemble::aws(&settings).await;
    let prepared = prepare(&settings).map(drop);
    let findings = examine(&settings, prepared, &config, assemble::git(&settings), assemble::source(&settings)).await;
    if matches.get_flag("json") {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let (sign, colour, found, mend) = match &finding.verdict {
                Verdict::Good { found } => ("ok", AnsiColor::Green, found, None),
                Verdict::Unknown { found, mend } => ("..", AnsiColor::Yellow, found, Some(mend)),
                Verdict::Bad { found, mend } => ("NO", AnsiColor::Red, found, Some(mend)),
            };
            let style = colour.on_default();
            println!("{style}{sign}{style:#} {:<15} {found}", finding.check);
            if let Some(mend) = mend {
                println!("                   mend: {mend}");
            }
        }
    }
    let bad = findings.iter().any(|finding| matches!(finding.verdict, Verdict::Bad { .. }));
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
