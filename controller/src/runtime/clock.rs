//! Dates that follow tokio's clock, so that under a paused clock they move with virtual time.

use jiff::Timestamp;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that shows `start` now.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, started: Instant::now() }
    }

    /// The machine's date, read this once.
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's date comes in")]
    pub fn of_this_machine() -> Self {
        Self::starting_at(Timestamp::now())
    }

    /// When the clock began: with the process.
    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// The date of an instant of this process.
    pub fn at(&self, moment: Instant) -> Timestamp {
        let passed = moment.saturating_duration_since(self.started);
        let passed = jiff::SignedDuration::try_from(passed).unwrap_or(jiff::SignedDuration::MAX);
        self.start.saturating_add(passed).unwrap_or(self.start)
    }
}
