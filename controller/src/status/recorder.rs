//! One handle to record an event: in the list of events and in the metrics.

use super::events::{Events, NewEvent};
use super::metrics::Metrics;
use crate::runtime::Clock;

#[derive(Debug)]
pub struct Recorder {
    pub events: Events,
    pub metrics: Metrics,
    clock: Clock,
}

impl Recorder {
    pub fn new(clock: Clock) -> Self {
        Self { events: Events::new(clock.now()), metrics: Metrics::default(), clock }
    }

    /// Returns whether the event is new, not a repetition.
    pub fn record(&self, new_event: NewEvent) -> bool {
        self.metrics.count_event(new_event.reason);
        self.events.record(new_event, self.clock.now())
    }
}
