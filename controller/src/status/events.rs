//! What happened, to whom, why, and from which commit: the last thousand, for the API, the command line and webhooks.
//!
//! Guarantees: nothing that records an event waits for anybody who reads them; one that repeats is counted, not stored again, and neither
//! are several that repeat in turns.

pub mod diff;
mod topic;

use std::collections::VecDeque;
use std::sync::Mutex;

use codeloc_core::lock::lock;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// Events that are kept; a restart forgets them.
pub const KEPT: usize = 1000;
/// For how long after an event an equal one is the same once more, whatever else happened to its location between.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Events that a reader may be behind before it misses some.
const BEHIND: usize = 256;

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Normal,
    #[default]
    Warning,
}

/// Why there is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, JsonSchema)]
pub enum EventReason {
    /// A new commit of the config repository, or a changed folder of configs, is in force.
    ConfigsRead,
    /// The configs cannot be read; the last good ones stay in force.
    ConfigsUnreadable,
    /// A config does not pass; its location stays as it is.
    ConfigInvalid,
    /// Somebody wrote to the config repository through the API.
    ConfigWritten,
    /// The branch names another commit than before.
    CommitObserved,
    ImageReady,
    ImageFailed,
    /// A change was made in AWS or in `workspace.yaml`.
    Applied,
    /// Live state differs from what is wanted, and nobody committed anything.
    Drifted,
    /// The location is as wanted, and well.
    Healthy,
    /// The location is not well.
    Degraded,
    /// A revision did not come up; ECS keeps the one before.
    RolloutFailed,
    /// A step failed; it is tried again.
    StepFailed,
    /// The same changes came back after they were applied.
    NotConverging,
    /// All of a location without a config is gone.
    Removed,
    /// More would be deleted at once than is done unasked.
    PruneBlocked,
    /// This process may change things.
    LeaseAcquired,
    /// This process may not change things any more, or not yet.
    LeaseLost,
    /// AWS could not be read whole; nothing is done on half of an observation.
    SweepFailed,
    /// The webserver did not load `workspace.yaml`; it is asked again until it has.
    ReloadFailed,
}

impl EventReason {
    pub const ALL: [Self; 20] = [
        Self::ConfigsRead,
        Self::ConfigsUnreadable,
        Self::ConfigInvalid,
        Self::ConfigWritten,
        Self::CommitObserved,
        Self::ImageReady,
        Self::ImageFailed,
        Self::Applied,
        Self::Drifted,
        Self::Healthy,
        Self::Degraded,
        Self::RolloutFailed,
        Self::StepFailed,
        Self::NotConverging,
        Self::Removed,
        Self::PruneBlocked,
        Self::LeaseAcquired,
        Self::LeaseLost,
        Self::SweepFailed,
        Self::ReloadFailed,
    ];

    /// Of the metric that counts events: reason and severity.
    pub fn labels(self) -> [String; 2] {
        [format!("{self:?}"), format!("{:?}", self.severity()).to_lowercase()]
    }

    pub fn severity(self) -> Severity {
        match self {
            Self::ConfigsRead
            | Self::ConfigWritten
            | Self::CommitObserved
            | Self::ImageReady
            | Self::Applied
            | Self::Healthy
            | Self::Removed
            | Self::LeaseAcquired => Severity::Normal,
            Self::ConfigsUnreadable
            | Self::ConfigInvalid
            | Self::ImageFailed
            | Self::Drifted
            | Self::Degraded
            | Self::RolloutFailed
            | Self::StepFailed
            | Self::NotConverging
            | Self::PruneBlocked
            | Self::LeaseLost
            | Self::SweepFailed
            | Self::ReloadFailed => Severity::Warning,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rises by one with each event of this process.
    pub number: u64,
    pub severity: Severity,
    pub reason: EventReason,
    /// Absent where it concerns the daemon as a whole.
    pub location: Option<String>,
    /// The commit of the location's branch, or of the config repository.
    pub commit: Option<String>,
    /// Of one that repeats: as it was the last time.
    pub message: String,
    /// When it happened for the first time.
    #[schema(value_type = String, format = DateTime)]
    pub first: Timestamp,
    /// When it happened for the last time.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// How often, each time within ten minutes after the last or without another event of the same location between.
    pub count: u32,
}

/// What is recorded; number, time and count come from the log of events.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub reason: EventReason,
    pub location: Option<String>,
    pub commit: Option<String>,
    pub message: String,
    /// What two equal events have in common; the message, where this is absent.
    topic: Option<String>,
}

impl NewEvent {
    pub fn of_daemon(reason: EventReason, message: impl Into<String>) -> Self {
        Self { reason, location: None, commit: None, message: message.into(), topic: None }
    }

    pub fn of(location: &str, reason: EventReason, message: impl Into<String>) -> Self {
        Self { location: Some(location.to_owned()), ..Self::of_daemon(reason, message) }
    }

    /// For a message that quotes another program, whose words differ each time.
    #[must_use]
    pub fn about(self, topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..self }
    }

    /// Normal events are history: two of them are equal word for word or not at all.
    fn topic(&self) -> String {
        let told = self.topic.as_ref().unwrap_or(&self.message);
        match self.reason.severity() {
            Severity::Normal => told.clone(),
            Severity::Warning => topic::of(told),
        }
    }

    #[must_use]
    pub fn from_commit(self, commit: Option<String>) -> Self {
        Self { commit, ..self }
    }
}

#[derive(Debug)]
pub struct Events {
    kept: Mutex<Kept>,
    sender: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Each with its topic; the one that happened last is the last.
    events: VecDeque<(Event, String)>,
    number: u64,
}

impl Kept {
    /// The event that this is once more.
    fn repeated(&self, new_event: &NewEvent, topic: &str, now: Timestamp) -> Option<usize> {
        let of_location = |event: &Event| event.location == new_event.location;
        let last = self.events.iter().rposition(|(event, _)| of_location(event))?;
        let equal = |(event, known): &(Event, String)| {
            of_location(event)
                && (event.reason, known.as_str(), &event.commit) == (new_event.reason, topic, &new_event.commit)
        };
        let found = self.events.iter().rposition(equal)?;
        (found == last || now.duration_since(self.events[found].0.last) <= WINDOW).then_some(found)
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), sender: broadcast::Sender::new(BEHIND) }
    }
}

impl Events {
    /// Whether it is news, rather than an event of its location once more.
    pub fn record(&self, new_event: NewEvent, now: Timestamp) -> bool {
        let topic = new_event.topic();
        let mut kept = lock(&self.kept);
        if let Some(position) = kept.repeated(&new_event, &topic, now)
            && let Some((mut event, topic)) = kept.events.remove(position)
        {
            event.count = event.count.saturating_add(1);
            event.last = now;
            event.message = new_event.message;
            kept.events.push_back((event, topic));
            return false;
        }
        kept.number += 1;
        let event = Event {
            number: kept.number,
            severity: new_event.reason.severity(),
            reason: new_event.reason,
            location: new_event.location,
            commit: new_event.commit,
            message: new_event.message,
            first: now,
            last: now,
            count: 1,
        };
        kept.events.push_back((event.clone(), topic));
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        drop(kept);
        // Nobody may be listening.
        let _ = self.sender.send(event);
        true
    }

    /// Those that `which` lets through. The one that happened last is the last.
    pub fn list(&self, which: impl Fn(&Event) -> bool) -> Vec<Event> {
        lock(&self.kept).events.iter().map(|(event, _)| event).filter(|event| which(event)).cloned().collect()
    }

    /// Those who listen at present.
    #[cfg(test)]
    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// What happens from now on. Who falls too far behind misses events, and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_event_that_repeats_is_counted_and_keeps_the_time_of_its_beginning() {
        let events = Events::default();
        let new_event = || NewEvent::of("orders", EventReason::StepFailed, "ecs:UpdateService: no");
        assert!(events.record(new_event(), at(1)));
        events.record(NewEvent::of("billing", EventReason::Healthy, "well"), at(2));
        assert!(!events.record(new_event(), at(9)));
        let kept = events.list(|event| event.location.as_deref() == Some("orders"));
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].count, kept[0].first, kept[0].last), (2, at(1), at(9)));
    }

    #[test]
    fn warnings_that_repeat_in_turns_are_counted_each() {
        let events = Events::default();
        for second in 0..4 {
            let reason = if second % 2 == 0 { EventReason::ImageFailed } else { EventReason::Degraded };
            let message = format!("the registry did not answer within {second}.5s");
            assert_eq!(events.record(NewEvent::of("orders", reason, message), at(second)), second < 2);
        }
        let kept = events.list(|_| true);
        let told: Vec<_> = kept.iter().map(|event| (event.reason, event.count, event.first, event.last)).collect();
        assert_eq!(told, [(EventReason::ImageFailed, 2, at(0), at(2)), (EventReason::Degraded, 2, at(1), at(3))]);
        assert!(kept[1].message.ends_with("3.5s"), "{kept:?}");
    }

    #[test]
    fn the_event_that_happened_last_is_the_last() {
        let events = Events::default();
        for (second, reason) in
            [EventReason::ImageFailed, EventReason::Degraded, EventReason::ImageFailed].into_iter().enumerate()
        {
            events.record(NewEvent::of("orders", reason, "no"), at(i64::try_from(second).unwrap()));
        }
        let reasons: Vec<_> = events.list(|_| true).into_iter().map(|event| event.reason).collect();
        assert_eq!(reasons, [EventReason::Degraded, EventReason::ImageFailed]);
    }

    #[test]
    fn an_event_after_the_window_and_others_is_news() {
        let events = Events::default();
        events.record(NewEvent::of("orders", EventReason::Degraded, "no"), at(0));
        events.record(NewEvent::of("orders", EventReason::Healthy, "well"), at(5));
        assert!(events.record(NewEvent::of("orders", EventReason::Degraded, "no"), at(606)));
    }

    #[test]
    fn equal_events_of_two_commits_or_locations_are_two() {
        let events = Events::default();
        let new_event = |name: &str, commit: &str| {
            NewEvent::of(name, EventReason::ImageFailed, "no").from_commit(Some(commit.to_owned()))
        };
        for new_event in [new_event("orders", "a"), new_event("orders", "b"), new_event("billing", "a")] {
            assert!(events.record(new_event, at(1)));
        }
        assert!(!events.record(new_event("orders", "a"), at(2)));
    }

    #[test]
    fn what_is_normal_is_counted_only_word_for_word() {
        let events = Events::default();
        for configs in [20, 21] {
            assert!(events.record(NewEvent::of_daemon(EventReason::ConfigsRead, format!("{configs} configs")), at(1)));
        }
    }

    #[test]
    fn quoted_words_do_not_make_another_event() {
        let events = Events::default();
        for quoted in ["<html>xqzv", "<html>pfft"] {
            let new_event = NewEvent::of_daemon(EventReason::ReloadFailed, format!("the answer is {quoted}"));
            events.record(new_event.about("the answer"), at(1));
        }
        assert_eq!(events.list(|_| true).len(), 1);
    }

    #[test]
    fn a_thousand_events_are_kept_and_the_oldest_goes_first() {
        let events = Events::default();
        for number in 0..1005 {
            events.record(NewEvent::of_daemon(EventReason::ConfigsRead, format!("{number}")), at(number));
        }
        let kept = events.list(|_| true);
        assert_eq!((kept.len(), kept[0].message.as_str(), kept[999].number), (1000, "5", 1005));
    }

    #[test]
    fn every_reason_is_in_the_list_of_reasons() {
        let schema = schemars::schema_for!(EventReason).to_value();
        let described = schema["oneOf"].as_array().into_iter().flatten().count();
        let plain = schema["oneOf"].as_array().into_iter().flatten();
        let named: usize = plain.map(|one| one["enum"].as_array().map_or(0, Vec::len)).sum();
        let constants = schema["oneOf"].as_array().into_iter().flatten().filter(|one| one["const"].is_string()).count();
        assert!(described > 0);
        assert_eq!(named + constants, EventReason::ALL.len());
    }
}
