//! `codeloc apply`: one convergence, then exit.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use codeloc_aws::lease::{Lease, LeaseState};
use codeloc_core::status::{Health, LocationStatus, Reason, Sync};
use tokio::signal::unix::{SignalKind, signal};

use super::terminal::{complain, say};
use super::{Failure, log, settings};
use crate::config_source;
use crate::daemon::wiring;
use crate::reconcile::Outcome;
use crate::settings as all_settings;
use crate::status::Recorder;
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
    let git = wiring::git(&settings);
    // A single reading that fails ends the command; a watcher would go on trying.
    config_source::read_once(wiring::source(&settings), git.clone()).await?;
    let source = config_source::watch(wiring::source(&settings), git);
    let (daemon, moved) = wiring::daemon(settings, source.state.clone()).await?;
    daemon.publisher.create().await?;
    let (lease, recorder) = (&daemon.context.observer.aws.lease, &daemon.context.status.recorder);
    let statuses = &daemon.context.status.statuses;

    // Done when every location has converged, or waits for nothing that time would bring.
    let stuck = [Reason::RolloutFailed, Reason::BuildFailed, Reason::LoadError, Reason::Unresolved, Reason::NotOwned];
    let is_stuck = |name: &str| {
        let one_of =
            |status: &LocationStatus| status.conditions.iter().any(|dated| stuck.contains(&dated.condition.reason));
        statuses.read(name, one_of).unwrap_or(false)
    };
    let done = daemon.progress.until(|outcomes| {
        outcomes.iter().all(|(name, outcome)| match outcome {
            Outcome::Converged | Outcome::Gone | Outcome::Held => true,
            // A pass follows when this process gets the lease.
            Outcome::Unleased => false,
            Outcome::Waiting(_) | Outcome::Failed(_) | Outcome::AwaitingSweep => is_stuck(name),
        })
    });
    // Each end waits until what has begun to change is changed: only then may another process begin.
    let in_time = async {
        let result = tokio::time::timeout(timeout, done).await;
        let why = result.err().map(|_| {
            let why = never_began(daemon.progress.swept(), recorder, &lease.state());
            format!(
                "not converged within {} s{}",
                timeout.as_secs(),
                why.map_or_else(String::new, |why| format!(": {why}"))
            )
        });
        // Taken before passes are cut off, so that the statuses do not show that.
        let statuses = statuses.all();
        lease.fence().shut().await;
        (why, statuses)
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        lease.fence().shut().await;
    };
    let (mut unfinished, statuses) = tokio::select! {
        () = daemon.run(moved) => (Some("the reconciler ended by itself; see the log".to_owned()), statuses.all()),
        () = say_who_holds(lease) => (None, statuses.all()),
        () = told_to_end => {
            (Some("ended by a signal before all was done; the next run goes on from here".to_owned()), statuses.all())
        }
        ended = in_time => ended,
    };
    // Nothing runs any more that could change anything.
    lease.release().await;
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

fn settled(status: &LocationStatus) -> bool {
    status.sync == Sync::Synced && status.health == Health::Healthy
}

/// Prints what the command waits for, each time that it changes. Never ends.
async fn say_who_holds(lease: &Lease) {
    let mut lease_state = lease.watch();
    loop {
        match &*lease_state.borrow_and_update() {
            LeaseState::Standby { holder } => complain!("waiting for the lease: {holder} holds it"),
            LeaseState::Unreadable(why) => complain!("waiting for the lease: {why}"),
            LeaseState::Held | LeaseState::Unknown => {}
        }
        if lease_state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why nothing could be changed.
fn never_began(swept: bool, recorder: &Recorder, lease_state: &LeaseState) -> Option<String> {
    if !swept {
        let last = recorder.events.list(|event| event.reason == EventReason::SweepFailed).pop();
        let why = last.map_or_else(|| "no answer came".to_owned(), |event| event.message);
        return Some(format!("AWS was never read whole: {why}"));
    }
    match lease_state {
        LeaseState::Standby { holder } => Some(format!("{holder} holds the lease")),
        LeaseState::Unreadable(why) => Some(format!("the lease cannot be read: {why}")),
        LeaseState::Held | LeaseState::Unknown => None,
    }
}
