//! Faults of the daemon as a whole: since when, and what to do; and how statuses are shown meanwhile.

use std::fmt;
use std::time::Duration;

use codeloc_core::status::{Health, LocationStatus, Sync};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Daemon;
use crate::reconcile::Ports;

/// How long sweeps or the passes of one location may fail before codeloc no longer shows earlier observations as current.
const PATIENCE: Duration = Duration::from_secs(10);
/// Characters of an error. Errors of the SDK name every layer.
const LONGEST: usize = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The configs cannot be read.
    Configs,
    /// AWS does not answer, or refuses to read or renew the lease.
    Aws,
    /// Another process took the lease.
    Lease,
    /// The last sweep failed.
    Sweep,
    /// No sweep has finished yet.
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
    /// Whether the daemon cannot do its work. A standby is ready to take over, and codeloc deploys and publishes without a webserver.
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
            Self::Configs => Some("codeloc keeps the last valid configs and deletes nothing"),
            Self::Aws => Some(
                "codeloc changes nothing and shows old statuses; check the network, the credentials and the status of AWS",
            ),
            Self::Lease => Some("this process is a standby; if only one should run, stop the other one"),
            Self::Sweep => Some("codeloc does not see drift and deletes nothing; run `codeloc doctor`"),
            Self::Start => None,
            Self::Webserver => Some(
                "codeloc deploys locations and writes workspace.yaml, but Dagster does not load them; check that the webserver runs at `dagster.webserver_url`",
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

/// The error on one line, shortened.
fn bounded(error: &str) -> String {
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

impl<P: Ports> Daemon<P> {
    /// All faults. If one causes another, only the first is in the list.
    pub fn faults(&self) -> Vec<Fault> {
        let lease = &self.context.observer.aws.lease;
        let since =
            |cause: Cause, what: String, since: Instant| Fault { cause, what, since: Some(self.clock.at(since)) };
        let mut faults = Vec::new();
        if let Some(failure) = &self.source.borrow().failure {
            faults.push(since(Cause::Configs, failure.message.clone(), failure.since));
        }
        if let Some(silence) = lease.silence() {
            let what = silence.why.unwrap_or_else(|| "AWS does not answer".to_owned());
            faults.push(since(Cause::Aws, bounded(&what), silence.since));
        } else {
            if let Some((holder, moment)) = lease.taken() {
                faults.push(since(Cause::Lease, format!("another process took the lease: {holder}"), moment));
            }
            let failing = self.progress.failing_sweeps().filter(|failing| failing.since.elapsed() >= PATIENCE);
            if let Some(failing) = failing {
                let what = format!("no sweep can read all of AWS ({})", bounded(&failing.error));
                faults.push(since(Cause::Sweep, what, failing.since));
            } else if !self.progress.swept() {
                let what = "codeloc has not read AWS yet".to_owned();
                faults.push(Fault { cause: Cause::Start, what, since: None });
            }
        }
        if let Some(silence) = self.publisher.silence() {
            let what = silence.why.unwrap_or_else(|| "the webserver does not answer".to_owned());
            faults.push(since(Cause::Webserver, bounded(&what), silence.since));
        }
        faults
    }

    /// The status to show during these faults. If codeloc could not observe the location since, the status says when it was true, and
    /// it is neither in sync nor healthy.
    pub fn with_faults(&self, mut status: LocationStatus, faults: &[Fault]) -> LocationStatus {
        let blind = faults.iter().filter(|fault| fault.cause.is_blind()).filter_map(|fault| fault.since);
        let failing = self.context.retry.failing_since(&status.name);
        let failing = failing.filter(|since| since.elapsed() >= PATIENCE).map(|since| self.clock.at(since));
        let unseen = blind.chain(failing).any(|since| status.updated <= since);
        if !unseen || (status.sync, status.health) == (Sync::Unknown, Health::Unknown) {
            return status;
        }
        let ago = self.clock.now().duration_since(status.updated).as_secs();
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
