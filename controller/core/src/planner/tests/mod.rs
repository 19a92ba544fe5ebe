//! Properties of the planner, tested with a pure model of AWS.

mod images;
pub(super) mod model;
mod permissions;
mod protection;
mod readiness;
mod repair;
mod runs;
mod tracked_fields;
mod upgrade;

use std::time::Duration;

use model::*;
use proptest::prelude::*;

use super::{Answered, Input, Plan, Runs, WebserverState, lint, plan};
use crate::dagster::Answer;
use crate::ids::Commit;
use crate::image::ImageStatus;
use crate::resources::{Action, Kind, ObservedResources, Step, service, task_definition, workspace};
use crate::status::{Health, Sync};
use crate::tags::Tags;

fn history() -> impl Strategy<Value = Vec<Desire>> {
    prop::collection::vec(desire(), 1..5)
}

/// A change by another AWS user.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Retention,
    DeleteLogGroup,
    DeleteDiscovery,
    Policy,
    ExtraPolicy,
    DeleteRole,
    Capacity,
    DeleteScaling,
    Subnets,
    Tags,
    Ttl,
    Workspace,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop::sample::select(vec![
        Edit::Retention,
        Edit::DeleteLogGroup,
        Edit::DeleteDiscovery,
        Edit::Policy,
        Edit::ExtraPolicy,
        Edit::DeleteRole,
        Edit::Capacity,
        Edit::DeleteScaling,
        Edit::Subnets,
        Edit::Tags,
        Edit::Ttl,
        Edit::Workspace,
    ])
}

fn tamper(model: &mut Model, edit: Edit) {
    let observed = &mut model.observed;
    match edit {
        Edit::Retention => observed.log_group.iter_mut().for_each(|observed| observed.retention_days = None),
        Edit::DeleteLogGroup => observed.log_group = None,
        Edit::DeleteDiscovery => observed.discovery = None,
        Edit::Policy => observed.role.iter_mut().for_each(|observed| observed.policies.clear()),
        Edit::ExtraPolicy => observed.role.iter_mut().for_each(|observed| {
            observed.policies.insert("by-hand".to_owned(), (&serde_json::json!({"Statement": []})).into());
        }),
        Edit::DeleteRole => observed.role = None,
        Edit::Capacity => observed.scaling.iter_mut().for_each(|observed| observed.max += 5),
        Edit::DeleteScaling => observed.scaling = None,
        Edit::Subnets => {
            observed.service.iter_mut().for_each(|observed| observed.network.subnets = vec!["subnet-z".to_owned()]);
        }
        Edit::Tags => observed.role.iter_mut().for_each(|observed| {
            observed.tags.remove("team");
        }),
        Edit::Ttl => observed.discovery.iter_mut().for_each(|observed| observed.records = vec![("A".to_owned(), 600)]),
        Edit::Workspace => model.shown = None,
    }
}

proptest! {
    #[test]
    fn every_history_converges(history in history()) {
        let mut model = Model::default();
        for desire in &history {
            let plan = model.converge(desire);
            prop_assert!(plan.is_empty(), "{plan:#?}");
            match desire {
                Desire::Present(location, image) => {
                    prop_assert_eq!((plan.report.sync, plan.report.health), (Sync::Synced, Health::Healthy));
                    let service = model.observed.service.as_ref().unwrap();
                    let running = model.observed.task_definitions.iter().find(|observed| observed.arn == service.task_definition).unwrap();
                    let content = running.content.as_ref().unwrap();
                    prop_assert_eq!(&content.image, &image.reference);
                    prop_assert_eq!(&content.memory, &location.resources.memory.to_string());
                    prop_assert_eq!(model.shown.as_deref(), plan.report.revision.as_deref());
                }
                Desire::Absent => {
                    let service = model.observed.service.as_deref().is_some_and(service::Observed::exists);
                    let left = |kind: &Kind| if *kind == Kind::Service { service } else { model.observed.has(*kind) };
                    prop_assert_eq!(Kind::ALL.into_iter().filter(left).collect::<Vec<_>>(), []);
                }
            }
        }
    }

    #[test]
    fn the_next_plan_continues_an_interrupted_one(history in history(), cut in 0_usize..12) {
        let mut model = Model::default();
        for desire in &history {
            let plan = model.plan(desire);
            for step in plan.steps.iter().take(cut) {
                model.apply(step);
            }
            let plan = model.converge(desire);
            prop_assert!(plan.is_empty(), "{plan:#?}");
        }
    }

    #[test]
    fn codeloc_repairs_every_change_by_hand(first in desire(), edits in prop::collection::vec(edit(), 1..4)) {
        let mut model = Model::default();
        model.converge(&first);
        for edit in edits {
            tamper(&mut model, edit);
        }
        let plan = model.converge(&first);
        prop_assert!(plan.is_empty(), "{plan:#?}");
    }

    #[test]
    fn resources_of_another_owner_are_not_changed(desire in desire(), kind in prop::sample::select(Kind::ALL.to_vec())) {
        let mut model = Model::default();
        let Desire::Present(location, _) = &desire else { return Ok(()) };
        model.converge(&desire);
        let mut tags = tags_of(&mut model.observed, kind);
        if tags.is_empty() {
            return Ok(());
        }
        for tags in &mut tags {
            **tags = Tags::from([("team".to_owned(), "others".to_owned())]);
        }
        let mut changed = location.clone();
        changed.resources.memory = 2048;
        let plan = model.plan(&Desire::Present(changed.clone(), image(7)));
        // Several owners may register definitions in one family.
        if !matches!(kind, Kind::TaskDefinition | Kind::RunDefinition) {
            prop_assert!(plan.is_empty(), "{plan:#?}");
        }
        let plan = model.plan(&Desire::Absent);
        prop_assert!(plan.steps.iter().chain(&plan.later).all(|step| step.kind() != kind), "{plan:#?}");
    }

    #[test]
    fn a_broken_image_never_replaces_a_serving_one(good in desire(), memory in prop::sample::select(vec![512_u32, 1024])) {
        let mut model = Model::default();
        if matches!(good, Desire::Absent) {
            return Ok(());
        }
        model.converge(&good);
        let (entry, serving) = (model.entry.clone(), model.serving_id());
        let broken = image(9);
        model.broken.push(broken.reference.clone());
        let desire = Desire::Present(Box::new(location(memory, 2, None)), broken);
        let plan = model.converge(&desire);
        prop_assert_eq!(plan.report.health, Health::Degraded);
        prop_assert_eq!(&model.entry, &entry);
        prop_assert_eq!(&model.serving_id(), &serving);
        let deployments = model.deployments;
        // After a restart, codeloc still does not retry the revision.
        for _ in 0..3 {
            let plan = model.converge(&desire);
            prop_assert!(plan.steps.is_empty());
        }
        prop_assert_eq!(model.deployments, deployments);
        let plan = model.converge(&good);
        prop_assert_eq!(plan.report.health, Health::Healthy);
    }

    #[test]
    fn a_rollback_during_a_restart_is_not_retried(good in desire()) {
        if matches!(good, Desire::Absent) {
            return Ok(());
        }
        let mut model = Model::default();
        model.converge(&good);
        let broken = image(9);
        model.broken.push(broken.reference.clone());
        let desire = Desire::Present(Box::new(location(512, 2, None)), broken);
        let plan = model.plan(&desire);
        plan.steps.iter().for_each(|step| model.apply(step));
        // codeloc is not running while ECS rolls back.
        model.settle();
        let deployments = model.deployments;
        let plan = model.converge(&desire);
        prop_assert_eq!(plan.report.health, Health::Degraded);
        prop_assert_eq!(model.deployments, deployments);
    }

    #[test]
    fn an_earlier_revision_is_not_registered_twice(versions in prop::collection::vec(0_u8..3, 2..8)) {
        let mut model = Model::default();
        for version in &versions {
            let plan = model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(*version)));
            prop_assert_eq!(plan.report.health, Health::Healthy);
        }
        let distinct: std::collections::BTreeSet<_> = versions.iter().collect();
        prop_assert_eq!(model.observed.task_definitions.len(), distinct.len());
    }

    #[test]
    fn the_previous_commit_is_remembered(
        changes in prop::collection::vec((0_u8..4, prop::sample::select(vec![512_u32, 1024])), 1..8)
    ) {
        let mut model = Model::default();
        model.broken.push(image(3).reference);
        // The commit that serves, and the one before it.
        let (mut serves, mut before): (Option<Commit>, Option<Commit>) = (None, None);
        for (version, memory) in changes {
            let image = image(version);
            let commit = image.commit.clone();
            model.converge(&Desire::Present(Box::new(location(memory, 2, None)), image));
            if version == 3 {
                prop_assert_eq!(model.observed.served_before(commit.as_ref()), serves.clone());
                continue;
            }
            if serves != commit {
                before = std::mem::replace(&mut serves, commit);
            }
            prop_assert_eq!(model.observed.served_before(serves.as_ref()), before.clone());
        }
    }
}

#[test]
fn resources_are_created_after_those_that_they_need() {
    let mut model = Model::default();
    let plan = model.plan(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
    let kinds: Vec<Kind> =
        plan.steps.iter().filter(|step| step.describe().action == Action::Create).map(Step::kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::LogGroup,
            Kind::ImageRepository,
            Kind::Role,
            Kind::TaskDefinition,
            Kind::Discovery,
            Kind::Service,
            Kind::RunDefinition,
            Kind::Scaling,
            Kind::Scaling,
            Kind::Scaling,
        ]
    );
    assert_eq!(plan.later.iter().map(Step::kind).collect::<Vec<_>>(), [Kind::Workspace]);
}

#[test]
fn a_later_plan_for_the_same_image_repeats_the_first() {
    let mut model = Model::default();
    let desire = |version| Desire::Present(Box::new(location(512, 2, None)), image(version));
    model.converge(&desire(1));
    let first = model.plan(&desire(2)).steps;
    let later = model.plan(&desire(2)).steps;
    assert_ne!(first, later, "an attempt contains its time");
    assert!(later.iter().zip(&first).all(|(step, earlier)| step.repeats(earlier)), "{later:?}");
    let other = model.plan(&desire(3)).steps;
    assert!(!other.iter().zip(&first).any(|(step, earlier)| step.repeats(earlier)), "{other:?}");
}

#[test]
fn without_an_image_only_independent_resources_are_created() {
    let (deployment, observed, workspace) =
        (deployment(), ObservedResources::default(), workspace::Observed::default());
    let location = location(512, 2, None);
    let input = Input {
        name: &NAME,
        desired: &with_image(&location, ImageStatus::Building("resolving 133 packages".to_owned())),
        deployment: &deployment,
        observed: &observed,
        workspace: &workspace,
        webserver: WebserverState::NotConfigured,
        answers: &[],
        failure_excerpt: None,
        record: None,
        steady_for: Duration::ZERO,
        unlisted_for: Duration::ZERO,
        now_ms: 0,
        hold: None,
        may_protect: false,
        runs: &Runs::None,
    };
    let plan = plan(input);
    let kinds: std::collections::BTreeSet<Kind> = plan.steps.iter().map(Step::kind).collect();
    assert_eq!(kinds, [Kind::LogGroup, Kind::ImageRepository, Kind::Role].into());
    assert!(plan.report.message.contains("133 packages"), "{}", plan.report.message);
    let text = super::render::text(&[super::render::Document::new(&NAME, &plan)]);
    assert!(text.contains("image: (known after apply)"), "{text}");
}

#[test]
fn a_task_without_loaded_definitions_is_not_published() {
    let mut model = Model::default();
    let (location, image) = (location(512, 2, None), image(1));
    model.converge(&Desire::Present(Box::new(location.clone()), image.clone()));
    let deployment = deployment();
    let address = "127.0.0.1:4000".parse().unwrap();
    let broken = Answer::LoadError { server_id: "id".to_owned(), message: "No module named 'pandas'".to_owned() };
    let silent = Answer::Unreachable { message: "refused".to_owned() };
    for answer in [broken, silent] {
        let input = Input {
            name: &NAME,
            desired: &present(&location, &image),
            deployment: &deployment,
            observed: &model.observed,
            workspace: &workspace::Observed::default(),
            webserver: WebserverState::Answers,
            answers: &[Answered { address, answer }],
            failure_excerpt: None,
            record: None,
            steady_for: Duration::from_secs(600),
            unlisted_for: Duration::from_secs(600),
            now_ms: 0,
            hold: None,
            may_protect: false,
            runs: &Runs::None,
        };
        let plan = plan(input);
        assert_eq!(plan.steps, []);
        assert_eq!(plan.report.health, Health::Degraded);
    }
}

#[test]
fn an_execution_role_stays_while_a_task_can_start_with_it() {
    let mut model = Model::default();
    let secret = "arn:aws:ssm:eu-central-1:123456789012:parameter/orders/token";
    let mut with = location(512, 2, None);
    with.secrets = [("TOKEN".to_owned(), secret.to_owned())].into();
    model.converge(&Desire::Present(Box::new(with), image(1)));
    let role = model.observed.execution_role.clone().expect("an execution role");
    let runs = |model: &Model| model.observed.runs().unwrap().content.clone().unwrap();
    assert_eq!((runs(&model).execution_role_arn, runs(&model).secrets["TOKEN"].as_str()), (role.arn.clone(), secret));
    // The role of the code does not allow it.
    let code = model.observed.role.as_ref().unwrap();
    assert!(code.policies.values().all(|policy| !format!("{policy:?}").contains(secret)));

    for version in 1..=9 {
        let plan = model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(version)));
        assert_ne!(runs(&model).execution_role_arn, role.arn);
        for step in &plan.garbage {
            model.apply(step);
        }
        let mut named = model.observed.task_definitions.iter().chain(&model.observed.run_definitions);
        let named = named.any(|observed| observed.content.as_ref().unwrap().execution_role_arn == role.arn);
        assert!(!named || model.observed.execution_role.is_some(), "a task could start with it");
    }
    let plan = model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(9)));
    plan.garbage.iter().for_each(|step| model.apply(step));
    assert_eq!(model.observed.execution_role, None);
}

#[test]
fn old_task_definitions_are_garbage_unless_they_run() {
    let mut model = Model::default();
    let desire = |version: u8| Desire::Present(Box::new(location(512, 2, None)), image(version));
    for version in 1..=8 {
        model.converge(&desire(version));
    }
    let plan = model.converge(&desire(1));
    let runs = model.observed.service.as_ref().unwrap().task_definition.clone();
    assert!(model.observed.task_definitions.iter().any(|observed| observed.arn == runs && observed.number == 1));
    let collected: Vec<i32> = plan
        .garbage
        .iter()
        .filter_map(|step| match step {
            Step::TaskDefinition(task_definition::Change::Deregister { arn }) => Some(arn),
            _ => None,
        })
        .filter_map(|arn| model.observed.task_definitions.iter().find(|observed| observed.arn == *arn))
        .map(|observed| observed.number)
        .collect();
    assert_eq!(collected, [3, 2]);
    // The run definitions that only those name are garbage too.
    let runs: Vec<&Step> = plan.garbage.iter().filter(|step| step.kind() == Kind::RunDefinition).collect();
    assert_eq!(runs.len(), 2, "{runs:?}");
}
