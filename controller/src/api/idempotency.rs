//! A client can repeat a write whose answer it lost: with the same `Idempotency-Key`, codeloc performs it once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode};
use codeloc_core::lock::lock;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use super::{App, Written};

/// Keys in memory; a restart loses them.
const KEPT: usize = 1000;
const MAX_KEY_LENGTH: usize = 200;

/// The outcome of a request.
type Outcome = Result<Written, Problem>;

#[derive(Debug, Default)]
pub(super) struct Idempotency {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<String, Slot>,
    order: VecDeque<String>,
}

#[derive(Clone, Debug)]
struct Slot {
    request: [u8; 32],
    outcome: Arc<tokio::sync::OnceCell<Outcome>>,
}

/// Runs `write`, or returns the outcome of an earlier request with the same key.
pub(super) async fn idempotent(
    app: &App,
    headers: &HeaderMap,
    request: &[&str],
    write: impl Future<Output = Outcome>,
) -> Outcome {
    let Some(key) = headers.get("idempotency-key") else { return write.await };
    let key = key.to_str().unwrap_or_default().to_owned();
    if key.is_empty() || key.len() > MAX_KEY_LENGTH {
        let detail = format!("the Idempotency-Key is invalid; use 1 to {MAX_KEY_LENGTH} visible ASCII characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let digest: [u8; 32] = Sha256::digest(request.join("\0")).into();
    let slot = {
        let mut slots = lock(&app.idempotency.slots);
        let slot = slots.by_key.get(&key).cloned();
        slot.unwrap_or_else(|| {
            let slot = Slot { request: digest, outcome: Arc::default() };
            slots.by_key.insert(key.clone(), slot.clone());
            slots.order.push_back(key.clone());
            if slots.order.len() > KEPT
                && let Some(oldest) = slots.order.pop_front()
            {
                slots.by_key.remove(&oldest);
            }
            slot
        })
    };
    if slot.request != digest {
        let detail = "an earlier, different request used this Idempotency-Key; use a new key for each request";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let outcome = slot.outcome.get_or_init(|| write).await.clone();
    // A request that failed upstream may succeed at the next attempt.
    if outcome.as_ref().is_err_and(|problem| problem.status >= 500) {
        lock(&app.idempotency.slots).by_key.remove(&key);
    }
    outcome
}
