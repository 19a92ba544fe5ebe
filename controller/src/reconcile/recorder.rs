//! Recording a pass: the status of its location, events, metrics and the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use codeloc_aws::Class;
use codeloc_core::desired::{Desired, Invalid};
use codeloc_core::lock::lock;
use codeloc_core::planner::{Plan, Runs};
use codeloc_core::resources::tracked_fields::NOTES;
use codeloc_core::resources::{Action, ObservedResources, Step};
use codeloc_core::status::{Condition, ConditionKind, ConditionStatus, DatedCondition, Drift, LocationStatus, Reason};
use codeloc_crds::{Location, LocationName};

use super::executor::StepError;
use super::retry::Reaction;
use crate::runtime::Clock;
use crate::status::events::{EventReason, NewEvent, diff};
use crate::status::metrics::RolloutOutcome;
use crate::status::{Recorder, StatusStore};

/// The config that a status was computed from; nothing for a location without one.
pub type RecordedConfig = Option<Result<Arc<Location>, Invalid>>;

pub struct StatusRecorder {
    pub statuses: StatusStore,
    pub recorder: Arc<Recorder>,
    clock: Clock,
    /// The platform of images, where it is not the architecture of each config.
    platform: Option<String>,
    configs: Mutex<HashMap<LocationName, Result<Arc<Location>, Invalid>>>,
}

impl StatusRecorder {
    pub fn new(recorder: Arc<Recorder>, clock: Clock, platform: Option<String>) -> Self {
        Self { statuses: StatusStore::default(), recorder, clock, platform, configs: Mutex::default() }
    }

    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// The status after a plan. `alarm` replaces the message of the report.
    pub fn planned(
        &self,
        name: &LocationName,
        desired: &Desired,
        plan: &Plan,
        observed: &ObservedResources,
        alarm: Option<String>,
    ) {
        let now = self.clock.now();
        let report = &plan.report;
        let mut conditions = report.conditions.clone();
        let mut message = report.message.clone();
        if let Some(text) = alarm {
            message.clone_from(&text);
            let (kind, reason) = (ConditionKind::Deployed, Reason::NotConverging);
            conditions.push(Condition { kind, status: ConditionStatus::False, reason, message: text });
        }
        let (commit, image) = match desired {
            Desired::Present(location) => {
                (location.commit.clone(), location.image.image().map(|image| image.reference.clone()))
            }
            Desired::Invalid(_) | Desired::Absent => (None, None),
        };
        let previous_commit = observed.served_before(commit.as_ref());
        let before = self.statuses.put(LocationStatus {
            name: name.to_string(),
            sync: report.sync,
            health: report.health,
            message: message.clone(),
            commit,
            previous_commit,
            image,
            platform: self.platform.clone(),
            revision: report.revision.clone(),
            serving: report.serving.clone(),
            address: report.address.clone(),
            drift: drift(plan),
            conditions: conditions.into_iter().map(|condition| DatedCondition { condition, since: now }).collect(),
            running: running(observed),
            commit_observed: None,
            converged: None,
            as_of: None,
            updated: now,
        });
        self.set_config(name, desired);
        let after = self.statuses.get(name).expect("this function has stored the status");
        let changed = before.as_ref().is_none_or(|before| (before.sync, before.health) != (report.sync, report.health));
        if changed {
            tracing::info!(location = name.as_str(), sync = %report.sync, health = %report.health, "{message}");
        }
        for (reason, message) in diff::between(before.as_ref(), &after) {
            if reason == EventReason::RolloutFailed {
                self.recorder.metrics.count_rollout(RolloutOutcome::Failed);
            }
            self.recorder.record(NewEvent::of(name, reason, message).from_commit(after.commit.clone()));
        }
    }

    fn set_config(&self, name: &LocationName, desired: &Desired) {
        let config = match desired {
            Desired::Present(location) => Ok(location.config.clone()),
            Desired::Invalid(invalid) => Err(invalid.clone()),
            Desired::Absent => {
                lock(&self.configs).remove(name);
                return;
            }
        };
        lock(&self.configs).insert(name.clone(), config);
    }

    /// The config that the status with this name was computed from.
    pub fn config(&self, name: &str) -> RecordedConfig {
        lock(&self.configs).get(name).cloned()
    }

    /// A step has succeeded.
    pub fn applied(&self, name: &LocationName, step: &Step, summary: &str) {
        tracing::info!(location = name.as_str(), "{summary}");
        let metrics = &self.recorder.metrics;
        metrics.count_change(step.kind(), step.describe().action);
        if step.rolls_out() {
            metrics.count_rollout(RolloutOutcome::Started);
        }
        let commit = self.statuses.read(name, |status| status.commit.clone()).flatten();
        self.recorder.record(NewEvent::of(name, EventReason::Applied, summary).from_commit(commit));
    }

    /// A pass has failed.
    pub fn failed(&self, name: &LocationName, error: &StepError, Reaction { class, backoff }: Reaction) {
        tracing::warn!(location = name.as_str(), %error, retry_in = ?backoff, "the reconcile failed; codeloc retries");
        self.recorder.metrics.count_failed_step(class);
        // A rate limit and a resource that AWS does not see yet are ordinary waits.
        if !matches!(class, Class::NotYet | Class::Throttled) {
            let event = NewEvent::of(name, EventReason::StepFailed, error.to_string());
            self.recorder.record(event.about(error.topic()));
        }
        if !self.statuses.fail(name, error.to_string(), class == Class::Terminal) {
            self.statuses.put(LocationStatus::unknown(name, error.to_string(), self.clock.now()));
        }
    }

    /// codeloc deletes what unfinished runs use.
    pub fn abandons_runs(&self, name: &LocationName, runs: &Runs) {
        let message = match runs {
            Runs::Abandoned => "codeloc deletes the location without waiting for its runs, as confirmed".to_owned(),
            Runs::Tasks(number) => {
                format!("the time limit has passed: codeloc deletes what {number} unfinished runs use")
            }
            Runs::Unknown(why) => {
                format!(
                    "the time limit has passed: codeloc deletes the location, although Dagster does not say whether runs are \
                     queued: {why}"
                )
            }
            Runs::NotAsked | Runs::None | Runs::Queued => {
                "the time limit has passed: codeloc deletes what unfinished runs use".to_owned()
            }
        };
        tracing::warn!(location = name.as_str(), "{message}");
        self.recorder.record(NewEvent::of(name, EventReason::RunsAbandoned, message));
    }

    /// The location and all of its resources are gone.
    pub fn removed(&self, name: &LocationName) {
        if self.statuses.get(name).is_some() {
            self.recorder.record(NewEvent::of(
                name,
                EventReason::Removed,
                "codeloc deleted the location with all of its resources",
            ));
        }
        self.statuses.remove(name);
        lock(&self.configs).remove(name);
    }

    /// Shows the folders whose name is not a location name, and forgets those that were removed.
    pub fn invalid_dirs(&self, before: &[Invalid], now: &[Invalid]) {
        for invalid in before.iter().filter(|invalid| !now.contains(invalid)) {
            self.statuses.remove(&invalid.path);
        }
        for invalid in now {
            tracing::warn!(path = %invalid.path, "{}", invalid.message);
            self.recorder.record(NewEvent::of_file(&invalid.path, EventReason::ConfigInvalid, invalid.message.clone()));
            let at = self.clock.now();
            let mut status = LocationStatus::unknown(&invalid.path, invalid.message.clone(), at);
            let (kind, reason) = (ConditionKind::SourceResolved, Reason::InvalidConfig);
            let message = invalid.rendered.clone();
            let condition = Condition { kind, status: ConditionStatus::False, reason, message };
            status.conditions.push(DatedCondition { condition, since: at });
            self.statuses.put(status);
        }
    }
}

/// The number of running tasks.
fn running(observed: &ObservedResources) -> u32 {
    observed.service.as_ref().map_or(0, |service| u32::try_from(service.running).unwrap_or(0))
}

/// The differences in existing resources, and the missing resources.
fn drift(plan: &Plan) -> Vec<Drift> {
    let mut found = Vec::new();
    for step in plan.steps.iter().chain(&plan.later) {
        let description = step.describe();
        let (kind, name) = (step.kind().title().to_owned(), description.name);
        match description.action {
            Action::Create => found.push(Drift { kind, name, field: None, observed: None, desired: None }),
            Action::Update => {
                let fields = description.fields.into_iter().filter(|field| !NOTES.contains(&field.name));
                found.extend(fields.map(|field| Drift {
                    kind: kind.clone(),
                    name: name.clone(),
                    field: Some(field.name.to_owned()),
                    observed: field.from,
                    desired: Some(field.to),
                }));
            }
            Action::Delete => {}
        }
    }
    found
}
