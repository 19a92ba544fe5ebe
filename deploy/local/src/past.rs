//! What the cloud was a moment ago: AWS's reads do not see every write at once.

use std::collections::VecDeque;
use std::time::Duration;

use crate::services::autoscaling::AutoScaling;
use crate::services::cloudmap::CloudMap;
use crate::services::ecr::Ecr;
use crate::services::ecs::Ecs;
use crate::services::iam::Iam;
use crate::services::logs::Logs;
use crate::time::Time;

/// What stale reads read from.
#[derive(Clone)]
pub struct State {
    pub autoscaling: AutoScaling,
    pub cloudmap: CloudMap,
    pub ecr: Ecr,
    pub ecs: Ecs,
    pub iam: Iam,
    pub logs: Logs,
}

#[derive(Default)]
pub struct Past {
    window: Duration,
    rng: Option<fastrand::Rng>,
    /// States with the time until which they held, oldest first.
    states: VecDeque<(Time, State)>,
}

impl Past {
    pub fn new(window: Duration, seed: &[u8; 32]) -> Self {
        let mut number = [0; 8];
        number.copy_from_slice(&seed[..8]);
        let rng = (!window.is_zero()).then(|| fastrand::Rng::with_seed(u64::from_le_bytes(number)));
        Self { window, rng, states: VecDeque::new() }
    }

    pub fn remembers(&self) -> bool {
        self.rng.is_some()
    }

    /// To be called before a change.
    pub fn keep(&mut self, now: Time, state: State) {
        while self.states.front().is_some_and(|(until, _)| now.since(*until) > self.window) {
            self.states.pop_front();
        }
        self.states.push_back((now, state));
    }

    /// The state that one read sees, where that is not the present one: half of them see the present.
    pub fn look_back(&mut self, now: Time) -> Option<State> {
        let rng = self.rng.as_mut()?;
        if rng.bool() {
            return None;
        }
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let lag = Duration::from_millis(rng.u64(0..=window));
        let then = self.states.iter().find(|(until, _)| now.since(*until) < lag)?;
        Some(then.1.clone())
    }
}
