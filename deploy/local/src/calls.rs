//! The list of calls received: what tests count, and what `GET /_localcloud/calls` shows.

use std::collections::VecDeque;

use serde::Serialize;

/// Older calls are forgotten: a long-running cloud stays small.
const KEPT: usize = 100_000;

#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Rises by one with every call, from 1.
    pub sequence: u64,
    /// When it was applied or refused, in seconds since 1970.
    pub time: f64,
    /// When its request left the caller; over HTTP, when it came in.
    pub sent_at: f64,
    /// The access key id that signed it; empty for none.
    pub caller: String,
    pub service: &'static str,
    pub operation: String,
    pub resource: Option<String>,
    pub mutating: bool,
    /// Whether the cloud did what was asked. The caller may not know: see the outcome.
    pub applied: bool,
    /// `OK`, the error code, or the fault that was put in its way.
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
    /// Writes a call down; its sequence number is given here.
    pub fn record(&mut self, mut call: Call) {
        self.received += 1;
        call.sequence = self.received;
        self.ring.push_back(call);
        if self.ring.len() > KEPT {
            self.ring.pop_front();
        }
    }

    /// Calls after the one numbered `sequence`; 0 for all that are kept.
    pub fn since(&self, sequence: u64) -> Vec<Call> {
        // The newest are asked for most: they are looked for from the end.
        let after = self.ring.iter().rev().take_while(|call| call.sequence > sequence).count();
        self.ring.iter().skip(self.ring.len() - after).cloned().collect()
    }

    /// Forgets all calls; numbers go on rising.
    pub fn reset(&mut self) {
        self.ring.clear();
    }
}
