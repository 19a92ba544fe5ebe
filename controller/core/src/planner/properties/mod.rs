//! Properties of the planner, against a model of AWS that is as pure as the planner itself.

mod drift;
mod images;
pub(super) mod model;
mod proof;
mod protection;

use std::time::Duration;

use model::*;
use proptest::prelude::*;

use super::{Answered, Desired, ImageState, Input, Plan, WebserverState, lint, plan};
use crate::dagster::Answer;
use crate::resources::{Action, Kind, ObservedResources, Step, task_definition, workspace};
use crate::shared::Shared;
use crate::status::{Health, Sync};
use crate::tags::Tags;

fn history() -> impl Strategy<Value = Vec<Desire>> {
    prop::collection::vec(desire(), 1..5)
}

/// Something somebody did by hand.
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
            observed.service.iter_mut().for_each(|observed| observed.network.subnets = vec!["subnet-z".to_owned()])
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
    fn every_history_ends_in_a_fixpoint(history in history()) {
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
                    prop_assert_eq!(&model.shown, &plan.report.revision);
                }
                Desire::Absent => prop_assert!(!model.observed.any_owned(NAME, "codeloc"), "{:#?}", model.observed),
            }
        }
    }

    #[test]
    fn a_plan_cut_off_anywhere_is_taken_up_by_the_next(history in history(), cut in 0_usize..12) {
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
    fn whatever_is_changed_by_hand_is_repaired(first in desire(), edits in prop::collection::vec(edit(), 1..4)) {
        let mut model = Model::default();
        model.converge(&first);
        for edit in edits {
            tamper(&mut model, edit);
        }
        let plan = model.converge(&first);
        prop_assert!(plan.is_empty(), "{plan:#?}");
    }

    #[test]
    fn nothing_of_a_stranger_is_touched(desire in desire(), kind in 0_usize..5) {
        let mut model = Model::default();
        let Desire::Present(location, _) = &desire else { return Ok(()) };
        model.converge(&desire);
        let nobody = Shared::from(Tags::from([("team".to_owned(), "others".to_owned())]));
        let observed = &mut model.observed;
        let kind = match kind {
            0 => { observed.log_group.as_mut().unwrap().tags = nobody; Kind::LogGroup }
            1 => { observed.image_repository.as_mut().unwrap().tags = nobody; Kind::ImageRepository }
            2 => { observed.role.as_mut().unwrap().tags = nobody; Kind::Role }
            3 => { observed.discovery.as_mut().unwrap().tags = nobody; Kind::Discovery }
            _ => { observed.service.as_mut().unwrap().tags = nobody; Kind::Service }
        };
        let mut changed = location.clone();
        changed.resources.memory = 2048;
        let plan = model.plan(&Desire::Present(changed.clone(), image(7)));
        prop_assert!(plan.is_empty(), "{plan:#?}");
        let plan = model.plan(&Desire::Absent);
        prop_assert!(plan.steps.iter().chain(&plan.later).all(|step| step.kind() != kind), "{plan:#?}");
    }

    #[test]
    fn a_broken_image_never_takes_the_old_one_away(good in desire(), memory in prop::sample::select(vec![512_u32, 1024])) {
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
        // The controller comes back without a memory: the revision is still not tried again.
        for _ in 0..3 {
            let plan = model.converge(&desire);
            prop_assert!(plan.steps.is_empty());
        }
        prop_assert_eq!(model.deployments, deployments);
        let plan = model.converge(&good);
        prop_assert_eq!(plan.report.health, Health::Healthy);
    }

    #[test]
    fn a_rollback_that_nobody_watched_is_not_tried_again(good in desire()) {
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
        // The controller is away while ECS rolls back.
        model.settle();
        let deployments = model.deployments;
        let plan = model.converge(&desire);
        prop_assert_eq!(plan.report.health, Health::Degraded);
        prop_assert_eq!(model.deployments, deployments);
    }

    #[test]
    fn an_earlier_good_revision_is_rolled_out_again_without_being_registered_twice(versions in prop::collection::vec(0_u8..3, 2..8)) {
        let mut model = Model::default();
        for version in &versions {
            let plan = model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(*version)));
            prop_assert_eq!(plan.report.health, Health::Healthy);
        }
        let distinct: std::collections::BTreeSet<_> = versions.iter().collect();
        prop_assert_eq!(model.observed.task_definitions.len(), distinct.len());
    }

    #[test]
    fn what_served_before_the_present_commit_is_remembered(
        changes in prop::collection::vec((0_u8..4, prop::sample::select(vec![512_u32, 1024])), 1..8)
    ) {
        let mut model = Model::default();
        model.broken.push(image(3).reference);
        // The commit that serves, and the other one that did before it.
        let (mut serves, mut before): (Option<String>, Option<String>) = (None, None);
        for (version, memory) in changes {
            let image = image(version);
            let commit = image.commit.clone();
            model.converge(&Desire::Present(Box::new(location(memory, 2, None)), image));
            if version == 3 {
                prop_assert_eq!(model.observed.served_before(commit.as_deref()), serves.as_deref());
                continue;
            }
            if serves != commit {
                before = std::mem::replace(&mut serves, commit);
            }
            prop_assert_eq!(model.observed.served_before(serves.as_deref()), before.as_deref());
        }
    }
}

#[test]
fn an_empty_account_gets_everything_in_the_order_of_its_needs() {
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
fn a_plan_made_again_later_repeats_the_first_and_one_for_another_image_does_not() {
    let mut model = Model::default();
    let wanted = |version| Desire::Present(Box::new(location(512, 2, None)), image(version));
    model.converge(&wanted(1));
    let first = model.plan(&wanted(2)).steps;
    let later = model.plan(&wanted(2)).steps;
    assert_ne!(first, later, "they say when they were made");
    assert!(later.iter().zip(&first).all(|(step, earlier)| step.repeats(earlier)), "{later:?}");
    let other = model.plan(&wanted(3)).steps;
    assert!(!other.iter().zip(&first).any(|(step, earlier)| step.repeats(earlier)), "{other:?}");
}

#[test]
fn without_an_image_only_what_needs_none_is_made() {
    let (deployment, observed, workspace) =
        (deployment(), ObservedResources::default(), workspace::Observed::default());
    let location = location(512, 2, None);
    let input = Input {
        name: NAME,
        desired: Desired::Present { location: &location, image: ImageState::Building("resolving 133 packages") },
        deployment: &deployment,
        observed: &observed,
        workspace: &workspace,
        webserver: WebserverState::NotConfigured,
        answers: &[],
        failure_excerpt: None,
        steady_for: Duration::ZERO,
        now_ms: 0,
        hold: None,
        may_protect: false,
    };
    let plan = plan(input);
    let kinds: std::collections::BTreeSet<Kind> = plan.steps.iter().map(Step::kind).collect();
    assert_eq!(kinds, [Kind::LogGroup, Kind::ImageRepository, Kind::Role].into());
    assert!(plan.report.message.contains("133 packages"), "{}", plan.report.message);
    let text = super::render::text(&[super::render::Document::new(NAME, &plan)]);
    assert!(text.contains("image: (known after apply)"), "{text}");
}

#[test]
fn a_task_that_does_not_answer_with_its_definitions_is_not_published() {
    let mut model = Model::default();
    let (location, image) = (location(512, 2, None), image(1));
    model.converge(&Desire::Present(Box::new(location.clone()), image.clone()));
    let deployment = deployment();
    let address = "127.0.0.1:4000".parse().unwrap();
    let broken = Answer::LoadError { server_id: "id".to_owned(), message: "No module named 'pandas'".to_owned() };
    let silent = Answer::Unreachable { message: "refused".to_owned() };
    for answer in [broken, silent] {
        let input = Input {
            name: NAME,
            desired: Desired::Present { location: &location, image: ImageState::Ready(&image) },
            deployment: &deployment,
            observed: &model.observed,
            workspace: &workspace::Observed::default(),
            webserver: WebserverState::Answers,
            answers: &[Answered { address, answer }],
            failure_excerpt: None,
            steady_for: Duration::from_secs(600),
            now_ms: 0,
            hold: None,
            may_protect: false,
        };
        let plan = plan(input);
        assert_eq!(plan.steps, []);
        assert_eq!(plan.report.health, Health::Degraded);
    }
}

#[test]
fn a_location_has_an_execution_role_for_as_long_as_something_can_start_with_its_secrets() {
    let mut model = Model::default();
    let secret = "arn:aws:ssm:eu-central-1:123456789012:parameter/orders/token";
    let mut with = location(512, 2, None);
    with.secrets = [("TOKEN".to_owned(), secret.to_owned())].into();
    model.converge(&Desire::Present(Box::new(with), image(1)));
    let role = model.observed.execution_role.clone().expect("an execution role");
    let runs = |model: &Model| model.observed.runs().unwrap().content.clone().unwrap();
    assert_eq!((runs(&model).execution_role_arn, runs(&model).secrets["TOKEN"].as_str()), (role.arn.clone(), secret));
    // The code itself never has it.
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
        assert!(!named || model.observed.execution_role.is_some(), "something would start with it");
    }
    let plan = model.converge(&Desire::Present(Box::new(location(512, 2, None)), image(9)));
    plan.garbage.iter().for_each(|step| model.apply(step));
    assert_eq!(model.observed.execution_role, None);
}

#[test]
fn old_task_definitions_are_garbage_but_never_what_runs_however_old_it_is() {
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
    // And the run definitions that only those hand on.
    let runs: Vec<&Step> = plan.garbage.iter().filter(|step| step.kind() == Kind::RunDefinition).collect();
    assert_eq!(runs.len(), 2, "{runs:?}");
}
