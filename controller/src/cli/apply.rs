//! `codeloc apply`: one convergence, then exit.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};

use super::terminal::{complain, say};
use super::{Failure, assemble, log, settings};
use crate::reconcile::{Daemon, Outcome};
use crate::settings as all_settings;
use crate::source;
use crate::status::{Health, Reason, Sync};

pub fn command() -> Command {
    Command::new("apply")
        .about("Converges once: exit 0 when every location is Synced and Healthy, 1 otherwise")
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("1800")
                .value_parser(clap::value_parser!(u64))
                .help("How long to wait for rollouts"),
        )
        .args(all_settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = settings(matches)?;
    log::start();
    let timeout = Duration::from_secs(*matches.get_one::<u64>("timeout").unwrap_or(&1800));
    let git = assemble::git(&settings);
    // A single reading that fails ends the command; a watcher would go on trying.
    source::read_once(assemble::source(&settings), git.clone()).await?;
    let source = source::watch(assemble::source(&settings), git);
    let (reconciler, moved) = assemble::reconciler(settings).await?;
    reconciler.world.workspace.create().await?;
    let daemon = Daemon::new(reconciler, source.state.clone());
    let board = &daemon.reconciler.world.board;

    // Done when every location has converged, or waits for nothing that time would bring.
    let stuck = |name: &str| {
        let reasons =
            [Reason::RolloutFailed, Reason::BuildFailed, Reason::LoadError, Reason::Unresolved, Reason::NotOurs];
        board
            .get(name)
            .is_some_and(|status| status.conditions.iter().any(|dated| reasons.contains(&dated.condition.reason)))
    };
    let done = daemon.progress.until(|outcomes| {
        outcomes.iter().all(|(name, outcome)| match outcome {
            Outcome::Converged | Outcome::Gone | Outcome::Held => true,
            Outcome::Waiting(_) | Outcome::Failed(_) | Outcome::Unseen => stuck(name),
        })
    });
    tokio::select! {
        () = daemon.run(moved) => return Err("the reconciler ended by itself; see the log".into()),
        result = tokio::time::timeout(timeout, done) => {
            if result.is_err() {
                complain!("not converged within {} s", timeout.as_secs());
            }
        }
    }
    daemon.reconciler.world.lease.release().await;
    let mut good = true;
    for status in board.all() {
        let settled = status.sync == Sync::Synced && status.health == Health::Healthy;
        good &= settled;
        say!("{}: {}, {}: {}", status.name, status.sync, status.health, status.message);
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
