//! Where everything that happens is told: the events and the metrics, under one handle.

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
        Self { events: Events::default(), metrics: Metrics::default(), clock }
    }

    /// Whether it is news, rather than an event of its location once more.
    pub fn record(&self, new_event: NewEvent) -> bool {
        self.metrics.events.with_label_values(&new_event.reason.labels()).inc();
        self.events.record(new_event, self.clock.now())
    }
}
