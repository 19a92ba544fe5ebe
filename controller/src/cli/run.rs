//! `codeloc run`: the daemon.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::prepare::{Prepared, prepare};
use super::{Failure, log};
use crate::api::{self, serve};
use crate::config_source;
use crate::config_source::write::Writer;
use crate::daemon::handle::Handle;
use crate::daemon::wiring;
use crate::settings as all_settings;

pub fn command() -> Command {
    Command::new("run")
        .about("Runs the daemon: reads configs, converges, watches, serves the API")
        .args(all_settings::arguments())
}

pub async fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let settings = all_settings::load(matches)?;
    let Prepared { access, secret, prices, notify } = prepare(&settings)?;
    log::start();
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("cannot listen on {} ({error}); --listen takes another address", settings.listen))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "codeloc listens");

    let source_settings = wiring::source(&settings);
    let writer = Writer::new(&source_settings, wiring::git(&settings), settings.build.work_folder.join("writing.git"));
    let source = config_source::watch(source_settings, wiring::git(&settings));
    let (daemon, moved) = wiring::daemon(settings, source.state.clone()).await?;
    daemon.publisher.create().await?;
    let recorder = daemon.context.status.recorder.clone();
    let handle = Handle { daemon: daemon.clone(), source, writer, prices };
    let api = serve::serve(listener, api::router(Arc::new(handle), access, secret));

    let lease = &daemon.context.observer.aws.lease;
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
    let telling = async {
        match notify {
            Some(notify) => notify.run(recorder).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = daemon.run(moved) => Err("the daemon ended by itself; see the log".into()),
        () = api => Err("the API ended by itself; see the log".into()),
        () = telling => Err("nobody is told of events any more; see the log".into()),
        () = told_to_end => Ok(ExitCode::SUCCESS),
    };
    // Nothing runs any more that could change anything.
    lease.release().await;
    ended
}
