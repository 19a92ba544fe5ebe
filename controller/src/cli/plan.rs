//! `codeloc plan`: the changes that a daemon would make. A running daemon computes the plan; without one, this process does. It only
//! reads.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use codeloc_core::planner::render::{self, Document};
use codeloc_core::status::{LocationStatus, Reason};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::client::Client;
use super::terminal::{complain, print_json, say};
use super::{Failure, client, settings};
use crate::config_source::{self, SourceState};
use crate::daemon::wiring;
use crate::reconcile::key_of;
use crate::settings as all_settings;

/// Exit code if there are changes.
const CHANGES: u8 = 2;
/// Requests at the same time; the daemon allows 64.
const PARALLEL: usize = 8;

pub fn command() -> Command {
    Command::new("plan")
        .about(
            "Show the changes that codeloc would make, with fields and reasons; exit 0 no changes, 2 changes, 1 error",
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the plan as JSON"))
        .arg(
            Arg::new("local")
                .long("local")
                .action(ArgAction::SetTrue)
                .help("Compute the plan in this process, with its settings and credentials, even if a daemon runs"),
        )
        .args(client::arguments())
        .args(all_settings::arguments())
}

/// A plan to print, from the daemon or from this process.
struct Planned {
    plans: Vec<Document>,
    /// Errors of invalid configs, with file, line and hint.
    invalid: Vec<String>,
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let Planned { plans, invalid } = match daemon(matches).await? {
        Some(client) => from_daemon(&client).await?,
        None => Box::pin(compute(matches)).await?,
    };
    if matches.get_flag("json") {
        print_json(&plans)?;
    } else {
        say!("{}", render::text(&plans).trim_end());
    }
    if !invalid.is_empty() {
        for rendered in &invalid {
            complain!("{}\n", rendered.trim_end());
        }
        return Err(match invalid.len() {
            1 => "1 config is invalid; codeloc freezes its location until you fix it".into(),
            number => {
                format!("{number} configs are invalid; codeloc freezes their locations until you fix them").into()
            }
        });
    }
    Ok(if plans.iter().all(Document::is_empty) { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// The daemon at `--server`, or the one at `listen` if it has the same deployment id.
async fn daemon(matches: &ArgMatches) -> Result<Option<Client>, Failure> {
    if matches.get_flag("local") {
        return Ok(None);
    }
    let client = Client::new(matches)?;
    if matches.get_one::<String>("server").is_some() {
        return Ok(Some(client));
    }
    let answers = match client.is_of(&all_settings::load(matches)?.deployment).await {
        Ok(answers) => answers,
        Err(error) => {
            complain!("warning: {error}; computing the plan in this process; pass the token with --token-file");
            false
        }
    };
    if answers {
        complain!("the daemon at {} computed this plan; use --local to compute it in this process", client.server());
    }
    Ok(answers.then_some(client))
}

async fn from_daemon(client: &Client) -> Result<Planned, Failure> {
    if let Some(why) = client.unready().await {
        return Err(
            format!("the daemon cannot plan now: {why}; use --local to compute the plan in this process").into()
        );
    }
    let statuses: Vec<LocationStatus> = client.get("/v1/locations").await?;
    let conditions = statuses.iter().flat_map(|status| &status.conditions).map(|dated| &dated.condition);
    let invalid = conditions.filter(|condition| condition.reason == Reason::InvalidConfig);
    let invalid = invalid.map(|condition| condition.message.clone()).collect();
    // A config in a folder with an invalid name appears under its path and has no plan.
    let names = statuses.iter().map(|status| &status.name).filter(|name| !name.contains('/'));
    let paths: Vec<String> = names.map(|name| format!("/v1/locations/{name}/plan")).collect();
    let plans = futures::stream::iter(&paths).map(|path| client.get::<Document>(path)).buffered(PARALLEL);
    Ok(Planned { plans: plans.try_collect().await?, invalid })
}

async fn compute(matches: &ArgMatches) -> Result<Planned, Failure> {
    let settings = settings(matches)?;
    let snapshot = config_source::read_once(wiring::source(&settings), wiring::git(&settings)).await?;
    let invalid = snapshot.invalid().map(|one| one.rendered.clone()).collect();
    let (state, source) = watch::channel(SourceState::default());
    let (daemon, _moved) = wiring::daemon(settings, source).await?;
    drop(state);
    let context = &daemon.context;
    let built = snapshot.in_force().filter(|location| location.image.is_none());
    context.desired.refs.track(built.map(key_of));
    context.desired.refs.settled().await;
    context.desired.configs.set_snapshot(Arc::new(snapshot));

    let mut plans = Vec::new();
    for name in context.observer.sweep(context.desired.configs.names()).await? {
        let plan = context.preview(&name).await?;
        plans.push(Document::new(&name, &plan));
    }
    Ok(Planned { plans, invalid })
}
