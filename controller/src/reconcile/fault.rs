//! What is wrong with the daemon as a whole, since when, and what to do; and which statuses still stand meanwhile.

use std::fmt;
use std::time::Duration;

use codeloc_core::lock::lock;
use codeloc_core::status::{Health, LocationStatus, Sync};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_images::Builder;
use jiff::Timestamp;
use tokio::time::Instant;

use super::daemon::Progress;
use super::pass::Reconciler;
use crate::config_source::SourceState;

/// For how long sweeps, or the passes on one location, may fail before what was observed earlier is not taken for true any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Characters of an error; the SDK's name every layer they came through.
const LONGEST: usize = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The configs cannot be read.
    Configs,
    /// AWS does not answer, or does not let the lease be read or renewed.
    Aws,
    /// Another process took the lease.
    Lease,
    /// AWS cannot be read whole.
    Sweep,
    /// AWS was not read yet.
    Start,
    /// The webserver does not answer.
    Webserver,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub cause: Cause,
    pub what: String,
    pub since: Option<Timestamp>,
}

impl Cause {
    /// Whether the daemon cannot do its work. A standby is ready to take over, and without a webserver locations are deployed and
    /// published all the same.
    pub fn is_unready(self) -> bool {
        match self {
            Self::Configs | Self::Aws | Self::Sweep | Self::Start => true,
            Self::Lease | Self::Webserver => false,
        }
    }

    fn is_blind(self) -> bool {
        matches!(self, Self::Aws | Self::Sweep)
    }

    fn advice(self) -> Option<&'static str> {
        match self {
            Self::Configs => Some("the last good configs stay in force"),
            Self::Aws => Some(
                "nothing is changed, and statuses are from before; check the network, the credentials and AWS's own status",
            ),
            Self::Lease => Some("this process stands by; if only one is meant to run, stop the other one"),
            Self::Sweep => Some("drift is not seen, and nothing is deleted; `codeloc doctor` names what is missing"),
            Self::Start => None,
            Self::Webserver => Some(
                "locations are deployed and written to workspace.yaml, and not loaded; check that it runs where `dagster.webserver_url` says",
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        if let Some(since) = self.since {
            write!(formatter, ", since {}", since.strftime("%F %TZ"))?;
        }
        match self.cause.advice() {
            Some(advice) => write!(formatter, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// The error on one line, cut where it is long.
fn bounded(error: &str) -> String {
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    /// Everything that is wrong. Of what follows from each other only the first is named.
    pub fn faults(&self, progress: &Progress, source: &SourceState) -> Vec<Fault> {
        let context = &self.context;
        let since =
            |cause: Cause, what: String, since: Instant| Fault { cause, what, since: Some(context.clock.at(since)) };
        let mut faults = Vec::new();
        if let Some(failure) = &source.failure {
            faults.push(since(Cause::Configs, failure.message.clone(), failure.since));
        }
        if let Some(silence) = context.lease.silence() {
            let what = silence.why.unwrap_or_else(|| "AWS does not answer".to_owned());
            faults.push(since(Cause::Aws, bounded(&what), silence.since));
        } else {
            if let Some((holder, moment)) = context.lease.taken() {
                faults.push(since(Cause::Lease, format!("another process took the lease: {holder}"), moment));
            }
            let fails = progress.sweeps_fail().filter(|(since, _)| since.elapsed() >= PATIENCE);
            if let Some((moment, why)) = fails {
                let what = format!("AWS cannot be read whole ({})", bounded(&why));
                faults.push(since(Cause::Sweep, what, moment));
            } else if !progress.swept() {
                let what = "live state has not been read yet".to_owned();
                faults.push(Fault { cause: Cause::Start, what, since: None });
            }
        }
        if let Some(silence) = context.workspace.silence() {
            let what = silence.why.unwrap_or_else(|| "the webserver does not answer".to_owned());
            faults.push(since(Cause::Webserver, bounded(&what), silence.since));
        }
        faults
    }

    /// A status as it may be shown: what it says of a location that could not be observed since says when it was true, and that all is
    /// well is not said any more.
    pub fn with_faults(&self, mut status: LocationStatus, faults: &[Fault]) -> LocationStatus {
        let clock = &self.context.clock;
        let blind = faults.iter().filter(|fault| fault.cause.is_blind()).filter_map(|fault| fault.since);
        let failing = lock(&self.failures).get(&status.name).map(|failing| failing.since);
        let failing = failing.filter(|since| since.elapsed() >= PATIENCE).map(|since| clock.at(since));
        let unseen = blind.chain(failing).any(|since| status.updated <= since);
        if !unseen || (status.sync, status.health) == (Sync::Unknown, Health::Unknown) {
            return status;
        }
        let ago = clock.now().duration_since(status.updated).as_secs();
        status.message = format!("last observed {ago} s ago: {}", status.message);
        if status.sync == Sync::Synced {
            status.sync = Sync::Unknown;
        }
        if status.health == Health::Healthy {
            status.health = Health::Unknown;
        }
        status
    }
}
