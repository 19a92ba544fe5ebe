//! Where everything that happens is told: the events and the metrics, under one handle.

use super::events::{Events, News};
use super::metrics::Metrics;
use crate::runtime::Clock;

#[derive(Debug)]
pub struct Journal {
    pub events: Events,
    pub metrics: Metrics,
    clock: Clock,
}

impl Journal {
    pub fn new(clock: Clock) -> Self {
        Self { events: Events::default(), metrics: Metrics::default(), clock }
    }

    /// Whether it is news, rather than an event of its location once more.
    pub fn record(&self, news: News) -> bool {
        self.metrics.events.with_label_values(&news.reason.labels()).inc();
        self.events.record(news, self.clock.now())
    }
}
