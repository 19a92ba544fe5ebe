//! The lease: exactly one process of a deployment changes things. The lease is an object in the platform's bucket. All writes
//! are conditional, so S3 decides between two processes that want it.
//!
//! Guarantees: the fence is open only while this process holds the lease, and closes a margin before another process may take it.
//!
//! Assumes: the clocks of all processes run at the same speed. No clock is compared with another one: a standby measures how long
//! the object has not changed, and the lease holder counts from before it sent its last write.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::lock::lock;
use codeloc_core::names;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{CallError, Class};
use crate::fence::Fence;
use crate::pulse::{Pulse, Silence};
use crate::session::call;

/// The pause after a failed call, and the longest one between two reads of another process's lease.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// 412, or 409 if two writes race, or 404 if the object is deleted during a conditional write.
const REFUSED: [&str; 3] = ["PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"];
/// The longest pause between two renewals, and the longest renewal: they also detect that AWS does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_CALL: Duration = Duration::from_secs(10);
/// How long the calls on the lease may fail or hang before codeloc reports it. Together with [`LONGEST_PAUSE`] below 15 s.
const PATIENCE: Duration = Duration::from_secs(4);

/// The content of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The process that wrote it. Empty after a release.
    holder: String,
    /// Rises with every write, so that no two writes produce equal objects.
    sequence: u64,
    /// How long the lease is valid after this write.
    seconds: u64,
}

/// The state of the lease, as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Not read yet.
    Unknown,
    /// This process holds the lease and may change things.
    Held,
    /// Another process holds the lease.
    Standby { holder: String },
    /// The lease could not be read or written, so this process changes nothing.
    Unreadable(String),
}

/// The key of a deployment's lease in the platform's bucket.
pub fn key(deployment: &str) -> String {
    format!("{}/lease.json", names::own_prefix(deployment))
}

impl Record {
    /// The time until `process` may take the lease, which has not changed for `unchanged`.
    fn free_in(&self, process: &str, unchanged: Duration) -> Duration {
        // Released, or the process's own lease that it could not renew for a while.
        if self.holder.is_empty() || self.holder == process {
            return Duration::ZERO;
        }
        Duration::from_secs(self.seconds).saturating_sub(unchanged)
    }
}

#[derive(Debug)]
pub struct Lease {
    store: Store,
    holder: String,
    duration: Duration,
    fence: Arc<Fence>,
    state: watch::Sender<LeaseState>,
    pulse: Pulse,
    /// When this process lost the lease. `None` before its first lease, and while it holds one.
    lost: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct Store {
    s3: aws_sdk_s3::Client,
    bucket: String,
    key: String,
}

/// One version of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    record: Record,
    etag: String,
}

enum Written {
    Now(String),
    /// Another process wrote first.
    Refused,
}

impl Store {
    async fn read(&self) -> Result<Option<Version>, CallError> {
        const OPERATION: &str = "s3:GetObject";
        let answer = match call(OPERATION, self.s3.get_object().bucket(&self.bucket).key(&self.key).send()).await {
            Ok(answer) => answer,
            Err(error) if error.is(&["NoSuchKey", "NotFound"]) => return Ok(None),
            Err(error) => return Err(error),
        };
        let etag = answer.e_tag().ok_or_else(|| CallError::malformed(OPERATION, "ETag"))?.to_owned();
        let body = answer.body.collect().await.map_err(|_| CallError::malformed(OPERATION, "complete body"))?;
        let record = serde_json::from_slice(&body.into_bytes()).map_err(|_| {
            let (bucket, key) = (&self.bucket, &self.key);
            let lease = format!("lease; delete s3://{bucket}/{key} if no other program writes it");
            CallError::malformed(OPERATION, &lease)
        })?;
        Ok(Some(Version { record, etag }))
    }

    /// Replaces the version `before`, or creates the object.
    async fn write(&self, record: &Record, before: Option<&str>) -> Result<Written, CallError> {
        let body = serde_json::to_vec(record).expect("plain data");
        let request = self
            .s3
            .put_object()
            .bucket(&self.bucket)
            .key(&self.key)
            .content_type("application/json")
            .body(ByteStream::from(body));
        let request = match before {
            Some(etag) => request.if_match(etag),
            None => request.if_none_match("*"),
        };
        // One attempt: after a lost answer, a read shows whether the write succeeded.
        let once =
            aws_sdk_s3::config::Config::builder().retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled());
        let answer = call("s3:PutObject", request.customize().config_override(once).send()).await;
        match answer {
            Ok(answer) => {
                let etag = answer.e_tag().ok_or_else(|| CallError::malformed("s3:PutObject", "ETag"))?;
                Ok(Written::Now(etag.to_owned()))
            }
            Err(error) if error.is(&REFUSED) => Ok(Written::Refused),
            Err(error) => Err(error),
        }
    }
}

impl Lease {
    /// `holder` is unique to this process. `seconds` is how long the lease stays valid after the holder's last write.
    pub fn new(s3: aws_sdk_s3::Client, bucket: &str, deployment: &str, holder: String, seconds: u64) -> Self {
        let duration = Duration::from_secs(seconds);
        let key = key(deployment);
        Self {
            store: Store { s3, bucket: bucket.to_owned(), key },
            holder,
            duration,
            fence: Arc::new(Fence::new(call_timeout(duration))),
            state: watch::Sender::new(LeaseState::Unknown),
            pulse: Pulse::default(),
            lost: Mutex::default(),
        }
    }

    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<LeaseState> {
        self.state.subscribe()
    }

    /// Since when the lease can be neither read nor renewed, if that lasts longer than [`PATIENCE`].
    pub fn silence(&self) -> Option<Silence> {
        self.pulse.silence(PATIENCE)
    }

    /// The process that took the lease from this one, and when this one noticed it.
    pub fn taken(&self) -> Option<(String, Instant)> {
        match self.state() {
            LeaseState::Standby { holder } => Some((holder, (*lock(&self.lost))?)),
            LeaseState::Unknown | LeaseState::Held | LeaseState::Unreadable(_) => None,
        }
    }

    /// Takes the lease as soon as it is free, and renews it. Runs until it is dropped; the fence then closes by itself.
    pub async fn keep(&self) {
        // The last version of another process, and since when it has not changed.
        let mut last: Option<(Version, Instant)> = None;
        loop {
            let version = match self.bounded(self.store.read()).await {
                Ok(version) => version,
                Err(error) => {
                    self.set_state(LeaseState::Unreadable(error.to_string()));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            let now = Instant::now();
            last = match (&version, last) {
                (Some(version), Some((before, since))) if before == *version => Some((before, since)),
                (Some(version), _) => Some((version.clone(), now)),
                (None, _) => None,
            };
            let free_in = last.as_ref().map_or(Duration::ZERO, |(version, since)| {
                version.record.free_in(&self.holder, now.saturating_duration_since(*since))
            });
            if free_in.is_zero() {
                let sequence = version.as_ref().map_or(1, |version| version.record.sequence + 1);
                let sent = Instant::now();
                match self.bounded(self.write(sequence, version.as_ref().map(|version| version.etag.as_str()))).await {
                    Ok(Written::Now(etag)) => {
                        last = None;
                        self.hold(sequence, etag, sent).await;
                    }
                    // Another process was faster, or the answer was lost: read again.
                    Ok(Written::Refused) => {}
                    Err(error) => {
                        self.set_state(LeaseState::Unreadable(error.to_string()));
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                continue;
            }
            if let Some(version) = version {
                self.set_state(LeaseState::Standby { holder: version.record.holder });
            }
            tokio::time::sleep(free_in.min(RETRY_PAUSE.min(self.duration / 6))).await;
        }
    }

    /// Renews until the lease is lost.
    async fn hold(&self, mut sequence: u64, mut etag: String, sent: Instant) {
        let mut until = sent + self.duration - margin(self.duration);
        self.fence.open_until(until);
        *lock(&self.lost) = None;
        self.set_state(LeaseState::Held);
        tracing::info!(holder = %self.holder, "this process holds the lease and may change AWS");
        let between = (self.duration / 6).min(LONGEST_PAUSE);
        let mut pause = between;
        loop {
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= until {
                self.lose("no renewal succeeded in time");
                return;
            }
            let sent = Instant::now();
            let written = tokio::time::timeout_at(until, self.bounded(self.write(sequence + 1, Some(&etag)))).await;
            pause = if matches!(written, Ok(Ok(_))) { between } else { between.min(RETRY_PAUSE) };
            match written {
                Ok(Ok(Written::Now(new))) => {
                    sequence += 1;
                    etag = new;
                    until = sent + self.duration - margin(self.duration);
                    self.fence.open_until(until);
                }
                // Refused because of another process's write, or of an own write whose answer was lost.
                Ok(Ok(Written::Refused)) => {
                    match tokio::time::timeout_at(until, self.bounded(self.store.read())).await {
                        Ok(Ok(Some(version))) if version.record.holder == self.holder => {
                            sequence = version.record.sequence;
                            etag = version.etag;
                        }
                        Ok(Ok(_)) => {
                            self.lose("another process took it");
                            return;
                        }
                        Ok(Err(error)) => tracing::warn!(%error, "cannot read the lease; codeloc retries"),
                        Err(_) => {}
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease; codeloc retries"),
                Err(_) => {}
            }
        }
    }

    fn lose(&self, why: &str) {
        self.fence.close();
        *lock(&self.lost) = Some(Instant::now());
        self.set_state(LeaseState::Unreadable(format!("this process lost the lease: {why}")));
        tracing::warn!(
            holder = %self.holder,
            "this process lost the lease and changes nothing until it holds it again: {why}"
        );
    }

    fn set_state(&self, lease_state: LeaseState) {
        self.state.send_if_modified(|now| {
            let changed = *now != lease_state;
            *now = lease_state;
            changed
        });
    }

    async fn write(&self, sequence: u64, before: Option<&str>) -> Result<Written, CallError> {
        let record = Record { holder: self.holder.clone(), sequence, seconds: self.duration.as_secs() };
        self.store.write(&record, before).await
    }

    /// A call on the lease takes at most as long as a change may.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let limit = call_timeout(self.duration).min(LONGEST_CALL);
        self.pulse.ask();
        let answer = tokio::time::timeout(limit, call).await;
        let answer = answer.unwrap_or_else(|_| Err(CallError::no_answer("s3:PutObject", limit)));
        match &answer {
            Ok(_) => self.pulse.heard(),
            Err(error) if error.code.is_empty() && error.class == Class::Transient => {
                self.pulse.failed(format!("AWS does not answer ({error})"));
            }
            Err(error) => self.pulse.failed(format!("codeloc cannot read or renew the lease ({error})")),
        }
        answer
    }

    /// Releases the lease, so that the next process need not wait. For an orderly shutdown, after the work has stopped and
    /// [`Fence::shut`] has waited for the calls in flight.
    pub async fn release(&self) {
        let held = self.state() == LeaseState::Held;
        self.fence.close();
        if !held {
            return;
        }
        let released = async {
            if let Some(version) = self.store.read().await?.filter(|version| version.record.holder == self.holder) {
                let record = Record { holder: String::new(), sequence: version.record.sequence + 1, seconds: 0 };
                self.store.write(&record, Some(&version.etag)).await?;
            }
            Ok(())
        };
        if let Err(error) = self.bounded(released).await {
            tracing::warn!(%error, "cannot release the lease; a standby takes over when it expires");
        }
    }
}

/// The last part of the lease's validity, in which its holder starts no change. Longer than a call may take.
fn margin(duration: Duration) -> Duration {
    duration / 2
}

/// How long a change may take, including its retries: shorter than the margin, so that it ends before another process may take
/// the lease.
fn call_timeout(duration: Duration) -> Duration {
    margin(duration) * 4 / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str) -> Record {
        Record { holder: holder.to_owned(), sequence: 1, seconds: 30 }
    }

    #[test]
    fn another_process_waits_for_the_whole_validity() {
        let record = record("a");
        assert_eq!(record.free_in("b", Duration::ZERO), Duration::from_secs(30));
        assert_eq!(record.free_in("b", Duration::from_secs(29)), Duration::from_secs(1));
        assert_eq!(record.free_in("b", Duration::from_secs(31)), Duration::ZERO);
    }

    #[test]
    fn an_own_or_released_lease_is_free_at_once() {
        assert_eq!(record("a").free_in("a", Duration::ZERO), Duration::ZERO);
        assert_eq!(record("").free_in("b", Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_change_ends_before_another_process_takes_over() {
        for seconds in [5, 15, 30, 60, 600] {
            let duration = Duration::from_secs(seconds);
            // The holder starts changes until the margin begins, and each one lasts at most `call_timeout`.
            assert!(call_timeout(duration) < margin(duration), "{seconds} s");
            assert!(duration / 6 + margin(duration) < duration, "a renewal comes before the margin");
        }
    }

    #[test]
    fn the_object_reads_back_as_it_was_written() {
        let text = serde_json::to_string(&record("a")).unwrap();
        assert_eq!(text, r#"{"holder":"a","sequence":1,"seconds":30}"#);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record("a"));
    }

    #[test]
    fn the_key_is_below_the_prefix_of_the_deployment() {
        assert_eq!(key("codeloc"), format!("{}/lease.json", names::own_prefix("codeloc")));
    }
}
