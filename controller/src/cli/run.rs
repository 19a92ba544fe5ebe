//! `codeloc run`: the daemon.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command};

use super::prepare::{Prepared, prepare};
use super::{Failure, log};
use crate::api::{self, serve};
use crate::config_source;
use crate::config_source::write::Writer;
use crate::daemon::handle::Handle;
use crate::daemon::wiring;
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
    let (daemon, moved) = wiring::daemon(settings, source.state.clone()).await?;
    daemon.publisher.create().await?;
    let recorder = daemon.context.status.recorder.clone();
    let handle = Handle { daemon: daemon.clone(), source, writer, prices };
    let api = serve::serve(listener, api::router(Arc::new(handle), access, secret));

    let lease = &daemon.context.observer.aws.lease;
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
