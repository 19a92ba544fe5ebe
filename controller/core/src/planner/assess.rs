//! The report of a plan: conditions, sync, health, and when to reconcile again. It decides no step.

use std::time::Duration;

use super::readiness::{self, Ready};
use super::{Input, Report, Runs, WebserverState};
use crate::dagster::{Answer, WebLocation};
use crate::desired::{Desired, Invalid};
use crate::ids::Revision;
use crate::image::ImageStatus;
use crate::names;
use crate::resources::service::{self, FailureExcerpt, Observed, Phase, Rollout};
use crate::resources::{DesiredResources, Kind};
use crate::status::{Condition, ConditionKind, ConditionStatus, Health, Reason, Sync};
use crate::tags;

/// For a rollout, a build, or a task that starts: they end within seconds or minutes.
const SOON: Duration = Duration::from_secs(2);
/// For a failure that may end without a step of codeloc: a webserver or code server that does not answer.
const LATER: Duration = Duration::from_secs(15);
/// While runs of a removed location are unfinished.
const RUNS: Duration = Duration::from_secs(30);

fn condition(kind: ConditionKind, status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason, message: message.into() }
}

fn up_to_date(kind: ConditionKind, message: impl Into<String>) -> Condition {
    condition(kind, ConditionStatus::True, Reason::UpToDate, message)
}

pub(super) fn invalid(input: &Input<'_>, invalid: &Invalid) -> Report {
    let message = format!("unchanged: {}", invalid.message);
    Report {
        sync: Sync::Unknown,
        health: served_health(input),
        message: message.clone(),
        conditions: vec![condition(
            ConditionKind::SourceResolved,
            ConditionStatus::False,
            Reason::InvalidConfig,
            invalid.rendered.clone(),
        )],
        revision: None,
        serving: serving(input),
        address: address(input),
        look_again: None,
    }
}

pub(super) fn not_owned(input: &Input<'_>, others: &[(Kind, String)]) -> Report {
    let names: Vec<String> = others.iter().map(|(kind, name)| format!("{} {name}", kind.title())).collect();
    let exist = if names.len() == 1 { "exists" } else { "exist" };
    let message = format!(
        "{} {exist} without this deployment's tag; rename the location, or set `adopt: true` to let codeloc manage it",
        names.join(" and ")
    );
    blocked_by_owner(input, message)
}

/// A resource without the tags of this deployment blocks the location.
fn blocked_by_owner(input: &Input<'_>, message: String) -> Report {
    Report {
        sync: Sync::OutOfSync,
        health: Health::Degraded,
        message: message.clone(),
        conditions: vec![condition(ConditionKind::Deployed, ConditionStatus::False, Reason::NotOwned, message)],
        revision: None,
        serving: serving(input),
        address: address(input),
        look_again: Some(LATER),
    }
}

pub(super) fn absent(draining: bool, done: bool) -> Report {
    let message =
        if draining { "deleting: waiting for the tasks to stop" } else { "deleting the location's resources" };
    Report {
        sync: if done { Sync::Synced } else { Sync::OutOfSync },
        health: if done { Health::Missing } else { Health::Progressing },
        message: message.to_owned(),
        conditions: vec![condition(ConditionKind::Deployed, ConditionStatus::False, Reason::Deleting, message)],
        revision: None,
        serving: None,
        address: None,
        look_again: draining.then_some(SOON),
    }
}

/// The service of a removed location has lost its tags, and its tasks still use the other resources.
pub(super) fn used_by_a_foreign_service(input: &Input<'_>) -> Report {
    let service = names::service(input.name);
    let message = format!(
        "not deleted: the ECS service {service} uses the location's resources and has no tags of this deployment; delete the service, or \
         restore its tags `{}` and `{}`",
        tags::MANAGED_BY,
        tags::LOCATION
    );
    blocked_by_owner(input, message)
}

/// The removal waits for the runs of the location.
pub(super) fn waiting_for_runs(input: &Input<'_>) -> Report {
    let runs = match input.runs {
        Runs::Tasks(1) => "waiting for 1 run to end".to_owned(),
        Runs::Tasks(number) => format!("waiting for {number} runs to end"),
        Runs::Unknown(why) => format!("waiting until Dagster says whether runs are queued: {why}"),
        Runs::NotAsked | Runs::None | Runs::Queued | Runs::Abandoned => {
            "waiting for the runs that Dagster reports as unfinished".to_owned()
        }
    };
    let (hours, name) = (input.deployment.run_wait_hours, input.name);
    let message =
        format!("deleting: {runs}; codeloc waits at most {hours} h; to delete now, use `codeloc abandon-runs {name}`");
    Report {
        sync: Sync::OutOfSync,
        health: Health::Progressing,
        message: message.clone(),
        conditions: vec![condition(ConditionKind::Deployed, ConditionStatus::False, Reason::WaitingForRuns, message)],
        revision: None,
        serving: None,
        address: None,
        look_again: Some(RUNS),
    }
}

pub(super) fn present(
    input: &Input<'_>,
    image: &ImageStatus,
    desired: &DesiredResources,
    phase: &Phase,
    ready: Option<&Ready>,
    synced: bool,
) -> Report {
    let revision = desired.task_definition.revision.known();
    let (source, image_ready) = image_conditions(image);
    let deployed_condition = deployed(phase, input, revision);
    let loaded_condition = loaded(input, phase, revision, ready);
    let registered_condition = registered(input, revision, ready);
    let conditions = vec![source, image_ready, deployed_condition, loaded_condition, registered_condition];

    let settled = conditions.iter().all(|condition| condition.status == ConditionStatus::True);
    let failed = matches!(phase, Phase::Failed { .. });
    let sync = if synced && settled { Sync::Synced } else { Sync::OutOfSync };
    let health = health(input, &conditions, failed);
    let message = summary(&conditions, synced);
    // A rollback ends within seconds or minutes, however broken its revision is.
    let rolling_out = input
        .observed
        .service
        .as_deref()
        .and_then(Observed::primary)
        .is_some_and(|primary| primary.rollout == Rollout::InProgress);
    let broken = !rolling_out && conditions.iter().any(|condition| BROKEN.contains(&condition.reason));
    let look_again = (!settled || !synced).then_some(if broken { LATER } else { SOON });
    Report {
        sync,
        health,
        message,
        conditions,
        revision: revision.cloned(),
        serving: serving(input),
        address: address(input),
        look_again,
    }
}

/// Reasons that usually last for more than a few seconds.
const BROKEN: [Reason; 7] = [
    Reason::Unresolved,
    Reason::BuildFailed,
    Reason::RolloutFailed,
    Reason::LoadError,
    Reason::NotAnswering,
    Reason::WebserverUnreachable,
    Reason::WebserverError,
];

fn image_conditions(image: &ImageStatus) -> (Condition, Condition) {
    use ConditionKind::{ImageReady, SourceResolved};
    let resolved = || up_to_date(SourceResolved, "the config is valid, and its commit or image is known");
    match image {
        ImageStatus::Ready(image) => (resolved(), up_to_date(ImageReady, image.described())),
        ImageStatus::Stale { image, reason } => (
            up_to_date(SourceResolved, format!("the last known image stays in use: {reason}")),
            up_to_date(ImageReady, image.described()),
        ),
        ImageStatus::Resolving(message) => (
            condition(SourceResolved, ConditionStatus::Unknown, Reason::Resolving, message),
            condition(
                ImageReady,
                ConditionStatus::Unknown,
                Reason::Waiting,
                "waiting until the commit or the image tag is known",
            ),
        ),
        ImageStatus::Unresolved(message) => (
            condition(SourceResolved, ConditionStatus::False, Reason::Unresolved, message),
            condition(
                ImageReady,
                ConditionStatus::Unknown,
                Reason::Waiting,
                "waiting until the commit or the image tag is known",
            ),
        ),
        ImageStatus::Building(progress) => {
            (resolved(), condition(ImageReady, ConditionStatus::Unknown, Reason::Building, progress))
        }
        ImageStatus::Failed(message) => {
            (resolved(), condition(ImageReady, ConditionStatus::False, Reason::BuildFailed, message))
        }
    }
}

fn deployed(phase: &Phase, input: &Input<'_>, revision: Option<&Revision>) -> Condition {
    use ConditionKind::Deployed;
    match phase {
        Phase::Begin => {
            condition(Deployed, ConditionStatus::False, Reason::Waiting, "the desired revision is not deployed yet")
        }
        Phase::Draining => condition(
            Deployed,
            ConditionStatus::False,
            Reason::Draining,
            "waiting until the previous ECS service with this name has drained",
        ),
        Phase::Rolling(rolling) => {
            let failed = if rolling.failed > 0 { format!(", {} failed", rolling.failed) } else { String::new() };
            let cause = input
                .failure_excerpt
                .filter(|excerpt| !excerpt.is_empty())
                .map_or_else(String::new, |excerpt| format!(": {excerpt}"));
            let message = format!(
                "rolling out: {} of {} tasks are running{failed}{cause}",
                rolling.running, rolling.desired_count
            );
            condition(Deployed, ConditionStatus::Unknown, Reason::Rolling, message)
        }
        Phase::Failed { reason, transient } => {
            let serves = match serving(input) {
                None => "no revision serves".to_owned(),
                Some(serving) if Some(&serving) == revision => "some of its tasks serve".to_owned(),
                Some(serving) => format!("{serving} still serves"),
            };
            let revision = revision.map_or("this revision", Revision::as_str);
            // The error of the user's code says more than the reason of ECS.
            let cause = input
                .failure_excerpt
                .filter(|excerpt| !excerpt.is_empty())
                .map_or(reason.as_str(), FailureExcerpt::as_str);
            let next = if *transient {
                "codeloc retries it in a few minutes"
            } else {
                "codeloc does not retry it until the commit or the config changes"
            };
            let message = format!("the rollout of {revision} failed and {next}; {serves}; cause: {cause}");
            condition(Deployed, ConditionStatus::False, Reason::RolloutFailed, message)
        }
        Phase::Steady => up_to_date(Deployed, "the ECS service runs the desired revision"),
    }
}

pub(super) fn is_failing(phase: &Phase) -> bool {
    match phase {
        Phase::Failed { .. } => true,
        Phase::Rolling(rolling) => rolling.failed > 0,
        Phase::Begin | Phase::Draining | Phase::Steady => false,
    }
}

fn loaded(input: &Input<'_>, phase: &Phase, revision: Option<&Revision>, ready: Option<&Ready>) -> Condition {
    use ConditionKind::Loaded;
    if let Some(ready) = ready
        && ready.unanimous
        && Some(&ready.revision) == revision
    {
        return up_to_date(Loaded, "every task has loaded its definitions");
    }
    if ready.is_none()
        && let Some((address, found)) = readiness::foreign(input, revision).next()
    {
        let message =
            format!("the code server at {address} answers with {found}, which is not a revision of this location");
        return condition(Loaded, ConditionStatus::Unknown, Reason::OtherRevision, message);
    }
    if *phase != Phase::Steady {
        return condition(
            Loaded,
            ConditionStatus::Unknown,
            Reason::Waiting,
            "waiting until ECS runs the desired revision",
        );
    }
    for answered in input.answers {
        match &answered.answer {
            Answer::LoadError { message, .. } => {
                return condition(Loaded, ConditionStatus::False, Reason::LoadError, message);
            }
            Answer::Loaded { server_id, .. } if revision.is_none_or(|revision| revision != server_id.as_str()) => {
                let message = format!("the code server at {} still answers with {server_id}", answered.address);
                return condition(Loaded, ConditionStatus::Unknown, Reason::OtherRevision, message);
            }
            Answer::Loaded { .. } | Answer::Unreachable { .. } => {}
        }
    }
    let unreachable = input.answers.iter().find_map(|answered| match &answered.answer {
        Answer::Unreachable { message } => {
            Some(format!("codeloc cannot query the code server at {}: {message}", answered.address))
        }
        _ => None,
    });
    let (start, load) = match input.desired {
        Desired::Present(location) => (location.config.health.start_seconds, location.config.health.load_seconds),
        _ => (0, 0),
    };
    let steady_for = |seconds: u32| input.steady_for >= Duration::from_secs(u64::from(seconds));
    match unreachable {
        Some(message) if steady_for(load) => condition(Loaded, ConditionStatus::False, Reason::NotAnswering, message),
        Some(message) => condition(Loaded, ConditionStatus::Unknown, Reason::Waiting, message),
        // ECS replaces tasks that do not start, without end, once a rollout was complete.
        None if steady_for(start.saturating_add(load)) => {
            let running = input.observed.service.as_deref().map_or(0, |service| service.running);
            let message =
                format!("no task is registered in Cloud Map, and ECS runs {running}; the log shows why tasks stop");
            condition(Loaded, ConditionStatus::False, Reason::NoInstance, message)
        }
        None => {
            condition(Loaded, ConditionStatus::Unknown, Reason::NoInstance, "no task is registered in Cloud Map yet")
        }
    }
}

fn registered(input: &Input<'_>, desired: Option<&Revision>, ready: Option<&Ready>) -> Condition {
    use ConditionKind::Registered;
    let Some(entry) = &input.workspace.entry else {
        return condition(
            Registered,
            ConditionStatus::False,
            Reason::NotPublished,
            "the location is not in workspace.yaml yet",
        );
    };
    let published = format!("the location is in workspace.yaml with the address {}:{}", entry.host, entry.port);
    match (input.webserver, &input.workspace.web) {
        (WebserverState::NotConfigured, _) => up_to_date(Registered, published),
        (WebserverState::Unreachable(message), _) => {
            condition(Registered, ConditionStatus::Unknown, Reason::WebserverUnreachable, message)
        }
        (WebserverState::Answers, Some(WebLocation::Loaded { server_id })) => {
            let shown = server_id.as_deref();
            let serving = serving(input);
            let expected = match ready {
                Some(ready) => shown == Some(ready.revision.as_str()),
                // No task answers: the desired revision and the one that serves are both possible.
                None => shown.is_some() && (shown == desired.map(Revision::as_str) || shown == serving.as_deref()),
            };
            if expected {
                return up_to_date(Registered, published);
            }
            let shown = shown.unwrap_or("no revision");
            condition(
                Registered,
                ConditionStatus::Unknown,
                Reason::OtherRevision,
                format!("the webserver shows {shown} instead of the revision that serves"),
            )
        }
        (WebserverState::Answers, Some(WebLocation::Error { message })) => {
            condition(Registered, ConditionStatus::False, Reason::WebserverError, message)
        }
        (WebserverState::Answers, Some(WebLocation::Loading) | None) => {
            condition(Registered, ConditionStatus::Unknown, Reason::Waiting, "the webserver is loading the location")
        }
    }
}

fn health(input: &Input<'_>, conditions: &[Condition], rollout_failed: bool) -> Health {
    let failed = |condition: &Condition| {
        matches!(
            condition.reason,
            Reason::Unresolved
                | Reason::BuildFailed
                | Reason::RolloutFailed
                | Reason::LoadError
                | Reason::NotAnswering
                | Reason::WebserverError
        ) || (condition.reason == Reason::NoInstance && condition.status == ConditionStatus::False)
    };
    if rollout_failed || conditions.iter().any(failed) {
        Health::Degraded
    } else if conditions
        .iter()
        .all(|condition| condition.status == ConditionStatus::True || condition.reason == Reason::WebserverUnreachable)
    {
        Health::Healthy
    } else if input.observed.service.is_none() {
        Health::Missing
    } else {
        Health::Progressing
    }
}

/// The health of a location with an invalid config, regardless of the desired state.
fn served_health(input: &Input<'_>) -> Health {
    match &input.observed.service {
        None => Health::Missing,
        Some(_) if readiness::ready(input, None).is_some() => Health::Healthy,
        Some(_) => Health::Unknown,
    }
}

/// The message of the first failure, else of the first condition that is not true. What the webserver shows is a symptom of the other
/// conditions, so the message names it only if those are true.
fn summary(conditions: &[Condition], synced: bool) -> String {
    let worst = conditions
        .iter()
        .filter(|condition| condition.kind != ConditionKind::Registered)
        .find(|condition| condition.status == ConditionStatus::False && BROKEN.contains(&condition.reason))
        .or_else(|| conditions.iter().find(|condition| condition.status != ConditionStatus::True));
    match worst {
        Some(condition) => condition.message.clone(),
        None if synced => "in sync".to_owned(),
        None => "applying changes".to_owned(),
    }
}

/// The revision that serves. During a rollout, this is the revision of the last complete rollout; before the first complete one, a revision
/// that answers.
fn serving(input: &Input<'_>) -> Option<Revision> {
    let service = input.observed.service.as_ref().filter(|service| service.exists() && service.running > 0)?;
    let complete = service::rolled_out(service, &input.observed.task_definitions)
        .and_then(super::super::resources::task_spec::Observed::revision);
    let loaded = || {
        input.answers.iter().find_map(|answered| match &answered.answer {
            Answer::Loaded { server_id, .. } if input.observed.has_revision(server_id) => {
                Some(server_id.as_str().into())
            }
            _ => None,
        })
    };
    complete.or_else(loaded)
}

fn address(input: &Input<'_>) -> Option<String> {
    input.workspace.entry.as_ref().map(|entry| format!("{}:{}", entry.host, entry.port))
}

#[cfg(test)]
mod tests {
    use ConditionKind::{Deployed, ImageReady, Loaded, Registered, SourceResolved};

    use super::*;

    /// All five conditions: the given ones, and true for the others.
    fn conditions(given: &[(ConditionKind, ConditionStatus, Reason)]) -> Vec<Condition> {
        [SourceResolved, ImageReady, Deployed, Loaded, Registered]
            .map(|kind| {
                let found = given.iter().find(|(given, ..)| *given == kind);
                let (_, status, reason) = found.copied().unwrap_or((kind, ConditionStatus::True, Reason::UpToDate));
                condition(kind, status, reason, format!("{reason:?}"))
            })
            .to_vec()
    }

    #[test]
    fn the_message_names_a_cause_before_its_symptom_in_the_webserver() {
        let causes = [
            (SourceResolved, ConditionStatus::False, Reason::Unresolved),
            (SourceResolved, ConditionStatus::Unknown, Reason::Resolving),
            (ImageReady, ConditionStatus::False, Reason::BuildFailed),
            (ImageReady, ConditionStatus::Unknown, Reason::Building),
            (Deployed, ConditionStatus::False, Reason::RolloutFailed),
            (Deployed, ConditionStatus::Unknown, Reason::Rolling),
            (Deployed, ConditionStatus::False, Reason::Waiting),
            (Deployed, ConditionStatus::False, Reason::Draining),
            (Loaded, ConditionStatus::False, Reason::LoadError),
            (Loaded, ConditionStatus::False, Reason::NotAnswering),
            (Loaded, ConditionStatus::Unknown, Reason::NoInstance),
            (Loaded, ConditionStatus::Unknown, Reason::OtherRevision),
        ];
        let symptoms = [
            (Registered, ConditionStatus::False, Reason::WebserverError),
            (Registered, ConditionStatus::False, Reason::NotPublished),
            (Registered, ConditionStatus::Unknown, Reason::WebserverUnreachable),
            (Registered, ConditionStatus::Unknown, Reason::OtherRevision),
        ];
        for symptom in symptoms {
            for cause in causes {
                let message = summary(&conditions(&[cause, symptom]), false);
                assert_eq!(message, format!("{:?}", cause.2), "{cause:?} with {symptom:?}");
            }
            assert_eq!(summary(&conditions(&[symptom]), false), format!("{:?}", symptom.2));
        }
    }

    #[test]
    fn the_message_names_a_failure_before_a_wait() {
        let building = (ImageReady, ConditionStatus::Unknown, Reason::Building);
        let broken = (Loaded, ConditionStatus::False, Reason::LoadError);
        assert_eq!(summary(&conditions(&[building, broken]), false), "LoadError");
        let failed = (Deployed, ConditionStatus::False, Reason::RolloutFailed);
        assert_eq!(summary(&conditions(&[failed, broken]), false), "RolloutFailed");
        assert_eq!(summary(&conditions(&[]), true), "in sync");
    }
}
