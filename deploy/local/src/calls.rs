//! The record of received calls, for tests and for `GET /_localcloud/calls`.

use std::collections::VecDeque;

use serde::Serialize;

/// Older calls are dropped, to bound memory.
const MAX_CALLS: usize = 100_000;

#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Counts calls from 1.
    pub sequence: u64,
    /// When the call was applied or refused, in seconds since 1970.
    pub time: f64,
    /// When the caller sent the request; over HTTP, when it arrived.
    pub sent_at: f64,
    /// The access key id of the signature; empty if unsigned.
    pub caller: String,
    pub service: &'static str,
    pub operation: String,
    pub resource: Option<String>,
    pub mutating: bool,
    /// Whether the cloud applied the call. The caller may not know this: see the outcome.
    pub applied: bool,
    /// `OK`, the error code, or the injected fault.
    pub outcome: String,
    pub status: u16,
    pub latency_ms: u64,
}

#[derive(Debug, Default)]
pub struct Calls {
    ring: VecDeque<Call>,
    received: u64,
}

impl Calls {
    /// Records a call and sets its sequence number.
    pub fn record(&mut self, mut call: Call) {
        self.received += 1;
        call.sequence = self.received;
        self.ring.push_back(call);
        if self.ring.len() > MAX_CALLS {
            self.ring.pop_front();
        }
    }

    /// Recorded calls after the one numbered `sequence`; 0 for all.
    pub fn since(&self, sequence: u64) -> Vec<Call> {
        // Callers mostly ask for the newest calls: search from the end.
        let after = self.ring.iter().rev().take_while(|call| call.sequence > sequence).count();
        self.ring.iter().skip(self.ring.len() - after).cloned().collect()
    }

    /// Drops all calls. Sequence numbers continue.
    pub fn reset(&mut self) {
        self.ring.clear();
    }
}
