//! What serves, and what a queued run may start from, keeps its permissions until something newer replaces it.

use super::model::*;
use crate::resources::Kind;

const OLD: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-old-abcdef";
const NEW: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-new-abcdef";

fn desire(secret: &str, prefix: &str, version: u8) -> Desire {
    let mut location = location(512, 2, None);
    location.secrets = [("TOKEN".to_owned(), secret.to_owned())].into();
    prefix.clone_into(&mut location.s3_prefix);
    Desire::Present(Box::new(location), image(version))
}

fn policies(model: &Model) -> String {
    let roles = model.observed.role.iter().chain(&model.observed.execution_role);
    roles.map(|role| serde_json::to_string(&role.policies).unwrap()).collect()
}

/// A location with the old secret and prefix, and the plans until nothing changes after its config names the new ones.
fn moved(broken: bool) -> Model {
    let mut model = Model::default();
    model.converge(&desire(OLD, "repos/old", 1));
    if broken {
        model.broken.push(image(2).reference);
    }
    model.converge(&desire(NEW, "repos/new", 2));
    model
}

#[test]
fn a_failed_revision_takes_no_permission_from_the_serving_one() {
    let policies = policies(&moved(true));
    for needed in [OLD, NEW, "repos/old/*", "repos/new/*"] {
        assert!(policies.contains(needed), "{needed} is not in {policies}");
    }
}

#[test]
fn a_queued_run_of_an_older_definition_keeps_its_permissions() {
    let model = moved(false);
    assert!(model.observed.run_definitions.len() > 1);
    assert!(policies(&model).contains(OLD));
}

#[test]
fn permissions_are_narrowed_when_no_definition_needs_them() {
    let mut model = moved(false);
    let is_new = |content: &crate::resources::task_spec::Content| content.own_prefix() == Some("repos/new");
    model.observed.run_definitions.retain(|one| one.content.as_ref().is_some_and(is_new));
    let plan = model.plan(&desire(NEW, "repos/new", 2));
    assert!(plan.steps.iter().any(|step| step.kind() == Kind::Role), "{plan:#?}");
    model.converge(&desire(NEW, "repos/new", 2));
    let policies = policies(&model);
    assert!(!policies.contains(OLD) && !policies.contains("repos/old"), "{policies}");
}
