//! The last thousand events: what happened to which location, why, and from which commit.
//!
//! Guarantees: recording never waits for a reader; an event that repeats is counted, not stored again, even if other events come in
//! between. A failure that returns more than ten minutes after a recovery is a new event.

pub mod diff;
mod id;
mod reason;
mod topic;

use std::collections::VecDeque;
use std::sync::Mutex;

use codeloc_core::ids::Commit;
use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;

use crate::settings::Severity;

pub use id::EventId;
pub use reason::EventReason;

/// Events in memory; a restart loses them.
pub const KEPT: usize = 1000;
/// An equal event within this time after the last one counts as a repetition, even if the location was healthy in between.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Events by which a reader may be behind before it misses some.
const BACKLOG: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Different for every event, also of other processes. Events of one process are numbered after the `-`.
    #[schema(value_type = String)]
    pub id: EventId,
    pub severity: Severity,
    pub reason: EventReason,
    /// Absent if the event concerns the daemon as a whole.
    pub location: Option<String>,
    /// The commit of the location's repository, or of the config repository.
    #[schema(value_type = Option<String>)]
    pub commit: Option<Commit>,
    /// The message of the last occurrence.
    pub message: String,
    /// Time of the first occurrence.
    #[schema(value_type = String, format = DateTime)]
    pub first: Timestamp,
    /// Time of the last occurrence.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// Number of occurrences. An occurrence counts here if it came within ten minutes after the previous one. A later one counts here if
    /// the location had no other event in between; for a warning, if the location was not healthy in between.
    pub count: u32,
}

/// An event to record. [`Events`] adds number, time and count.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub reason: EventReason,
    pub location: Option<String>,
    pub commit: Option<Commit>,
    pub message: String,
    /// Text by which equal events are recognised; the message by default.
    topic: Option<String>,
}

impl NewEvent {
    pub fn of_daemon(reason: EventReason, message: impl Into<String>) -> Self {
        Self { reason, location: None, commit: None, message: message.into(), topic: None }
    }

    pub fn of(location: &LocationName, reason: EventReason, message: impl Into<String>) -> Self {
        Self { location: Some(location.to_string()), ..Self::of_daemon(reason, message) }
    }

    /// An event of a file that belongs to no location, by its path.
    pub fn of_file(path: &str, reason: EventReason, message: impl Into<String>) -> Self {
        Self { location: Some(path.to_owned()), ..Self::of_daemon(reason, message) }
    }

    /// Sets the topic, for a message that quotes a program whose output varies.
    #[must_use]
    pub fn about(self, topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..self }
    }

    /// Normal events are history: they are equal only if their texts are identical.
    fn topic(&self) -> String {
        let text = self.topic.as_ref().unwrap_or(&self.message);
        match self.reason.severity() {
            Severity::Normal => text.clone(),
            Severity::Warning => topic::without_variable_parts(text),
        }
    }

    #[must_use]
    pub fn from_commit(self, commit: Option<Commit>) -> Self {
        Self { commit, ..self }
    }
}

#[derive(Debug)]
pub struct Events {
    /// When the process started, in microseconds since 1970.
    process: i64,
    log: Mutex<Log>,
    sender: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Log {
    /// Events and their topics, in the order of the last occurrence.
    events: VecDeque<(Event, String)>,
    number: u64,
}

impl Log {
    /// Position of the event that `new_event` repeats.
    fn repeated(&self, new_event: &NewEvent, topic: &str, now: Timestamp) -> Option<usize> {
        let same_location = |event: &Event| event.location == new_event.location;
        let equal = |(event, known_topic): &(Event, String)| {
            same_location(event)
                && (event.reason, known_topic.as_str(), &event.commit) == (new_event.reason, topic, &new_event.commit)
        };
        let found = self.events.iter().rposition(equal)?;
        // Only a location has an event for the end of a failure.
        let is_failure = new_event.location.is_some() && new_event.reason.severity() == Severity::Warning;
        let is_end = |reason| matches!(reason, EventReason::Healthy | EventReason::Removed);
        let ends = |event: &Event| same_location(event) && (!is_failure || is_end(event.reason));
        let ended = self.events.iter().skip(found + 1).any(|(event, _)| ends(event));
        (!ended || now.duration_since(self.events[found].0.last) <= WINDOW).then_some(found)
    }
}

impl Events {
    /// For a process that started at this time.
    pub fn new(started: Timestamp) -> Self {
        Self { process: started.as_microsecond(), log: Mutex::default(), sender: broadcast::Sender::new(BACKLOG) }
    }

    /// Returns whether the event is new, not a repetition.
    pub fn record(&self, new_event: NewEvent, now: Timestamp) -> bool {
        let topic = new_event.topic();
        let mut log = lock(&self.log);
        if let Some(position) = log.repeated(&new_event, &topic, now)
            && let Some((mut event, topic)) = log.events.remove(position)
        {
            event.count = event.count.saturating_add(1);
            event.last = now;
            event.message = new_event.message;
            log.events.push_back((event, topic));
            return false;
        }
        log.number += 1;
        let event = Event {
            id: EventId { process: self.process, number: log.number },
            severity: new_event.reason.severity(),
            reason: new_event.reason,
            location: new_event.location,
            commit: new_event.commit,
            message: new_event.message,
            first: now,
            last: now,
            count: 1,
        };
        log.events.push_back((event.clone(), topic));
        if log.events.len() > KEPT {
            log.events.pop_front();
        }
        // Under the lock, so that readers get events in the order of their numbers. An error means that there is no reader.
        let _ = self.sender.send(event);
        drop(log);
        true
    }

    /// Whether an event came after the one with this id. Every event of this process came after those of other processes.
    pub fn is_after(&self, event: &Event, id: EventId) -> bool {
        id.process != self.process || event.id.number > id.number
    }

    /// Events that match `filter`, in the order of their last occurrence.
    pub fn list(&self, filter: impl Fn(&Event) -> bool) -> Vec<Event> {
        lock(&self.log).events.iter().map(|(event, _)| event).filter(|event| filter(event)).cloned().collect()
    }

    #[cfg(test)]
    pub fn subscribers(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Events from now on. A reader that falls too far behind gets the number of events that it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_repeated_event_is_counted_and_keeps_its_first_time() {
        let events = Events::new(at(0));
        let new_event = || NewEvent::of(&location_name("orders"), EventReason::StepFailed, "ecs:UpdateService: no");
        assert!(events.record(new_event(), at(1)));
        events.record(NewEvent::of(&location_name("billing"), EventReason::Healthy, "well"), at(2));
        assert!(!events.record(new_event(), at(9)));
        let kept = events.list(|event| event.location.as_deref() == Some("orders"));
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].count, kept[0].first, kept[0].last), (2, at(1), at(9)));
    }

    #[test]
    fn alternating_warnings_are_counted_separately() {
        let events = Events::new(at(0));
        for second in 0..4 {
            let reason = if second % 2 == 0 { EventReason::ImageFailed } else { EventReason::Degraded };
            let message = format!("the registry did not answer within {second}.5s");
            assert_eq!(events.record(NewEvent::of(&location_name("orders"), reason, message), at(second)), second < 2);
        }
        let kept = events.list(|_| true);
        let found: Vec<_> = kept.iter().map(|event| (event.reason, event.count, event.first, event.last)).collect();
        assert_eq!(found, [(EventReason::ImageFailed, 2, at(0), at(2)), (EventReason::Degraded, 2, at(1), at(3))]);
        assert!(kept[1].message.ends_with("3.5s"), "{kept:?}");
    }

    #[test]
    fn events_are_in_the_order_of_their_last_occurrence() {
        let events = Events::new(at(0));
        for (second, reason) in
            [EventReason::ImageFailed, EventReason::Degraded, EventReason::ImageFailed].into_iter().enumerate()
        {
            events.record(NewEvent::of(&location_name("orders"), reason, "no"), at(i64::try_from(second).unwrap()));
        }
        let reasons: Vec<_> = events.list(|_| true).into_iter().map(|event| event.reason).collect();
        assert_eq!(reasons, [EventReason::Degraded, EventReason::ImageFailed]);
    }

    #[test]
    fn warnings_that_alternate_slowly_are_counted_until_a_recovery() {
        let events = Events::new(at(0));
        // Each attempt to build takes half an hour.
        for attempt in 0..5 {
            for reason in [EventReason::ImageFailed, EventReason::Degraded] {
                events.record(NewEvent::of(&location_name("orders"), reason, "no"), at(attempt * 1800));
            }
            events.record(NewEvent::of(&location_name("billing"), EventReason::Healthy, "well"), at(attempt * 1800));
        }
        let warnings = |event: &Event| event.severity == Severity::Warning;
        let counts: Vec<_> = events.list(warnings).into_iter().map(|event| (event.reason, event.count)).collect();
        assert_eq!(counts, [(EventReason::ImageFailed, 5), (EventReason::Degraded, 5)]);
        events.record(NewEvent::of(&location_name("orders"), EventReason::Healthy, "well"), at(7300));
        assert!(events.record(NewEvent::of(&location_name("orders"), EventReason::ImageFailed, "no"), at(9000)));
    }

    #[test]
    fn a_recovery_of_ten_minutes_separates_equal_warnings() {
        let events = Events::new(at(0));
        let record = |reason, second| {
            events.record(NewEvent::of(&location_name("orders"), reason, "no"), at(second));
        };
        // The location is healthy for a minute, and later for eleven minutes.
        for second in [0, 60, 120, 900] {
            record(EventReason::Degraded, second);
            record(EventReason::Healthy, second + 5);
        }
        let counts: Vec<_> = events.list(|_| true).into_iter().map(|event| (event.reason, event.count)).collect();
        let (degraded, healthy) = (EventReason::Degraded, EventReason::Healthy);
        assert_eq!(counts, [(degraded, 3), (healthy, 3), (degraded, 1), (healthy, 1)]);
    }

    #[test]
    fn a_late_repetition_of_the_daemon_is_a_new_event() {
        let events = Events::new(at(0));
        let failed = || NewEvent::of_daemon(EventReason::SweepFailed, "no");
        events.record(failed(), at(0));
        assert!(!events.record(failed(), at(700)));
        events.record(NewEvent::of_daemon(EventReason::ConfigsRead, "20 configs"), at(701));
        assert!(events.record(failed(), at(1400)));
    }

    #[test]
    fn a_repetition_after_the_window_is_a_new_event() {
        let events = Events::new(at(0));
        events.record(NewEvent::of(&location_name("orders"), EventReason::Degraded, "no"), at(0));
        events.record(NewEvent::of(&location_name("orders"), EventReason::Healthy, "well"), at(5));
        assert!(events.record(NewEvent::of(&location_name("orders"), EventReason::Degraded, "no"), at(606)));
    }

    #[test]
    fn events_of_different_commits_or_locations_differ() {
        let events = Events::new(at(0));
        let new_event = |name: &str, commit: &str| {
            NewEvent::of(&location_name(name), EventReason::ImageFailed, "no").from_commit(Some(Commit::from(commit)))
        };
        for new_event in [new_event("orders", "a"), new_event("orders", "b"), new_event("billing", "a")] {
            assert!(events.record(new_event, at(1)));
        }
        assert!(!events.record(new_event("orders", "a"), at(2)));
    }

    #[test]
    fn normal_events_with_different_messages_differ() {
        let events = Events::new(at(0));
        for configs in [20, 21] {
            assert!(events.record(NewEvent::of_daemon(EventReason::ConfigsRead, format!("{configs} configs")), at(1)));
        }
    }

    #[test]
    fn events_with_the_same_topic_are_equal() {
        let events = Events::new(at(0));
        for quoted in ["<html>xqzv", "<html>pfft"] {
            let new_event = NewEvent::of_daemon(EventReason::ReloadFailed, format!("the answer is {quoted}"));
            events.record(new_event.about("the answer"), at(1));
        }
        assert_eq!(events.list(|_| true).len(), 1);
    }

    #[test]
    fn only_the_last_thousand_events_are_kept() {
        let events = Events::new(at(0));
        for number in 0..1005 {
            events.record(NewEvent::of_daemon(EventReason::ConfigsRead, format!("{number}")), at(number));
        }
        let kept = events.list(|_| true);
        assert_eq!((kept.len(), kept[0].message.as_str(), kept[999].id.number), (1000, "5", 1005));
    }

    #[test]
    fn events_of_another_process_have_other_ids() {
        let (before, after) = (Events::new(at(1)), Events::new(at(2)));
        for events in [&before, &after] {
            for message in ["one", "two"] {
                events.record(NewEvent::of_daemon(EventReason::ConfigsRead, message), at(3));
            }
        }
        let ids = |events: &Events| events.list(|_| true).into_iter().map(|event| event.id).collect::<Vec<_>>();
        assert_eq!(ids(&before)[1], EventId { process: 1_000_000, number: 2 });
        assert_eq!(ids(&after)[1], EventId { process: 2_000_000, number: 2 });
        let count_after = |id| after.list(|event| after.is_after(event, id)).len();
        assert_eq!((count_after(ids(&after)[0]), count_after(ids(&after)[1]), count_after(ids(&before)[1])), (1, 0, 2));
    }
}
