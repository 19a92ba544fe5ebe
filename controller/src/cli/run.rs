//! `codeloc run`: the daemon.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Failure, assemble, log, settings};
use crate::api;
use crate::reconcile::{Daemon, Progress};
use crate::settings as all_settings;
use crate::source::{self, SourceState};
use crate::status::RepositoryStatus;

pub fn command() -> Command {
    Command::new("run")
        .about("Runs the daemon: reads configs, converges, watches, serves the API")
        .args(all_settings::arguments())
}

/// What the API shows of this process.
struct Shown {
    reconciler: Arc<assemble::Real>,
    progress: Arc<Progress>,
    source: watch::Receiver<SourceState>,
}

impl api::Statuses for Shown {
    fn all(&self) -> Vec<RepositoryStatus> {
        self.reconciler.world.board.all()
    }

    fn not_ready(&self) -> Option<String> {
        let source = self.source.borrow();
        if let Some(failure) = &source.failure {
            return Some(failure.message.clone());
        }
        (!self.progress.swept()).then(|| "live state has not been read yet".to_owned())
    }
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = settings(matches)?;
    log::start();
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("cannot listen on {} ({error}); --listen takes another address", settings.listen))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "codeloc listens");

    let source_settings = assemble::source(&settings);
    let source = source::watch(source_settings, assemble::git(&settings));
    let (reconciler, moved) = assemble::reconciler(settings).await?;
    reconciler.world.workspace.create().await?;
    let daemon = Daemon::new(reconciler, source.state.clone());
    let shown = Shown {
        reconciler: daemon.reconciler.clone(),
        progress: daemon.progress.clone(),
        source: source.state.clone(),
    };
    let api = axum::serve(listener, api::router(Arc::new(shown)));

    let lease = daemon.reconciler.world.lease.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The daemon runs on until what it has begun to change is changed: only then may another one begin.
    let told_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        lease.fence().shut().await;
    };
    let ended = tokio::select! {
        () = daemon.run(moved) => Err("the daemon ended by itself; see the log".into()),
        result = async { api.await } => Err(format!("the API ended: {result:?}").into()),
        () = told_to_end => Ok(ExitCode::SUCCESS),
    };
    // Nothing runs any more that could change anything.
    lease.release().await;
    ended
}
