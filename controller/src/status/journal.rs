//! Where everything that happens is told: the events and the metrics, under one handle.

use super::events::{Events, News};
use super::metrics::Metrics;
use crate::reconcile::Clock;

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

    /// Whether it is news, rather than the last event of its location once more.
    pub fn record(&self, news: News) -> bool {
        let (reason, severity) = (format!("{:?}", news.reason), format!("{:?}", news.reason.severity()).to_lowercase());
        self.metrics.events.with_label_values(&[&reason, &severity]).inc();
        self.events.record(news, self.clock.now())
    }
}
