//! `codeloc apply`: reconciles all locations once, then exits.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use codeloc_aws::lease::{Lease, LeaseState};
use codeloc_crds::LocationName;

use super::terminal::{complain, say};
use super::{Failure, log, settings};
use crate::config_source;
use crate::daemon::wiring;
use crate::reconcile::Outcome;
use crate::runtime::shut_on_signal;
use crate::settings as all_settings;
use crate::status::events::EventReason;
use crate::status::{Recorder, is_settled, is_stuck};

/// The error of `apply` and of `status --wait` if waiting longer does not help.
pub const NOT_SETTLED: &str = "not every location is Synced and Healthy";

pub fn command() -> Command {
    Command::new("apply")
        .about("Reconcile all locations once, then exit; exit 0 if all of them are Synced and Healthy")
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("1800")
                .value_parser(clap::value_parser!(u64))
                .help("Wait at most this long for rollouts, and for the lease if another process holds it"),
        )
        .args(all_settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = settings(matches)?;
    log::start();
    let timeout = Duration::from_secs(*matches.get_one::<u64>("timeout").unwrap_or(&1800));
    let git = wiring::git(&settings);
    // A failed reading ends the command here; a watcher would retry.
    config_source::read_once(wiring::source(&settings), git.clone()).await?;
    let source = config_source::watch(wiring::source(&settings), git);
    let (daemon, moved) = wiring::daemon(settings, source.state.clone()).await?;
    daemon.publisher.create().await?;
    let (lease, recorder) = (&daemon.context.observer.aws.lease, &daemon.context.status.recorder);
    let statuses = &daemon.context.status.statuses;

    // Done when every location has converged or is stuck.
    let is_stuck = |name: &LocationName| statuses.read(name, is_stuck).unwrap_or(false);
    let done = daemon.progress.until(|outcomes| {
        outcomes.iter().all(|(name, outcome)| match outcome {
            Outcome::Converged | Outcome::Gone | Outcome::Held => true,
            // codeloc reconciles it when this process acquires the lease.
            Outcome::Unleased => false,
            Outcome::Waiting(_) | Outcome::Failed(_) | Outcome::AwaitingSweep => is_stuck(name),
        })
    });
    // Each end waits for the changes in flight: only then may another process start.
    let in_time = async {
        let result = tokio::time::timeout(timeout, done).await;
        let why = result.err().map(|_| {
            let why = obstacle(daemon.progress.swept(), recorder, &lease.state());
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            format!("not every location was Synced and Healthy within {} s{why}", timeout.as_secs())
        });
        // Read before the fence cuts off reconciles, which would show in the statuses.
        let statuses = statuses.all();
        lease.fence().shut().await;
        (why, statuses)
    };
    let stopped = shut_on_signal(lease.fence())?;
    let (mut unfinished, statuses) = tokio::select! {
        () = daemon.run(moved) => (Some("the reconciler stopped unexpectedly; see the log".to_owned()), statuses.all()),
        () = report_lease_holder(lease) => (None, statuses.all()),
        () = stopped => {
            let why = "stopped by a signal before all locations were reconciled; run `codeloc apply` again";
            (Some(why.to_owned()), statuses.all())
        }
        ended = in_time => ended,
    };
    // No task that changes AWS is running now.
    lease.release().await;
    for status in statuses {
        if unfinished.is_none() && !is_settled(&status) {
            unfinished = Some(NOT_SETTLED.to_owned());
        }
        say!("{}: {}, {}: {}", status.name, status.sync, status.health, status.message);
    }
    match unfinished {
        Some(why) => Err(why.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Prints what the command waits for, each time it changes. Never ends.
async fn report_lease_holder(lease: &Lease) {
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

/// Why codeloc could not change anything.
fn obstacle(swept: bool, recorder: &Recorder, lease_state: &LeaseState) -> Option<String> {
    if !swept {
        let last = recorder.events.list(|event| event.reason == EventReason::SweepFailed).pop();
        let why = last.map_or_else(|| "AWS did not answer".to_owned(), |event| event.message);
        return Some(format!("no sweep could read all of AWS: {why}"));
    }
    match lease_state {
        LeaseState::Standby { holder } => {
            Some(format!("{holder} holds the lease; stop that process, or raise --timeout"))
        }
        LeaseState::Unreadable(why) => Some(format!("this process does not hold the lease: {why}")),
        LeaseState::Held | LeaseState::Unknown => None,
    }
}
