//! How things stand: conditions, the two axes, and when to look again. Pure, and no step is decided here.

use std::time::Duration;

use super::proof::{self, Proven};
use super::{ImageState, Input, Report, WebserverState};
use crate::dagster::{Answer, WebLocation};
use crate::desired::Invalid;
use crate::resources::service::{self, Observed, Phase, Rollout};
use crate::resources::{DesiredResources, Kind};
use crate::status::{Condition, ConditionKind, ConditionStatus, Health, Reason, Sync};

/// A rollout, a build, a task about to answer: things that end in seconds or minutes.
const SOON: Duration = Duration::from_secs(2);
/// Something failed that may heal by itself: a webserver that is away, a code server that does not answer.
const LATER: Duration = Duration::from_secs(15);

fn condition(kind: ConditionKind, status: ConditionStatus, reason: Reason, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason, message: message.into() }
}

fn up_to_date(kind: ConditionKind, message: impl Into<String>) -> Condition {
    condition(kind, ConditionStatus::True, Reason::UpToDate, message)
}

pub(super) fn invalid(input: &Input<'_>, invalid: &Invalid) -> Report {
    let message = format!("frozen as it is: {}", invalid.message);
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
        failing: None,
        look_again: None,
    }
}

pub(super) fn not_owned(input: &Input<'_>, strangers: &[(Kind, String)]) -> Report {
    let names: Vec<String> = strangers.iter().map(|(kind, name)| format!("{} {name}", kind.title())).collect();
    let message = format!(
        "{} exists without this deployment's tag; rename the repository, or set `adopt: true` to take it over",
        names.join(" and ")
    );
    Report {
        sync: Sync::OutOfSync,
        health: Health::Degraded,
        message: message.clone(),
        conditions: vec![condition(ConditionKind::Deployed, ConditionStatus::False, Reason::NotOwned, message)],
        revision: None,
        serving: serving(input),
        address: address(input),
        failing: None,
        look_again: Some(LATER),
    }
}

pub(super) fn absent(draining: bool, done: bool) -> Report {
    let message = if draining { "waiting for its tasks to end" } else { "being removed" };
    Report {
        sync: if done { Sync::Synced } else { Sync::OutOfSync },
        health: if done { Health::Missing } else { Health::Progressing },
        message: message.to_owned(),
        conditions: vec![condition(ConditionKind::Deployed, ConditionStatus::False, Reason::Deleting, message)],
        revision: None,
        serving: None,
        address: None,
        failing: None,
        look_again: draining.then_some(SOON),
    }
}

pub(super) fn present(
    input: &Input<'_>,
    image: ImageState<'_>,
    desired: &DesiredResources,
    phase: &Phase,
    proven: Option<&Proven>,
    empty: bool,
) -> Report {
    let revision = desired.task_definition.revision.known();
    let (source, ready) = of_image(image);
    let deployed = of_phase(phase, input, revision);
    let loaded = of_answers(input, phase, revision, proven);
    let registered = of_workspace(input, revision, proven);
    let conditions = vec![source, ready, deployed, loaded, registered];

    let settled = conditions.iter().all(|condition| condition.status == ConditionStatus::True);
    let held = matches!(phase, Phase::Held { .. });
    let sync = if empty && settled { Sync::Synced } else { Sync::OutOfSync };
    let health = health(input, &conditions, held);
    let message = first_word(&conditions, empty);
    // Without a step of ours something else has to happen first: look again for it.
    // A rollback is on its way, however broken the revision is.
    let moving = input
        .observed
        .service
        .as_deref()
        .and_then(Observed::primary)
        .is_some_and(|one| one.rollout == Rollout::InProgress);
    let broken = !moving && conditions.iter().any(|condition| BROKEN.contains(&condition.reason));
    let look_again = (!settled || !empty).then_some(if broken { LATER } else { SOON });
    Report {
        sync,
        health,
        message,
        conditions,
        revision: revision.map(str::to_owned),
        serving: serving(input),
        address: address(input),
        failing: revision.filter(|_| failing(phase)).map(str::to_owned),
        look_again,
    }
}

/// Reasons that time alone does not mend within seconds.
const BROKEN: [Reason; 7] = [
    Reason::Unresolved,
    Reason::BuildFailed,
    Reason::RolloutFailed,
    Reason::LoadError,
    Reason::NotAnswering,
    Reason::WebserverUnreachable,
    Reason::WebserverError,
];

fn of_image(image: ImageState<'_>) -> (Condition, Condition) {
    use ConditionKind::{ImageReady, SourceResolved};
    let resolved = || up_to_date(SourceResolved, "the config is valid and its commit or image is known");
    match image {
        ImageState::Ready(image) => (resolved(), up_to_date(ImageReady, &image.reference)),
        ImageState::Kept(image, why) => (
            up_to_date(SourceResolved, format!("the last image that is known stays in force: {why}")),
            up_to_date(ImageReady, &image.reference),
        ),
        ImageState::Resolving(message) => (
            condition(SourceResolved, ConditionStatus::Unknown, Reason::Resolving, message),
            condition(ImageReady, ConditionStatus::Unknown, Reason::Waiting, "waiting for the source"),
        ),
        ImageState::Unresolved(message) => (
            condition(SourceResolved, ConditionStatus::False, Reason::Unresolved, message),
            condition(ImageReady, ConditionStatus::Unknown, Reason::Waiting, "waiting for the source"),
        ),
        ImageState::Building(progress) => {
            (resolved(), condition(ImageReady, ConditionStatus::Unknown, Reason::Building, progress))
        }
        ImageState::Failed(message) => {
            (resolved(), condition(ImageReady, ConditionStatus::False, Reason::BuildFailed, message))
        }
    }
}

fn of_phase(phase: &Phase, input: &Input<'_>, revision: Option<&str>) -> Condition {
    use ConditionKind::Deployed;
    match phase {
        Phase::Begin => {
            condition(Deployed, ConditionStatus::False, Reason::Waiting, "the wanted revision is not deployed yet")
        }
        Phase::Draining => {
            condition(Deployed, ConditionStatus::False, Reason::Draining, "a service of this name is still draining")
        }
        Phase::Rolling(rolling) => {
            let failed = if rolling.failed > 0 { format!(", {} failed", rolling.failed) } else { String::new() };
            let why = input
                .failure_excerpt
                .filter(|words| !words.is_empty())
                .map_or_else(String::new, |words| format!(": {words}"));
            let message =
                format!("rolling out: {} of {} tasks run{failed}{why}", rolling.running, rolling.desired_count);
            condition(Deployed, ConditionStatus::Unknown, Reason::Rolling, message)
        }
        Phase::Held { reason, passes } => {
            let serves = match serving(input) {
                None => "nothing serves".to_owned(),
                Some(serving) if Some(serving.as_str()) == revision => "some of its tasks serve".to_owned(),
                Some(serving) => format!("{serving} still serves"),
            };
            let revision = revision.unwrap_or("this revision");
            // The user's own error says more than ECS's word for it.
            let why = input.failure_excerpt.filter(|words| !words.is_empty()).unwrap_or(reason);
            let again = if *passes { "is tried again in a few minutes" } else { "is not tried again" };
            let message = format!("{revision} failed and {again}; {serves}: {why}");
            condition(Deployed, ConditionStatus::False, Reason::RolloutFailed, message)
        }
        Phase::Steady => up_to_date(Deployed, "the service runs the wanted revision"),
    }
}

fn failing(phase: &Phase) -> bool {
    match phase {
        Phase::Held { .. } => true,
        Phase::Rolling(rolling) => rolling.failed > 0,
        Phase::Begin | Phase::Draining | Phase::Steady => false,
    }
}

fn of_answers(input: &Input<'_>, phase: &Phase, revision: Option<&str>, proven: Option<&Proven>) -> Condition {
    use ConditionKind::Loaded;
    if let Some(proven) = proven
        && proven.agreed
        && Some(proven.revision.as_str()) == revision
    {
        return up_to_date(Loaded, "every task answers with its definitions loaded");
    }
    if proven.is_none()
        && let Some((address, found)) = proof::foreign(input, revision).next()
    {
        let message = format!("{address} answers with {found}, which is no revision of this location");
        return condition(Loaded, ConditionStatus::Unknown, Reason::OtherRevision, message);
    }
    if *phase != Phase::Steady {
        return condition(Loaded, ConditionStatus::Unknown, Reason::Waiting, "waiting for the wanted revision");
    }
    for answered in input.answers {
        match &answered.answer {
            Answer::LoadError { message, .. } => {
                return condition(Loaded, ConditionStatus::False, Reason::LoadError, message);
            }
            Answer::Loaded { server_id, .. } if Some(server_id.as_str()) != revision => {
                let message = format!("{} still answers with {server_id}", answered.address);
                return condition(Loaded, ConditionStatus::Unknown, Reason::OtherRevision, message);
            }
            Answer::Loaded { .. } | Answer::Unreachable { .. } => {}
        }
    }
    let unreachable = input.answers.iter().find_map(|answered| match &answered.answer {
        Answer::Unreachable { message } => Some(format!("{}: {message}", answered.address)),
        _ => None,
    });
    let limit = match input.desired {
        super::Desired::Present { location, .. } => Duration::from_secs(u64::from(location.health.load_seconds)),
        _ => Duration::ZERO,
    };
    match unreachable {
        Some(message) if input.steady_for >= limit => {
            condition(Loaded, ConditionStatus::False, Reason::NotAnswering, message)
        }
        Some(message) => condition(Loaded, ConditionStatus::Unknown, Reason::Waiting, message),
        None => {
            condition(Loaded, ConditionStatus::Unknown, Reason::NoInstance, "no task is registered in Cloud Map yet")
        }
    }
}

fn of_workspace(input: &Input<'_>, wanted: Option<&str>, proven: Option<&Proven>) -> Condition {
    use ConditionKind::Registered;
    let Some(entry) = &input.workspace.entry else {
        return condition(Registered, ConditionStatus::False, Reason::NotPublished, "not in workspace.yaml yet");
    };
    let published = format!("in workspace.yaml as {}:{}", entry.host, entry.port);
    match (input.webserver, &input.workspace.web) {
        (WebserverState::NotConfigured, _) => up_to_date(Registered, published),
        (WebserverState::Unreachable(message), _) => {
            condition(Registered, ConditionStatus::Unknown, Reason::WebserverUnreachable, message)
        }
        (WebserverState::Answers, Some(WebLocation::Loaded { server_id })) => {
            let shown = server_id.as_deref();
            let serving = serving(input);
            let right = match proven {
                Some(proven) => shown == Some(proven.revision.as_str()),
                // No task says now what is right: what it runs, or is to run.
                None => shown.is_some() && (shown == wanted || shown == serving.as_deref()),
            };
            if right {
                return up_to_date(Registered, published);
            }
            let shown = shown.unwrap_or("no revision");
            condition(
                Registered,
                ConditionStatus::Unknown,
                Reason::OtherRevision,
                format!("the webserver shows {shown}"),
            )
        }
        (WebserverState::Answers, Some(WebLocation::Error { message })) => {
            condition(Registered, ConditionStatus::False, Reason::WebserverError, message)
        }
        (WebserverState::Answers, Some(WebLocation::Loading) | None) => {
            condition(Registered, ConditionStatus::Unknown, Reason::Waiting, "the webserver is loading it")
        }
    }
}

fn health(input: &Input<'_>, conditions: &[Condition], held: bool) -> Health {
    let failed = |condition: &Condition| {
        matches!(
            condition.reason,
            Reason::Unresolved
                | Reason::BuildFailed
                | Reason::RolloutFailed
                | Reason::LoadError
                | Reason::NotAnswering
                | Reason::WebserverError
        )
    };
    if held || conditions.iter().any(failed) {
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

/// Of a location that is frozen: whether what runs is well, whatever is wanted.
fn served_health(input: &Input<'_>) -> Health {
    match &input.observed.service {
        None => Health::Missing,
        Some(_) if proof::proven(input, None).is_some() => Health::Healthy,
        Some(_) => Health::Unknown,
    }
}

/// The cause comes before its symptom: what the webserver shows follows from everything before it, and is told only where all of that is
/// well.
fn first_word(conditions: &[Condition], empty: bool) -> String {
    let worst = conditions
        .iter()
        .filter(|condition| condition.kind != ConditionKind::Registered)
        .find(|condition| condition.status == ConditionStatus::False && BROKEN.contains(&condition.reason))
        .or_else(|| conditions.iter().find(|condition| condition.status != ConditionStatus::True));
    match worst {
        Some(condition) => condition.message.clone(),
        None if empty => "runs as wanted".to_owned(),
        None => "changes are being applied".to_owned(),
    }
}

/// The revision that answers: while a new one rolls out it is the one that completed before. Nothing, where none was ever rolled out whole
/// and no task of one answers.
fn serving(input: &Input<'_>) -> Option<String> {
    let service = input.observed.service.as_ref().filter(|service| service.exists() && service.running > 0)?;
    let whole = service::rolled_out(service, &input.observed.task_definitions).and_then(|one| one.revision());
    let loaded = || {
        input.answers.iter().find_map(|answered| match &answered.answer {
            Answer::Loaded { server_id, .. } if input.observed.has_revision(server_id) => Some(server_id.as_str()),
            _ => None,
        })
    };
    whole.or_else(loaded).map(str::to_owned)
}

fn address(input: &Input<'_>) -> Option<String> {
    input.workspace.entry.as_ref().map(|entry| format!("{}:{}", entry.host, entry.port))
}

#[cfg(test)]
mod tests {
    use ConditionKind::{Deployed, ImageReady, Loaded, Registered, SourceResolved};

    use super::*;

    /// All five conditions: these as they are given, and the others as wanted.
    fn conditions(given: &[(ConditionKind, ConditionStatus, Reason)]) -> Vec<Condition> {
        [SourceResolved, ImageReady, Deployed, Loaded, Registered]
            .map(|kind| {
                let found = given.iter().find(|(of, ..)| *of == kind);
                let (_, status, reason) = found.copied().unwrap_or((kind, ConditionStatus::True, Reason::UpToDate));
                condition(kind, status, reason, format!("{reason:?}"))
            })
            .to_vec()
    }

    #[test]
    fn a_cause_is_told_before_what_the_webserver_makes_of_it() {
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
                let told = first_word(&conditions(&[cause, symptom]), false);
                assert_eq!(told, format!("{:?}", cause.2), "{cause:?} beside {symptom:?}");
            }
            assert_eq!(first_word(&conditions(&[symptom]), false), format!("{:?}", symptom.2));
        }
    }

    #[test]
    fn of_two_causes_what_failed_is_told_before_what_is_waited_for() {
        let building = (ImageReady, ConditionStatus::Unknown, Reason::Building);
        let broken = (Loaded, ConditionStatus::False, Reason::LoadError);
        assert_eq!(first_word(&conditions(&[building, broken]), false), "LoadError");
        let failed = (Deployed, ConditionStatus::False, Reason::RolloutFailed);
        assert_eq!(first_word(&conditions(&[failed, broken]), false), "RolloutFailed");
        assert_eq!(first_word(&conditions(&[]), true), "runs as wanted");
    }
}
