//! How fast codeloc may call AWS: one token bucket for each family of operations that AWS counts together, shared by the whole
//! process. The most urgent call gets the next token; among equals, the call that came first.
//!
//! AWS publishes few of these rates and changes them per account, so each bucket learns: a refusal shows that the real bucket is
//! empty at that moment, and two refusals in a row of calls show its rate. While calls wait and AWS refuses none, the rate rises
//! step by step.

pub(crate) mod attempts;
mod bucket;
mod family;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bucket::Bucket;
use codeloc_core::lock::lock;
use codeloc_core::priority::Priority;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use family::Family;

/// The state of one family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateState {
    pub family: Family,
    /// Calls per second, as learned so far.
    pub rate: f64,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Calls that AWS throttled.
    pub refused: u64,
}

#[derive(Debug)]
pub struct RateLimiter {
    start: Instant,
    gates: Vec<Mutex<Gate>>,
    /// Attempts so far, by operation.
    attempts: Mutex<BTreeMap<String, [u64; 3]>>,
}

/// How one attempt of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Passed,
    /// Refused for another reason than its rate, or without an answer.
    Failed,
    Throttled,
}

#[derive(Debug)]
struct Gate {
    bucket: Bucket,
    arrived: u64,
    waiting: BTreeMap<(Priority, u64), Arc<Notify>>,
}

impl Default for RateLimiter {
    fn default() -> Self {
        let gate = |family: Family| {
            let (burst, rate) = family.initial();
            Mutex::new(Gate { bucket: Bucket::new(burst, rate), arrived: 0, waiting: BTreeMap::new() })
        };
        Self { start: Instant::now(), gates: Family::ALL.into_iter().map(gate).collect(), attempts: Mutex::default() }
    }
}

impl RateLimiter {
    /// For a cloud that throttles nothing, such as one on this machine.
    pub fn none() -> Self {
        Self { start: Instant::now(), gates: vec![], attempts: Mutex::default() }
    }

    fn gate(&self, family: Family) -> Option<&Mutex<Gate>> {
        self.gates.get(family as usize)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for the call's turn.
    pub async fn admit(&self, operation: &str, priority: Priority) {
        let Some(gate) = self.gate(Family::of(operation)) else { return };
        let (key, turn) = {
            let mut gate = lock(gate);
            if gate.waiting.is_empty() && gate.bucket.take(self.now()).is_ok() {
                return;
            }
            gate.arrived += 1;
            let key = (priority, gate.arrived);
            let turn = Arc::new(Notify::new());
            gate.waiting.insert(key, turn.clone());
            (key, turn)
        };
        // Leaves the line also when the caller is dropped.
        let _place = Place { gate, key };
        loop {
            let pause = {
                let mut gate = lock(gate);
                if gate.waiting.first_key_value().is_some_and(|(first, _)| *first == key) {
                    match gate.bucket.take(self.now()) {
                        Ok(()) => return,
                        Err(pause) => Some(pause),
                    }
                } else {
                    None
                }
            };
            match pause {
                Some(pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = turn.notified() => {}
                },
                None => turn.notified().await,
            }
        }
    }

    /// Learns from one attempt and counts it.
    pub fn attempted(&self, operation: &str, attempt: Attempt) {
        self.count(operation, attempt);
        let Some(gate) = self.gate(Family::of(operation)) else { return };
        let now = self.now();
        let mut gate = lock(gate);
        if attempt == Attempt::Throttled {
            gate.bucket.refused(now);
        } else {
            let waited_for = !gate.waiting.is_empty();
            gate.bucket.passed(waited_for);
        }
    }

    /// Counts an attempt without learning from it: it got no answer.
    pub fn count(&self, operation: &str, attempt: Attempt) {
        let mut attempts = lock(&self.attempts);
        match attempts.get_mut(operation) {
            Some(counts) => counts[attempt as usize] += 1,
            None => attempts.entry(operation.to_owned()).or_default()[attempt as usize] += 1,
        }
    }

    /// Attempts so far, by operation: passed, failed and throttled.
    pub fn attempts(&self) -> Vec<(String, [u64; 3])> {
        lock(&self.attempts).iter().map(|(operation, counts)| (operation.clone(), *counts)).collect()
    }

    pub fn rate_state(&self) -> Vec<RateState> {
        let rate_state = |family: Family| {
            let gate = lock(self.gate(family)?);
            let (rate, refused) = (gate.bucket.rate(), gate.bucket.refusals());
            Some(RateState { family, rate, waiting: gate.waiting.len(), refused })
        };
        Family::ALL.into_iter().filter_map(rate_state).collect()
    }
}

/// A place in the line of a gate.
struct Place<'a> {
    gate: &'a Mutex<Gate>,
    key: (Priority, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut gate = lock(self.gate);
        gate.waiting.remove(&self.key);
        if let Some((_, next)) = gate.waiting.first_key_value() {
            next.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_commit_overtakes_waiting_calls() {
        let limits = Arc::new(RateLimiter::default());
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (name, priority) in (0..40).map(|_| ("cold", Priority::Cold)).chain([("commit", Priority::Commit)]) {
            let (limits, done) = (limits.clone(), done.clone());
            tokio::spawn(async move {
                limits.admit("ecs:RegisterTaskDefinition", priority).await;
                done.send(name).expect("the receiver is open");
            });
            tokio::task::yield_now().await;
        }
        drop(done);
        let mut finished = vec![];
        while let Some(name) = order.recv().await {
            finished.push(name);
        }
        assert_eq!(finished.iter().position(|name| *name == "commit"), Some(20));
        assert_eq!(limits.start.elapsed().as_secs(), 21);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_stops_waiting_takes_no_token() {
        let limits = RateLimiter::default();
        for _ in 0..20 {
            limits.admit("ecs:RegisterTaskDefinition", Priority::Cold).await;
        }
        let waiting = limits.admit("ecs:RegisterTaskDefinition", Priority::Commit);
        assert!(tokio::time::timeout(Duration::from_millis(500), waiting).await.is_err());
        limits.admit("ecs:RegisterTaskDefinition", Priority::Cold).await;
        assert_eq!(limits.now().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn people_who_read_logs_do_not_delay_reconciling() {
        let limits = Arc::new(RateLimiter::default());
        for _ in 0..100 {
            let limits = limits.clone();
            tokio::spawn(async move { limits.admit("logs:FilterLogEvents", Priority::Garbage).await });
            tokio::task::yield_now().await;
        }
        for operation in
            ["logs:CreateLogGroup", "logs:PutRetentionPolicy", "logs:DescribeLogStreams", "logs:GetLogEvents"]
        {
            limits.admit(operation, Priority::Resync).await;
        }
        assert_eq!(limits.now(), Duration::ZERO, "no call waited");
    }

    #[test]
    fn attempts_are_counted_by_operation_and_end() {
        let limits = RateLimiter::none();
        limits.attempted("ecs:UpdateService", Attempt::Passed);
        limits.attempted("ecs:UpdateService", Attempt::Throttled);
        limits.count("ecs:UpdateService", Attempt::Failed);
        limits.count("ecs:UpdateService", Attempt::Failed);
        assert_eq!(limits.attempts(), [("ecs:UpdateService".to_owned(), [1, 2, 1])]);
        assert!(limits.rate_state().is_empty());
    }
}
