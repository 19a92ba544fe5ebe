//! What a pass tells of itself: the status of its location, and the log.

use std::time::Duration;

use codeloc_aws::Class;
use codeloc_core::desired::Invalid;
use codeloc_core::lock::lock;
use codeloc_core::planner::Plan;
use codeloc_core::resources::drift::NOTES;
use codeloc_core::resources::{Action, ObservedResources, Step};
use codeloc_core::status::{Condition, ConditionKind, ConditionStatus, DatedCondition, Drift, LocationStatus, Reason};
use codeloc_dagster::{CodeServer, Webserver};
use codeloc_images::Builder;
use tokio::time::Instant;

use super::desired::{ImageKnown, Wanted};
use super::execute::StepError;
use super::pass::{Failing, Outcome, Reconciler};
use crate::settings::Platform;
use crate::status::events::{EventReason, NewEvent, diff};
use crate::status::metrics::RolloutOutcome;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(300);

impl<B: Builder, C: CodeServer, W: Webserver> Reconciler<B, C, W> {
    pub(super) fn failed(&self, name: &str, error: &StepError) -> Outcome {
        let mut failures = lock(&self.failures);
        let failing = failures.entry(name.to_owned()).or_insert(Failing { count: 0, since: Instant::now() });
        failing.count += 1;
        let doubled = FIRST_BACKOFF.saturating_mul(1 << (failing.count - 1).min(16));
        let backoff = match error.class() {
            // Seconds, up to a minute: there is nothing wrong to back off from.
            Class::NotYet => doubled.min(Duration::from_secs(5)),
            // There is a limiter for these: the next one waits for its turn.
            Class::Throttled => doubled.min(Duration::from_secs(2)),
            // The lease's return is what is waited for.
            Class::Fenced => doubled.min(Duration::from_secs(15)),
            Class::Transient | Class::Terminal => doubled.min(LAST_BACKOFF),
        };
        drop(failures);
        tracing::warn!(location = name, %error, again_in = ?backoff, "a step failed");
        let recorder = &self.context.recorder;
        recorder.metrics.failed_steps.with_label_values(&[&format!("{:?}", error.class())]).inc();
        // Waiting for one's turn, or for what was made a moment ago, is no failure.
        if !matches!(error.class(), Class::NotYet | Class::Throttled) {
            recorder.record(NewEvent::of(name, EventReason::StepFailed, error.to_string()).about(error.topic()));
        }
        if !self.context.statuses.fail(name, error.to_string(), error.class() == Class::Terminal) {
            self.context.statuses.put(LocationStatus::unknown(name, error.to_string(), self.context.clock.now()));
        }
        Outcome::Failed(backoff)
    }

    /// Shows configs that belong to no location, since their folder's name is none, and forgets those that went.
    pub(super) fn record_invalid_dirs(&self, before: &[Invalid], now: &[Invalid]) {
        for stray in before.iter().filter(|stray| !now.contains(stray)) {
            self.context.statuses.remove(&stray.path);
        }
        for stray in now {
            tracing::warn!(path = %stray.path, "{}", stray.message);
            self.context.recorder.record(NewEvent::of(&stray.path, EventReason::ConfigInvalid, stray.message.clone()));
            let at = self.context.clock.now();
            let mut status = LocationStatus::unknown(&stray.path, stray.message.clone(), at);
            let (kind, reason, message) =
                (ConditionKind::SourceResolved, Reason::InvalidConfig, stray.rendered.clone());
            let condition = Condition { kind, status: ConditionStatus::False, reason, message };
            status.conditions.push(DatedCondition { condition, since: at });
            self.context.statuses.put(status);
        }
    }

    /// A step was executed.
    pub(super) fn applied(&self, name: &str, step: &Step, description: &str) {
        tracing::info!(location = name, "{description}");
        let recorder = &self.context.recorder;
        let action = match step.describe().action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        };
        recorder.metrics.changes.with_label_values(&[step.kind().title(), action]).inc();
        if step.rolls_out() {
            recorder.metrics.count_rollout(RolloutOutcome::Started);
        }
        let commit = self.context.statuses.read(name, |status| status.commit.clone()).flatten();
        recorder.record(NewEvent::of(name, EventReason::Applied, description).from_commit(commit));
    }

    pub(super) fn record(
        &self,
        name: &str,
        desired: &Wanted,
        plan: &Plan,
        observed: &ObservedResources,
        alarm: Option<(Reason, String)>,
    ) {
        let now = self.context.clock.now();
        let report = &plan.report;
        let mut conditions = report.conditions.clone();
        let mut message = report.message.clone();
        if let Some((reason, text)) = alarm {
            message.clone_from(&text);
            conditions.push(Condition {
                kind: ConditionKind::Deployed,
                status: ConditionStatus::False,
                reason,
                message: text,
            });
        }
        let (commit, image) = match desired {
            Wanted::Present(_, image, commit) => match &**image {
                ImageKnown::Ready(image) | ImageKnown::Kept(image, _) => {
                    (commit.clone(), Some(image.reference.clone()))
                }
                _ => (commit.clone(), None),
            },
            Wanted::Invalid(_) | Wanted::Absent => (None, None),
        };
        let previous_commit = observed.served_before(commit.as_deref()).map(str::to_owned);
        let host = self.context.settings.build.platform == Platform::Host;
        let before = self.context.statuses.put(LocationStatus {
            name: name.to_owned(),
            sync: report.sync,
            health: report.health,
            message: message.clone(),
            commit,
            previous_commit,
            image,
            platform: host.then(|| format!("host ({})", std::env::consts::ARCH)),
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
        self.rests_on(name, desired);
        let after = self.context.statuses.get(name).expect("it was put a moment ago");
        let changed = before.as_ref().is_none_or(|before| (before.sync, before.health) != (report.sync, report.health));
        if changed {
            tracing::info!(location = name, sync = %report.sync, health = %report.health, "{message}");
        }
        for (reason, message) in diff::between(before.as_ref(), &after) {
            if reason == EventReason::RolloutFailed {
                self.context.recorder.metrics.count_rollout(RolloutOutcome::Failed);
            }
            self.context.recorder.record(NewEvent::of(name, reason, message).from_commit(after.commit.clone()));
        }
    }
}

/// Tasks of a location that run.
fn running(observed: &ObservedResources) -> u32 {
    observed.service.as_ref().map_or(0, |service| u32::try_from(service.running).unwrap_or(0))
}

/// Of a plan, what differs in things that exist, and what is missing.
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

/// A step as the log and the alarms say it.
pub(super) fn summary(step: &Step) -> String {
    let description = step.describe();
    let verb = match description.action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
    };
    let fields: Vec<&str> = description.fields.iter().map(|field| field.name).collect();
    let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
    format!("{verb} {} {}{fields}: {}", step.kind().title(), description.name, description.reason)
}
