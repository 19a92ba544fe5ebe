//! The rollout of a service from one revision to the next: pure decisions over its deployments and tasks.
//!
//! Guarantees: stopping old tasks keeps the healthy minimum of serving tasks, and starting tasks keeps the maximum. A deployment is
//! COMPLETED when the desired number of its tasks serve and no task of another deployment is left. The circuit breaker fails a
//! deployment after the documented number of failed tasks in a row, and rolls back once, to the last completed revision.
//!
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html>

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::time::Time;

/// ECS keeps this many events of a service.
const KEPT_EVENTS: usize = 100;
/// ECS lists the deployments of the last 90 days; localcloud keeps this many.
const KEPT_RECORDS: usize = 100;
/// Bounds of the breaker's threshold, which is half the desired count.
const BREAKER_FAILURES: (usize, usize) = (3, 200);
/// The first pause before a failed task is replaced; it doubles with every failure in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What a deployment rolls out: the ARN of a task definition, and the service settings for new tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    pub task_definition: String,
    pub settings: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutState {
    InProgress,
    Completed,
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deployment {
    pub id: String,
    pub revision: Revision,
    pub state: RolloutState,
    pub reason: String,
    /// Failures in a row; a serving task resets it.
    pub failed_tasks: usize,
    pub created_at: Time,
    pub updated_at: Time,
    is_rollback: bool,
    serving: usize,
    /// The earliest time to start a task.
    not_before: Time,
}

/// What `ListServiceDeployments` says of a deployment, also after ECS has dropped it from the service. A rollback has no record of its own:
/// it is part of the record of the deployment that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub task_definition: String,
    pub status: RecordStatus,
    pub created_at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordStatus {
    InProgress,
    Successful,
    /// Another deployment replaced it, or it failed without a rollback.
    Stopped,
    RollbackInProgress,
    RollbackSuccessful,
    RollbackFailed,
}

impl RecordStatus {
    fn has_ended(self) -> bool {
        !matches!(self, Self::InProgress | Self::RollbackInProgress)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    pub id: u64,
    pub at: Time,
    pub message: String,
}

/// The part of a service that its scheduler needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollout {
    pub service: String,
    pub desired: usize,
    /// Percent of the desired count: rounded up for the minimum, down for the maximum.
    pub minimum_healthy_percent: usize,
    pub maximum_percent: usize,
    /// Whether the circuit breaker rolls back; `None` without a breaker.
    pub breaker: Option<bool>,
    /// The primary deployment is the first.
    pub deployments: Vec<Deployment>,
    /// The target of a rollback.
    pub last_completed: Option<Revision>,
    pub draining: bool,
    /// Newest first.
    #[serde(default)]
    pub records: VecDeque<Record>,
    /// Newest first.
    pub events: VecDeque<Event>,
    #[serde(alias = "told")]
    last_event: u64,
    steady: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not running yet, or not healthy yet.
    Starting,
    Serving,
    /// Stopping.
    Ending,
}

/// A task of the service that has not stopped.
#[derive(Clone, Debug)]
pub struct Member {
    pub arn: String,
    pub deployment: String,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Launch { deployment: String, count: usize },
    Stop { arn: String, reason: String },
}

impl Rollout {
    pub fn new(service: &str, desired: usize) -> Self {
        Self {
            service: service.to_owned(),
            desired,
            minimum_healthy_percent: 100,
            maximum_percent: 200,
            breaker: None,
            deployments: Vec::new(),
            last_completed: None,
            draining: false,
            records: VecDeque::new(),
            events: VecDeque::new(),
            last_event: 0,
            steady: false,
        }
    }

    pub fn primary(&self) -> Option<&Deployment> {
        self.deployments.first()
    }

    /// Makes `revision` the primary deployment.
    pub fn start(&mut self, id: String, revision: Revision, now: Time) {
        let reason = format!("ECS deployment {id} in progress.");
        self.end_record(RecordStatus::Stopped);
        let task_definition = revision.task_definition.clone();
        let status = RecordStatus::InProgress;
        self.records.push_front(Record { id: id.clone(), task_definition, status, created_at: now });
        self.records.truncate(KEPT_RECORDS);
        self.push(id, revision, reason, false, now);
    }

    /// Sets the status of the newest record, unless that deployment has ended.
    fn end_record(&mut self, status: RecordStatus) {
        if let Some(newest) = self.records.front_mut().filter(|record| !record.status.has_ended()) {
            newest.status = status;
        }
    }

    fn push(&mut self, id: String, revision: Revision, reason: String, is_rollback: bool, now: Time) {
        let deployment = Deployment {
            id,
            revision,
            state: RolloutState::InProgress,
            reason,
            failed_tasks: 0,
            created_at: now,
            updated_at: now,
            is_rollback,
            serving: 0,
            not_before: now,
        };
        self.deployments.insert(0, deployment);
        self.steady = false;
    }

    /// Counts a task of `deployment` that ended by itself or never became healthy. `fresh_id` names the rollback, if one starts.
    pub fn task_failed(&mut self, deployment: &str, fresh_id: String, now: Time) {
        let breaker = self.breaker;
        let threshold = self.desired.div_ceil(2).clamp(BREAKER_FAILURES.0, BREAKER_FAILURES.1);
        let Some(failed) = self.deployments.iter_mut().find(|candidate| candidate.id == deployment) else {
            return;
        };
        failed.failed_tasks += 1;
        failed.not_before = now + pause(failed.failed_tasks);
        let in_progress = failed.state == RolloutState::InProgress;
        let is_primary = self.primary().is_some_and(|primary| primary.id == deployment);
        let count = self.deployments.iter().find(|candidate| candidate.id == deployment).map_or(0, |d| d.failed_tasks);
        match breaker {
            Some(rollback) if is_primary && in_progress && count >= threshold => {
                self.fail(rollback, fresh_id, now);
            }
            None if count == threshold => {
                self.add_event("is unable to consistently start tasks successfully.", now);
            }
            _ => {}
        }
    }

    fn fail(&mut self, rollback: bool, fresh_id: String, now: Time) {
        let Some(primary) = self.deployments.first_mut() else {
            return;
        };
        primary.state = RolloutState::Failed;
        "ECS deployment circuit breaker: tasks failed to start.".clone_into(&mut primary.reason);
        primary.updated_at = now;
        let (id, may_roll_back) = (primary.id.clone(), rollback && !primary.is_rollback);
        let was_rollback = primary.is_rollback;
        self.add_event(&format!("(deployment {id}) deployment failed: tasks failed to start."), now);
        if let Some(revision) = self.last_completed.clone().filter(|_| may_roll_back) {
            self.add_event(&format!("rolling back to deployment {fresh_id}."), now);
            let reason = format!("ECS deployment circuit breaker: rolling back to deploymentId {fresh_id}.");
            self.end_record(RecordStatus::RollbackInProgress);
            self.push(fresh_id, revision, reason, true, now);
        } else {
            self.end_record(if was_rollback { RecordStatus::RollbackFailed } else { RecordStatus::Stopped });
        }
    }

    /// The next actions, given every task that has not stopped.
    pub fn step(&mut self, members: &[Member], now: Time) -> Vec<Action> {
        let Some(primary) = self.deployments.first_mut() else {
            return Vec::new();
        };
        let id = primary.id.clone();
        let stop = |member: &Member| Action::Stop {
            arn: member.arn.clone(),
            reason: format!("Scaling activity initiated by (deployment {id})"),
        };
        let live: Vec<&Member> = members.iter().filter(|member| member.phase != Phase::Ending).collect();
        if self.draining {
            return live.into_iter().map(stop).collect();
        }
        let (mut own, mut old): (Vec<&Member>, Vec<&Member>) = live.iter().partition(|member| member.deployment == id);
        let serving = own.iter().filter(|member| member.phase == Phase::Serving).count();
        if serving > primary.serving {
            primary.failed_tasks = 0;
        }
        primary.serving = serving;
        if primary.state == RolloutState::Failed {
            return Vec::new();
        }

        let mut actions = Vec::new();
        let minimum = (self.desired * self.minimum_healthy_percent).div_ceil(100);
        let maximum = self.desired * self.maximum_percent / 100;
        // Stop serving tasks last, and younger tasks first.
        own.sort_by_key(|member| Reverse(member.phase == Phase::Serving));
        actions.extend(own.iter().skip(self.desired).map(|member| stop(member)));
        let missing = self.desired.saturating_sub(own.len());
        let room = maximum.saturating_sub(own.len().min(self.desired) + old.len());
        if missing.min(room) > 0 && now >= primary.not_before {
            actions.push(Action::Launch { deployment: id.clone(), count: missing.min(room) });
        }
        old.sort_by_key(|member| member.phase == Phase::Serving);
        let old_serving = old.iter().filter(|member| member.phase == Phase::Serving).count();
        let mut healthy = serving.min(self.desired) + old_serving;
        for member in old {
            if member.phase == Phase::Starting {
                actions.push(stop(member));
            } else if healthy > minimum {
                healthy -= 1;
                actions.push(stop(member));
            }
        }

        let alone = members.iter().all(|member| member.deployment == id);
        let steady = alone && serving == self.desired && own.len() == self.desired;
        if steady {
            self.settle(now);
        }
        self.steady = steady;
        actions
    }

    fn settle(&mut self, now: Time) {
        let Some(primary) = self.deployments.first_mut() else {
            return;
        };
        let id = primary.id.clone();
        if primary.state == RolloutState::InProgress {
            primary.state = RolloutState::Completed;
            primary.updated_at = now;
            // Keep the reason of a rollback readable.
            if !primary.is_rollback {
                primary.reason = format!("ECS deployment {id} completed.");
            }
            self.last_completed = Some(primary.revision.clone());
            let status = if primary.is_rollback { RecordStatus::RollbackSuccessful } else { RecordStatus::Successful };
            self.end_record(status);
            self.deployments.truncate(1);
            self.add_event(&format!("(deployment {id}) deployment completed."), now);
        }
        if !self.steady {
            self.add_event("has reached a steady state.", now);
        }
    }

    /// The end of the pause after failed tasks, if tasks are missing.
    pub fn due(&self, members: &[Member], now: Time) -> Option<Time> {
        let primary = self.primary().filter(|primary| primary.state != RolloutState::Failed && !self.draining)?;
        let own = members.iter().filter(|member| member.deployment == primary.id && member.phase != Phase::Ending);
        (own.count() < self.desired && primary.not_before > now).then_some(primary.not_before)
    }

    /// Adds an event with the prefix that ECS uses.
    pub fn add_event(&mut self, message: &str, now: Time) {
        self.last_event += 1;
        let message = format!("(service {}) {message}", self.service);
        self.events.push_front(Event { id: self.last_event, at: now, message });
        self.events.truncate(KEPT_EVENTS);
    }
}

fn pause(failures: usize) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_millis(1_000_000);

    fn revision(name: &str) -> Revision {
        Revision { task_definition: name.to_owned(), settings: Map::new() }
    }

    fn member(arn: &str, deployment: &str, phase: Phase) -> Member {
        Member { arn: arn.to_owned(), deployment: deployment.to_owned(), phase }
    }

    fn launch(deployment: &str, count: usize) -> Action {
        Action::Launch { deployment: deployment.to_owned(), count }
    }

    fn stopped(actions: &[Action]) -> Vec<&str> {
        let mut arns = Vec::new();
        for action in actions {
            if let Action::Stop { arn, .. } = action {
                arns.push(arn.as_str());
            }
        }
        arns
    }

    /// A service whose first deployment `one` is completed with the given tasks.
    fn completed(desired: usize) -> (Rollout, Vec<Member>) {
        let mut rollout = Rollout::new("s", desired);
        rollout.start("one".to_owned(), revision("v1"), START);
        let members: Vec<Member> =
            (0..desired).map(|index| member(&format!("a{index}"), "one", Phase::Serving)).collect();
        assert_eq!(rollout.step(&members, START), []);
        assert_eq!(rollout.deployments[0].state, RolloutState::Completed);
        (rollout, members)
    }

    #[test]
    fn a_new_revision_serves_before_an_old_task_stops() {
        let (mut rollout, mut members) = completed(1);
        rollout.start("two".to_owned(), revision("v2"), START);
        assert_eq!(rollout.step(&members, START), [launch("two", 1)]);
        members.push(member("b0", "two", Phase::Starting));
        assert_eq!(rollout.step(&members, START), []);
        members[1].phase = Phase::Serving;
        assert_eq!(stopped(&rollout.step(&members, START)), ["a0"]);
        members[0].phase = Phase::Ending;
        assert_eq!(rollout.step(&members, START), []);
        assert_eq!(rollout.deployments.len(), 2, "the old deployment is listed until its tasks stop");
        members.remove(0);
        assert_eq!(rollout.step(&members, START), []);
        assert_eq!(rollout.deployments.len(), 1);
        assert_eq!(rollout.deployments[0].reason, "ECS deployment two completed.");
    }

    #[test]
    fn without_minimum_and_room_the_old_task_stops_first() {
        let (mut rollout, mut members) = completed(1);
        (rollout.minimum_healthy_percent, rollout.maximum_percent) = (0, 100);
        rollout.start("two".to_owned(), revision("v2"), START);
        assert_eq!(stopped(&rollout.step(&members, START)), ["a0"]);
        members.clear();
        assert_eq!(rollout.step(&members, START), [launch("two", 1)]);
    }

    #[test]
    fn replacing_many_tasks_keeps_the_healthy_minimum() {
        let (mut rollout, mut members) = completed(4);
        (rollout.minimum_healthy_percent, rollout.maximum_percent) = (50, 100);
        rollout.start("two".to_owned(), revision("v2"), START);
        let actions = rollout.step(&members, START);
        assert_eq!(stopped(&actions), ["a0", "a1"]);
        members.drain(..2);
        assert_eq!(rollout.step(&members, START), [launch("two", 2)]);
    }

    #[test]
    fn the_breaker_rolls_back_once_to_the_last_completed_revision() {
        let (mut rollout, members) = completed(1);
        rollout.breaker = Some(true);
        rollout.start("two".to_owned(), revision("v2"), START);
        for _ in 0..3 {
            assert_eq!(rollout.primary().unwrap().id, "two");
            rollout.task_failed("two", "three".to_owned(), START);
        }
        let back = rollout.primary().unwrap();
        assert_eq!((back.id.as_str(), back.revision.task_definition.as_str()), ("three", "v1"));
        assert_eq!(rollout.deployments[1].state, RolloutState::Failed);
        let of_two = |rollout: &Rollout| (rollout.records[0].id.clone(), rollout.records[0].status);
        assert_eq!(of_two(&rollout), ("two".to_owned(), RecordStatus::RollbackInProgress));
        assert_eq!(rollout.step(&members, START), [launch("three", 1)]);
        for _ in 0..3 {
            rollout.task_failed("three", "four".to_owned(), START);
        }
        assert_eq!(rollout.primary().unwrap().state, RolloutState::Failed);
        assert_eq!(rollout.primary().unwrap().id, "three");
        assert_eq!(of_two(&rollout), ("two".to_owned(), RecordStatus::RollbackFailed));
        assert_eq!(rollout.records.len(), 2, "a rollback has no record of its own");
        assert_eq!(rollout.step(&members, START), [], "a failed deployment starts and stops nothing");
    }

    #[test]
    fn the_record_of_a_rollout_by_hand_is_successful() {
        let (mut rollout, mut members) = completed(1);
        rollout.start("two".to_owned(), revision("v2"), START);
        rollout.start("three".to_owned(), revision("v1"), START);
        members[0].deployment = "three".to_owned();
        rollout.step(&members, START);
        let records: Vec<(&str, RecordStatus)> =
            rollout.records.iter().map(|record| (record.id.as_str(), record.status)).collect();
        let (stopped, successful) = (RecordStatus::Stopped, RecordStatus::Successful);
        assert_eq!(records, [("three", successful), ("two", stopped), ("one", successful)]);
    }

    #[test]
    fn without_a_breaker_failed_tasks_restart_after_growing_pauses() {
        let mut rollout = Rollout::new("s", 1);
        rollout.start("one".to_owned(), revision("v1"), START);
        let mut now = START;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            rollout.task_failed("one", "x".to_owned(), now);
            assert_eq!(rollout.step(&[], now), []);
            let due = rollout.due(&[], now).unwrap();
            pauses.push(due.since(now).as_secs());
            now = due;
            assert_eq!(rollout.step(&[], now), [launch("one", 1)]);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(rollout.primary().unwrap().state, RolloutState::InProgress);
    }

    #[test]
    fn a_serving_task_resets_the_failure_count() {
        let mut rollout = Rollout::new("s", 2);
        rollout.breaker = Some(false);
        rollout.start("one".to_owned(), revision("v1"), START);
        rollout.task_failed("one", "x".to_owned(), START);
        rollout.task_failed("one", "x".to_owned(), START);
        rollout.step(&[member("a", "one", Phase::Serving)], START);
        assert_eq!(rollout.primary().unwrap().failed_tasks, 0);
    }

    #[test]
    fn scaling_in_stops_tasks_that_do_not_serve_first() {
        let (mut rollout, mut members) = completed(2);
        members[0].phase = Phase::Starting;
        rollout.desired = 1;
        assert_eq!(stopped(&rollout.step(&members, START)), ["a0"]);
    }

    #[test]
    fn a_draining_service_only_stops_tasks() {
        let (mut rollout, members) = completed(2);
        rollout.draining = true;
        assert_eq!(stopped(&rollout.step(&members, START)), ["a0", "a1"]);
        assert_eq!(rollout.step(&[], START), []);
    }
}
