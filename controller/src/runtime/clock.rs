//! Dates that follow tokio's clock: with a paused clock they move with virtual time.

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

    /// Reads the machine's date once.
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the machine's date")]
    pub fn of_this_machine() -> Self {
        Self::starting_at(Timestamp::now())
    }

    /// When the clock started, which is when the process started.
    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// The date of an instant of this process.
    pub fn at(&self, moment: Instant) -> Timestamp {
        let elapsed = moment.saturating_duration_since(self.started);
        let elapsed = jiff::SignedDuration::try_from(elapsed).unwrap_or(jiff::SignedDuration::MAX);
        self.start.saturating_add(elapsed).unwrap_or(self.start)
    }
}
