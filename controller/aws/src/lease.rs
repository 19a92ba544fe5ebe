//! The lease: of all controllers of one deployment, one changes things. It is an object in the platform's bucket, written
//! by conditional writes only, so S3 decides between two that want it.
//!
//! Guarantees: the fence is open only while the lease is held, and closes a margin before anybody else may take it.
//!
//! Assumes: clocks run equally fast on both sides, and nothing else. No clock is compared with another one: whoever waits for the
//! lease measures by itself how long the object has not changed; whoever holds it counts from before its last write was sent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::lock::lock;
use codeloc_core::names;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::pulse::{Pulse, Silence};
use crate::fence::Fence;
use crate::{CallError, Class, call};

/// After a call that failed, and between two looks at a lease that somebody else holds.
const LOOK: Duration = Duration::from_secs(2);
/// 412, or 409 when two writes met, or 404 when it was deleted under a conditional write.
const REFUSED: [&str; 3] = ["PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"];
/// The longest time between two renewals, and the longest that one may take: they are also how an AWS that does not answer is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_CALL: Duration = Duration::from_secs(10);
/// How long a call on the lease may fail or hang before that is worth telling. Together with [`LONGEST_PAUSE`] below 15 s.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Who wrote it; empty when it was given back.
    holder: String,
    /// Rises with every write, so that no two writes give equal objects.
    sequence: u64,
    /// For how long it holds, unless it is written again.
    seconds: u64,
}

/// How things stand with the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Not looked at yet.
    Unknown,
    /// This process may change things.
    Held,
    /// Somebody else may.
    Standby { holder: String },
    /// Nobody can tell: so nobody here does.
    Unreadable(String),
}

/// Where the lease of a deployment lies in the platform's bucket.
pub fn key(deployment: &str) -> String {
    format!("{}/lease.json", names::own_prefix(deployment))
}

#[derive(Debug)]
pub struct Lease {
    store: Store,
    holder: String,
    duration: Duration,
    fence: Arc<Fence>,
    lease_state: watch::Sender<LeaseState>,
    pulse: Pulse,
    /// When this process lost the lease; nothing before it held one, and while it holds it.
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
    /// Somebody else wrote first.
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
        let body = answer.body.collect().await.map_err(|_| CallError::malformed(OPERATION, "whole body"))?;
        let record = serde_json::from_slice(&body.into_bytes())
            .map_err(|_| CallError::malformed(OPERATION, "lease in it; delete the object if nobody else writes it"))?;
        Ok(Some(Version { record, etag }))
    }

    /// Writes over `before`, or where there is nothing.
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
        // One attempt: whether a write whose answer was lost was made is found out by reading.
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
    /// `holder` tells this process from every other one. `seconds`: for how long nobody else takes over after the holder was
    /// heard of last.
    pub fn new(s3: aws_sdk_s3::Client, bucket: &str, deployment: &str, holder: String, seconds: u64) -> Self {
        let duration = Duration::from_secs(seconds);
        let key = key(deployment);
        Self {
            store: Store { s3, bucket: bucket.to_owned(), key },
            holder,
            duration,
            fence: Arc::new(Fence::new(call_timeout(duration))),
            lease_state: watch::Sender::new(LeaseState::Unknown),
            pulse: Pulse::default(),
            lost: Mutex::default(),
        }
    }

    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    pub fn state(&self) -> LeaseState {
        self.lease_state.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<LeaseState> {
        self.lease_state.subscribe()
    }

    /// Since when the lease can be neither read nor renewed, once that lasts.
    pub fn silence(&self) -> Option<Silence> {
        self.pulse.silence(PATIENCE)
    }

    /// Who took the lease from this process, and when that was noticed.
    pub fn taken(&self) -> Option<(String, Instant)> {
        match self.state() {
            LeaseState::Standby { holder } => Some((holder, (*lock(&self.lost))?)),
            LeaseState::Unknown | LeaseState::Held | LeaseState::Unreadable(_) => None,
        }
    }

    /// Takes the lease whenever that is allowed, and keeps it. Runs until it is dropped; the fence then closes by itself.
    pub async fn keep(&self) {
        // The version seen last, and since when.
        let mut seen: Option<(Version, Instant)> = None;
        loop {
            let version = match self.bounded(self.store.read()).await {
                Ok(version) => version,
                Err(error) => {
                    self.stand(LeaseState::Unreadable(error.to_string()));
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            let now = Instant::now();
            let free_in = match &version {
                None => Duration::ZERO,
                // Given back, or one's own that could not be renewed for a while.
                Some(version) if version.record.holder.is_empty() || version.record.holder == self.holder => {
                    Duration::ZERO
                }
                Some(version) => {
                    let since = match &seen {
                        Some((before, since)) if before == version => *since,
                        _ => now,
                    };
                    seen = Some((version.clone(), since));
                    (since + Duration::from_secs(version.record.seconds)).saturating_duration_since(now)
                }
            };
            if free_in.is_zero() {
                let sequence = version.as_ref().map_or(1, |version| version.record.sequence + 1);
                let sent = Instant::now();
                match self.bounded(self.write(sequence, version.as_ref().map(|version| version.etag.as_str()))).await {
                    Ok(Written::Now(etag)) => {
                        seen = None;
                        self.hold(sequence, etag, sent).await;
                    }
                    // Somebody was faster, or nobody knows: look again.
                    Ok(Written::Refused) => {}
                    Err(error) => {
                        self.stand(LeaseState::Unreadable(error.to_string()));
                        tokio::time::sleep(LOOK).await;
                    }
                }
                continue;
            }
            if let Some(version) = version {
                self.stand(LeaseState::Standby { holder: version.record.holder });
            }
            tokio::time::sleep(free_in.min(LOOK.min(self.duration / 6))).await;
        }
    }

    /// Renews until the lease is lost.
    async fn hold(&self, mut sequence: u64, mut etag: String, sent: Instant) {
        let mut until = sent + self.duration - margin(self.duration);
        self.fence.open_until(until);
        *lock(&self.lost) = None;
        self.stand(LeaseState::Held);
        tracing::info!(holder = %self.holder, "the lease is held: this process changes things");
        let between = (self.duration / 6).min(LONGEST_PAUSE);
        let mut pause = between;
        loop {
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= until {
                self.lose("it could not be renewed in time");
                return;
            }
            let sent = Instant::now();
            let written = tokio::time::timeout_at(until, self.bounded(self.write(sequence + 1, Some(&etag)))).await;
            pause = if matches!(written, Ok(Ok(_))) { between } else { between.min(LOOK) };
            match written {
                Ok(Ok(Written::Now(new))) => {
                    sequence += 1;
                    etag = new;
                    until = sent + self.duration - margin(self.duration);
                    self.fence.open_until(until);
                }
                // Refused: by somebody else's write, or by one of our own whose answer was lost.
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
                        Ok(Err(error)) => tracing::warn!(%error, "the lease could not be read"),
                        Err(_) => {}
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => {}
            }
        }
    }

    fn lose(&self, why: &str) {
        self.fence.close();
        *lock(&self.lost) = Some(Instant::now());
        self.stand(LeaseState::Unreadable(format!("the lease was lost: {why}")));
        tracing::warn!(holder = %self.holder, "the lease was lost: {why}; nothing is changed any more");
    }

    fn stand(&self, lease_state: LeaseState) {
        self.lease_state.send_if_modified(|now| {
            let changed = *now != lease_state;
            *now = lease_state;
            changed
        });
    }

    async fn write(&self, sequence: u64, before: Option<&str>) -> Result<Written, CallError> {
        let record = Record { holder: self.holder.clone(), sequence, seconds: self.duration.as_secs() };
        self.store.write(&record, before).await
    }

    /// One call on the lease may not take longer than a change may.
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
            Err(error) => self.pulse.failed(format!("the lease cannot be read or renewed ({error})")),
        }
        answer
    }

    /// Gives the lease back, so that the next process need not wait. For an orderly end, after the work has stopped and
    /// [`Fence::shut`] has waited for the calls that were on their way.
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
            tracing::warn!(%error, "the lease was not given back; it runs out by itself");
        }
    }
}

/// The part of the lease's time in which its holder begins nothing any more: longer than a call may take.
fn margin(duration: Duration) -> Duration {
    duration / 2
}

/// How long a mutating call may take, its retries included: shorter than the margin, so that it is over before anybody else may
/// take the lease.
fn call_timeout(duration: Duration) -> Duration {
    margin(duration) * 4 / 5
}
