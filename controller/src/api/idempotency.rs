//! Writes continue when their client leaves. A client can repeat a write whose answer it lost: with the same `Idempotency-Key`, codeloc
//! performs it once.
//!
//! Guarantees: codeloc keeps the answer of a write that it performed, and forgets a write that failed, so that the client can try again
//! with the same key. The number of writes at the same time, and of answers in memory, is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode};
use codeloc_core::lock::lock;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::problem::Problem;
use super::{App, Written};

/// Keys in memory; a restart loses them.
const KEPT: usize = 1000;
const MAX_KEY_LENGTH: usize = 200;

/// The outcome of a request.
pub(super) type Outcome = Result<Written, Problem>;
type Running = Shared<BoxFuture<'static, Outcome>>;

#[derive(Debug, Default)]
pub(super) struct Idempotency {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<String, Slot>,
    /// The keys of `by_key`, the oldest first.
    order: VecDeque<String>,
}

#[derive(Clone, Debug)]
struct Slot {
    request: [u8; 32],
    outcome: Running,
}

impl Slots {
    fn insert(&mut self, key: &str, slot: Slot) {
        self.by_key.insert(key.to_owned(), slot);
        self.order.push_back(key.to_owned());
        // A running write keeps its key: otherwise its repetition would be a second write.
        let is_done = |key: &String| self.by_key.get(key).is_none_or(|slot| slot.outcome.peek().is_some());
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.iter().position(is_done)
            && let Some(key) = self.order.remove(oldest)
        {
            self.by_key.remove(&key);
        }
    }

    fn forget(&mut self, key: &str) {
        self.by_key.remove(key);
        self.order.retain(|other| other != key);
    }
}

/// Runs `write`, or returns the outcome of an earlier request with the same key. `request` is everything that distinguishes requests.
pub(super) async fn idempotent(
    app: &App,
    headers: &HeaderMap,
    request: &[&str],
    write: impl Future<Output = Outcome> + Send + 'static,
) -> Outcome {
    let Some(key) = headers.get("idempotency-key") else { return start(app.limits.write()?, write).await };
    let key = key.to_str().unwrap_or_default().to_owned();
    if key.is_empty() || key.len() > MAX_KEY_LENGTH {
        let detail = format!("the Idempotency-Key is invalid; use 1 to {MAX_KEY_LENGTH} visible ASCII characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let digest: [u8; 32] = Sha256::digest(request.join("\0")).into();
    let outcome = {
        let mut slots = lock(&app.idempotency.slots);
        match slots.by_key.get(&key) {
            Some(slot) if slot.request == digest => slot.outcome.clone(),
            Some(_) => {
                let detail = "an earlier, different request used this Idempotency-Key; use a new key for each request";
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
            }
            None => {
                let permit = app.limits.write()?;
                let guard = ForgetUnlessDone::new(&app.idempotency, &key);
                let outcome = start(permit, async move {
                    let outcome = write.await;
                    guard.finish(&outcome);
                    outcome
                });
                slots.insert(&key, Slot { request: digest, outcome: outcome.clone() });
                outcome
            }
        }
    };
    outcome.await
}

/// Starts a write, which continues without a client that waits for its outcome.
fn start(permit: OwnedSemaphorePermit, write: impl Future<Output = Outcome> + Send + 'static) -> Running {
    let task = tokio::spawn(async move {
        let _permit = permit;
        write.await
    });
    let outcome = async {
        task.await.unwrap_or_else(|_| {
            let detail = "codeloc failed to complete the write; read the config, and the daemon's log for the cause";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
        })
    };
    let running = outcome.boxed().shared();
    tokio::spawn(running.clone());
    running
}

/// Forgets the key of a write that failed or panicked, before its client gets the answer.
struct ForgetUnlessDone {
    idempotency: Arc<Idempotency>,
    key: String,
    done: bool,
}

impl ForgetUnlessDone {
    fn new(idempotency: &Arc<Idempotency>, key: &str) -> Self {
        Self { idempotency: Arc::clone(idempotency), key: key.to_owned(), done: false }
    }

    fn finish(mut self, outcome: &Outcome) {
        self.done = outcome.is_ok();
    }
}

impl Drop for ForgetUnlessDone {
    fn drop(&mut self) {
        if !self.done {
            lock(&self.idempotency.slots).forget(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(outcome: BoxFuture<'static, Outcome>) -> Slot {
        Slot { request: [0; 32], outcome: outcome.shared() }
    }

    async fn done() -> Slot {
        let slot = slot(std::future::ready(Ok(Written { commit: None, changed: true, config: None })).boxed());
        slot.outcome.clone().await.expect("a write that succeeded");
        slot
    }

    #[tokio::test]
    async fn a_forgotten_key_takes_no_place() {
        let mut slots = Slots::default();
        for _ in 0..2 * KEPT {
            slots.insert("failed", done().await);
            slots.forget("failed");
        }
        slots.insert("kept", done().await);
        assert_eq!((slots.by_key.len(), slots.order.len()), (1, 1));
    }

    #[tokio::test]
    async fn the_oldest_finished_write_is_forgotten_first() {
        let mut slots = Slots::default();
        slots.insert("running", slot(std::future::pending().boxed()));
        for number in 0..KEPT {
            slots.insert(&number.to_string(), done().await);
        }
        assert_eq!((slots.by_key.len(), slots.order.len()), (KEPT, KEPT));
        assert!(slots.by_key.contains_key("running") && !slots.by_key.contains_key("0"));
    }
}
