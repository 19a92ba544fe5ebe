//! The list of watched fields is what changes are described by, no more and no less.

use std::collections::BTreeSet;

use serde_json::json;

use super::model::{Desire, Model, image, repository};
use crate::resources::drift::NOTES;
use crate::resources::service::Network;
use crate::resources::{Action, Kind, Live};

/// Everything that somebody can change, each in turn; some need what others would hide.
const TAMPERS: [fn(&mut Live); 7] = [
    |live| {
        live.log_group.iter_mut().for_each(|live| live.retention_days = None);
        live.image_repository.iter_mut().for_each(|live| (live.immutable_tags, live.scan_on_push) = (false, false));
        live.discovery.iter_mut().for_each(|live| {
            (live.records, live.multivalue, live.health_check) = (vec![("A".to_owned(), 600)], false, false);
        });
    },
    |live| {
        live.discovery.iter_mut().for_each(|live| live.records.clear());
        live.log_group.iter_mut().for_each(|live| drop(live.tags.remove("team")));
        live.image_repository.iter_mut().for_each(|live| drop(live.tags.remove("team")));
        live.role.iter_mut().chain(&mut live.execution_role).for_each(|live| drop(live.tags.remove("team")));
        live.discovery.iter_mut().for_each(|live| drop(live.tags.remove("team")));
        live.service.iter_mut().for_each(|live| drop(live.tags.remove("team")));
        live.task_definitions.iter_mut().for_each(|live| drop(live.tags.remove("team")));
        live.run_definitions.iter_mut().for_each(|live| drop(live.tags.remove("team")));
    },
    |live| {
        live.role.iter_mut().chain(&mut live.execution_role).for_each(|live| {
            live.path = "/".to_owned();
            live.trust = (&json!({})).into();
            live.policies = ["codeloc", "by-hand"].map(|name| (name.to_owned(), (&json!({})).into())).into();
            live.attached = vec!["arn:by-hand".to_owned()];
            live.permissions_boundary = Some("arn:by-hand".to_owned());
        });
    },
    |live| {
        live.service.iter_mut().for_each(|live| {
            live.network = Network::new(&[], &[], true);
            live.registry = None;
            live.desired = 7;
            let deployment = &mut live.deployment;
            (deployment.circuit_breaker, deployment.rollback) = (false, false);
            (deployment.minimum_healthy_percent, deployment.maximum_percent) = (0, 100);
            let manner = &mut live.manner;
            for text in
                [&mut manner.strategy, &mut manner.capacity, &mut manner.platform_version, &mut manner.propagate_tags]
            {
                "by hand".clone_into(text);
            }
            (manner.managed_tags, manner.execute_command, manner.zone_rebalancing) = (false, true, true);
            manner.health_check_grace_period = 60;
        });
        live.scaling.iter_mut().for_each(|live| {
            (live.max, live.suspended) = (9, vec!["scaling in"]);
            let policy = live.policies.values_mut().next().unwrap();
            policy.metric = crate::resources::scaling::Metric::Memory;
            (policy.target_milli, policy.scale_in) = (1, false);
            (policy.scale_in_cooldown, policy.scale_out_cooldown) = (1, 1);
            let policy = policy.clone();
            live.policies.insert("by-hand".to_owned(), policy);
        });
    },
    |live| {
        let mut other = live.run_definitions[0].clone();
        other.number += 1;
        other.foreign = vec!["user"];
        live.run_definitions.push(other);
    },
    // What runs is another definition than the one that is wanted.
    |live| {
        let mut other = live.runs().unwrap().clone();
        "arn:by-hand".clone_into(&mut other.arn);
        other.foreign = vec!["user"];
        let content = other.content.as_mut().unwrap();
        for text in [
            &mut content.image,
            &mut content.cpu,
            &mut content.memory,
            &mut content.task_role_arn,
            &mut content.execution_role_arn,
            &mut content.log_group,
        ] {
            "by hand".clone_into(text);
        }
        content.architecture = codeloc_crds::Architecture::X86_64;
        content.command.clear();
        content.secrets.clear();
        content.environment.clear();
        (content.port, content.stop_timeout, content.health_check) = (Some(1), 1, None);
        live.task_definitions.push(other.into());
        "arn:by-hand".clone_into(&mut live.service.as_mut().unwrap().task_definition);
    },
    |live| {
        let mut other = live.runs().unwrap().clone();
        "arn:by-hand".clone_into(&mut other.arn);
        "by hand".clone_into(&mut other.content.as_mut().unwrap().log_stream_prefix);
        live.task_definitions.push(other.into());
        "arn:by-hand".clone_into(&mut live.service.as_mut().unwrap().task_definition);
    },
];

/// Fields of all updates that a plan has after a change, by kind.
fn updated(max_capacity: u32, tamper: impl Fn(&mut Model)) -> BTreeSet<(Kind, &'static str)> {
    let mut model = Model::default();
    let mut repository = repository(512, max_capacity, Some("data".to_owned()));
    repository.secrets =
        [("TOKEN".to_owned(), "arn:aws:ssm:eu-central-1:123456789012:parameter/token".to_owned())].into();
    let desire = Desire::Present(Box::new(repository), image(1));
    model.converge(&desire);
    tamper(&mut model);
    let plan = model.plan(&desire);
    let mut found = BTreeSet::new();
    for step in plan.steps.iter().chain(&plan.later) {
        let description = step.describe();
        if description.action == Action::Update {
            let fields = description.fields.iter().filter(|field| !NOTES.contains(&field.name));
            found.extend(fields.map(|field| (step.kind(), field.name)));
        }
    }
    found
}

#[test]
fn the_list_of_watched_fields_is_what_updates_are_described_by() {
    let mut found = BTreeSet::new();
    for tamper in TAMPERS {
        found.extend(updated(2, |model| tamper(&mut model.live)));
        // Without scaling the count is codeloc's.
        found.extend(updated(1, |model| tamper(&mut model.live)));
    }
    let unwanted = |model: &mut Model| {
        let mut scaled = Model::default();
        scaled.converge(&Desire::Present(Box::new(repository(512, 2, None)), image(1)));
        model.live.scaling = scaled.live.scaling;
    };
    found.extend(updated(1, unwanted));
    found.extend(updated(2, |model| model.shown = None));
    found.extend(updated(2, |model| model.shown = Some("by hand".to_owned())));
    found.extend(updated(2, |model| "by-hand".clone_into(&mut model.entry.as_mut().unwrap().host)));

    let watched = Kind::ALL.iter().flat_map(|kind| kind.watched().iter().map(|watched| (*kind, watched.field)));
    assert_eq!(found, watched.collect());
}

#[test]
fn a_policy_that_took_the_metric_of_ours_goes_before_ours_comes_back() {
    let mut model = Model::default();
    let desire = Desire::Present(Box::new(repository(512, 2, None)), image(1));
    model.converge(&desire);
    let policies = &mut model.live.scaling.as_mut().unwrap().policies;
    let ours = policies.remove("codeloc-memory").unwrap();
    policies.insert("by-hand".to_owned(), ours);
    let words: Vec<String> = model.plan(&desire).steps.iter().map(|step| step.describe().name).collect();
    assert_eq!(words, ["by-hand", "codeloc-memory"]);
}
