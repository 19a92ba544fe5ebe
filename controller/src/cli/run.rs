//! `codeloc run`: the daemon.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command};

use super::handle::Handle;
use super::prepare::{Prepared, prepare};
use super::{Failure, log, wiring};
use crate::api::{self, serve};
use crate::config_source;
use crate::config_source::write::Writer;
use crate::reconcile::Daemon;
use crate::runtime::shut_on_signal;
use crate::settings as all_settings;

pub fn command() -> Command {
    Command::new("run")
        .about("Run the daemon: reconcile all locations continuously and serve the API")
        .args(all_settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = all_settings::load(matches)?;
    let Prepared { access, secret, prices, notify } = prepare(&settings)?;
    log::start();
    let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(|error| {
        format!("cannot listen on {} ({error}); choose another address with --listen", settings.listen)
    })?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "listening");

    let source_settings = wiring::source(&settings);
    let writer = Writer::new(&source_settings, wiring::git(&settings), settings.build.work_folder.join("writing.git"));
    let source = config_source::watch(source_settings, wiring::git(&settings));
    let (reconciler, moved) = wiring::reconciler(settings).await?;
    reconciler.context.workspace.create().await?;
    let daemon = Daemon::new(reconciler, source.state.clone());
    let recorder = daemon.reconciler.context.recorder.clone();
    let handle =
        Handle { reconciler: daemon.reconciler.clone(), progress: daemon.progress.clone(), source, writer, prices };
    let api = serve::serve(listener, api::router(Arc::new(handle), access, secret));

    let lease = daemon.reconciler.context.lease.clone();
    // The daemon keeps running until its changes in flight are done: only then may another process start.
    let stopped = shut_on_signal(lease.fence())?;
    let notifications = async {
        match notify {
            Some(notify) => notify.run(recorder).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = daemon.run(moved) => Err("the daemon stopped unexpectedly; see the log".into()),
        () = api => Err("the API stopped unexpectedly; see the log".into()),
        () = notifications => Err("the notifications stopped unexpectedly; see the log".into()),
        () = stopped => Ok(ExitCode::SUCCESS),
    };
    // No task that changes AWS is running now.
    lease.release().await;
    ended
}
