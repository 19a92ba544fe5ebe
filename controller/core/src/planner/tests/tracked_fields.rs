//! The tracked fields are exactly the fields that changes describe.

use std::collections::BTreeSet;

use serde_json::json;

use super::model::{Desire, Model, image, location};
use crate::resources::service::Network;
use crate::resources::tracked_fields::NOTES;
use crate::resources::{Action, Kind, ObservedResources};

/// Changes by hand of every field. They are separate because some hide others.
const TAMPERS: [fn(&mut ObservedResources); 7] = [
    |observed| {
        observed.log_group.iter_mut().for_each(|observed| observed.retention_days = None);
        observed
            .image_repository
            .iter_mut()
            .for_each(|observed| (observed.immutable_tags, observed.scan_on_push) = (false, false));
        observed.discovery.iter_mut().for_each(|observed| {
            (observed.records, observed.multivalue, observed.health_check) =
                (vec![("A".to_owned(), 600)], false, false);
        });
    },
    |observed| {
        observed.discovery.iter_mut().for_each(|observed| observed.records.clear());
        observed.log_group.iter_mut().for_each(|observed| drop(observed.tags.remove("team")));
        observed.image_repository.iter_mut().for_each(|observed| drop(observed.tags.remove("team")));
        observed
            .role
            .iter_mut()
            .chain(&mut observed.execution_role)
            .for_each(|observed| drop(observed.tags.remove("team")));
        observed.discovery.iter_mut().for_each(|observed| drop(observed.tags.remove("team")));
        observed.service.iter_mut().for_each(|observed| drop(observed.tags.remove("team")));
        observed.task_definitions.iter_mut().for_each(|observed| drop(observed.tags.remove("team")));
        observed.run_definitions.iter_mut().for_each(|observed| drop(observed.tags.remove("team")));
    },
    |observed| {
        observed.role.iter_mut().chain(&mut observed.execution_role).for_each(|observed| {
            observed.path = "/".to_owned();
            observed.trust = (&json!({})).into();
            observed.policies = ["codeloc", "by-hand"].map(|name| (name.to_owned(), (&json!({})).into())).into();
            observed.attached = vec!["arn:by-hand".into()];
            observed.permissions_boundary = Some("arn:by-hand".into());
        });
    },
    |observed| {
        observed.service.iter_mut().for_each(|observed| {
            observed.network = Network::new(&[], &[], true);
            observed.registry = None;
            observed.desired_count = 7;
            let deployment = &mut observed.deployment;
            (deployment.circuit_breaker, deployment.rollback) = (false, false);
            (deployment.minimum_healthy_percent, deployment.maximum_percent) = (0, 100);
            let options = &mut observed.options;
            for text in [
                &mut options.strategy,
                &mut options.capacity,
                &mut options.platform_version,
                &mut options.propagate_tags,
            ] {
                "by hand".clone_into(text);
            }
            (options.managed_tags, options.execute_command, options.zone_rebalancing) = (false, true, true);
            options.health_check_grace_period = 60;
        });
        observed.scaling.iter_mut().for_each(|observed| {
            (observed.max, observed.suspended) = (9, vec!["scaling in"]);
            let policy = observed.policies.values_mut().next().unwrap();
            policy.metric = crate::resources::scaling::Metric::Memory;
            (policy.target_milli, policy.scale_in) = (1, false);
            (policy.scale_in_cooldown, policy.scale_out_cooldown) = (1, 1);
            let policy = policy.clone();
            observed.policies.insert("by-hand".to_owned(), policy);
        });
    },
    |observed| {
        let mut other = observed.run_definitions[0].clone();
        other.number += 1;
        other.foreign = vec!["user"];
        observed.run_definitions.push(other);
    },
    // The service runs another definition than the desired one.
    |observed| {
        let mut other = observed.runs().unwrap().clone();
        other.arn = "arn:by-hand".into();
        other.foreign = vec!["user"];
        let content = other.content.as_mut().unwrap();
        for text in [&mut content.image, &mut content.cpu, &mut content.memory, &mut content.log_group] {
            "by hand".clone_into(text);
        }
        content.task_role_arn = "by hand".into();
        content.execution_role_arn = "by hand".into();
        content.architecture = codeloc_crds::Architecture::X86_64;
        content.command.clear();
        content.secrets.clear();
        content.environment.clear();
        (content.port, content.stop_timeout, content.health_check) = (Some(1), 1, None);
        observed.task_definitions.push(other.into());
        observed.service.as_mut().unwrap().task_definition = "arn:by-hand".into();
    },
    |observed| {
        let mut other = observed.runs().unwrap().clone();
        other.arn = "arn:by-hand".into();
        "by hand".clone_into(&mut other.content.as_mut().unwrap().log_stream_prefix);
        observed.task_definitions.push(other.into());
        observed.service.as_mut().unwrap().task_definition = "arn:by-hand".into();
    },
];

/// The fields of all updates in the plan after a change by hand.
fn updated(max_capacity: u32, tamper: impl Fn(&mut Model)) -> BTreeSet<(Kind, &'static str)> {
    let mut model = Model::default();
    let mut location = location(512, max_capacity, Some("data".to_owned()));
    location.secrets =
        [("TOKEN".to_owned(), "arn:aws:ssm:eu-central-1:123456789012:parameter/token".to_owned())].into();
    let desire = Desire::Present(Box::new(location), image(1));
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
fn every_tracked_field_has_a_change_that_describes_it() {
    let mut found = BTreeSet::new();
    for tamper in TAMPERS {
        found.extend(updated(2, |model| tamper(&mut model.observed)));
        // codeloc sets the count only without scaling.
        found.extend(updated(1, |model| tamper(&mut model.observed)));
    }
    let unwanted = |model: &mut Model| {
        let mut scaled = Model::default();
        scaled.converge(&Desire::Present(Box::new(location(512, 2, None)), image(1)));
        model.observed.scaling = scaled.observed.scaling;
    };
    found.extend(updated(1, unwanted));
    found.extend(updated(2, |model| model.shown = None));
    found.extend(updated(2, |model| model.shown = Some("by hand".to_owned())));
    found.extend(updated(2, |model| "by-hand".clone_into(&mut model.entry.as_mut().unwrap().host)));

    let tracked = Kind::ALL.iter().flat_map(|kind| kind.tracked_fields().iter().map(|tracked| (*kind, tracked.field)));
    assert_eq!(found, tracked.collect());
}

#[test]
fn a_policy_with_the_metric_of_an_own_one_is_deleted_first() {
    let mut model = Model::default();
    let desire = Desire::Present(Box::new(location(512, 2, None)), image(1));
    model.converge(&desire);
    let policies = &mut model.observed.scaling.as_mut().unwrap().policies;
    let own = policies.remove("codeloc-memory").unwrap();
    policies.insert("by-hand".to_owned(), own);
    let names: Vec<String> = model.plan(&desire).steps.iter().map(|step| step.describe().name).collect();
    assert_eq!(names, ["by-hand", "codeloc-memory"]);
}
