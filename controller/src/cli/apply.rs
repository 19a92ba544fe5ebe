//! `codeloc apply`: one convergence, then exit.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use codeloc_aws::lease::{Lease, Standing};
use codeloc_core::status::{Health, Reason, RepositoryStatus, Sync};
use tokio::signal::unix::{SignalKind, signal};

use super::terminal::{complain, say};
use super::{Failure, assemble, log, settings};
use crate::config_source;
use crate::reconcile::{Daemon, Outcome};
use crate::settings as all_settings;
use crate::status::Journal;
use crate::status::events::EventReason;

pub fn command() -> Command {
    Command::new("apply")
        .about("Converges once: exit 0 when every location is Synced and Healthy, 1 otherwise")
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("1800")
                .value_parser(clap::value_parser!(u64))
                .help("How long to wait for rollouts, and for the lease where another process holds it"),
        )
        .args(all_settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = settings(matches)?;
    log::start();
    let timeout = Duration::from_secs(*matches.get_one::<u64>("timeout").unwrap_or(&1800));
    let git = assemble::git(&settings);
    // A single reading that fails ends the command; a watcher would go on trying.
    config_source::read_once(assemble::source(&settings), git.clone()).await?;
    let source = config_source::watch(assemble::source(&settings), git);
    let (reconciler, moved) = assemble::reconciler(settings).await?;
    reconciler.world.workspace.create().await?;
    let daemon = Daemon::new(reconciler, source.state.clone());
    let world = &daemon.reconciler.world;
    let board = &world.board;

    // Done when every location has converged, or waits for nothing that time would bring.
    let stuck = [Reason::RolloutFailed, Reason::BuildFailed, Reason::LoadError, Reason::Unresolved, Reason::NotOurs];
    let is_stuck = |name: &str| {
        let one_of =
            |status: &RepositoryStatus| status.conditions.iter().any(|dated| stuck.contains(&dated.condition.reason));
        board.read(name, one_of).unwrap_or(false)
    };
    let done = daemon.progress.until(|outcomes| {
        outcomes.iter().all(|(name, outcome)| match outcome {
            Outcome::Converged | Outcome::Gone | Outcome::Held => true,
            // A pass follows when this process gets the lease.
            Outcome::Unleased => false,
            Outcome::Waiting(_) | Outcome::Failed(_) | Outcome::Unseen => is_stuck(name),
        })
    });
    // Each end waits until what has begun to change is changed: only then may another process begin.
    let in_time = async {
        let result = tokio::time::timeout(timeout, done).await;
        let why = result.err().map(|_| {
            let why = never_began(daemon.progress.swept(), &world.journal, &world.lease.standing());
            format!(
                "not converged within {} s{}",
                timeout.as_secs(),
                why.map_or_else(String::new, |why| format!(": {why}"))
            )
        });
        // Taken before passes are cut off, so that the statuses do not show that.
        let statuses = board.all();
        world.lease.fence().shut().await;
        (why, statuses)
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        world.lease.fence().shut().await;
    };
    let (mut unfinished, statuses) = tokio::select! {
        () = daemon.run(moved) => (Some("the reconciler ended by itself; see the log".to_owned()), board.all()),
        () = say_who_holds(&world.lease) => (None, board.all()),
        () = told_to_end => {
            (Some("ended by a signal before all was done; the next run goes on from here".to_owned()), board.all())
        }
        ended = in_time => ended,
    };
    // Nothing runs any more that could change anything.
    world.lease.release().await;
    for status in statuses {
        if unfinished.is_none() && !settled(&status) {
            unfinished = Some("not every location is Synced and Healthy".to_owned());
        }
        say!("{}: {}, {}: {}", status.name, status.sync, status.health, status.message);
    }
    match unfinished {
        Some(why) => Err(why.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn settled(status: &RepositoryStatus) -> bool {
    status.sync == Sync::Synced && status.health == Health::Healthy
}

/// Prints what the command waits for, each time that it changes. Never ends.
async fn say_who_holds(lease: &Lease) {
    let mut standing = lease.watch();
    loop {
        match &*standing.borrow_and_update() {
            Standing::Standby { holder } => complain!("waiting for the lease: {holder} holds it"),
            Standing::Unreadable(why) => complain!("waiting for the lease: {why}"),
            Standing::Held | Standing::Unknown => {}
        }
        if standing.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why nothing could be changed.
fn never_began(swept: bool, journal: &Journal, standing: &Standing) -> Option<String> {
    if !swept {
        let last = journal.events.list(|event| event.reason == EventReason::SweepFailed).pop();
        let why = last.map_or_else(|| "no answer came".to_owned(), |event| event.message);
        return Some(format!("AWS was never read whole: {why}"));
    }
    match standing {
        Standing::Standby { holder } => Some(format!("{holder} holds the lease")),
        Standing::Unreadable(why) => Some(format!("the lease cannot be read: {why}")),
        Standing::Held | Standing::Unknown => None,
    }
}
