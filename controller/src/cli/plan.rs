//! `codeloc plan`: what would be done, against live AWS. Reads only.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::terminal::{complain, print_json, say};
use super::{Failure, assemble, settings};
use crate::plan::{Plan, render};
use crate::settings as all_settings;
use crate::source::{self, HeadKey};

/// There are changes.
const CHANGES: u8 = 2;

pub fn command() -> Command {
    Command::new("plan")
        .about("Prints each step with its fields and reason: exit 0 no change, 2 changes, 1 error")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints the plan as JSON"))
        .args(all_settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = settings(matches)?;
    let snapshot = source::read_once(assemble::source(&settings), assemble::git(&settings)).await?;
    let invalid: Vec<String> = snapshot
        .repositories
        .values()
        .filter_map(|one| one.as_ref().err())
        .chain(&snapshot.strays)
        .map(|one| one.rendered.clone())
        .collect();
    let (reconciler, _moved) = assemble::reconciler(settings).await?;
    let wanted = snapshot.repositories.values().flatten().filter(|repository| repository.image.is_none());
    reconciler.world.heads.want(
        wanted
            .map(|repository| HeadKey { git_url: repository.git_url.clone(), reference: repository.reference.clone() }),
    );
    reconciler.world.heads.settled().await;
    reconciler.set_snapshot(Arc::new(snapshot));

    let mut plans: Vec<(String, Plan)> = Vec::new();
    for name in reconciler.sweep(std::iter::empty()).await? {
        let plan = reconciler.preview(&name).await?;
        plans.push((name, plan));
    }
    if matches.get_flag("json") {
        print_json(&render::json(&plans))?;
    } else {
        say!("{}", render::text(&plans).trim_end());
    }
    if !invalid.is_empty() {
        for rendered in &invalid {
            complain!("{}\n", rendered.trim_end());
        }
        return Err(format!("{} config(s) do not pass; their locations stay as they are", invalid.len()).into());
    }
    Ok(if plans.iter().all(|(_, plan)| plan.is_empty()) { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}
