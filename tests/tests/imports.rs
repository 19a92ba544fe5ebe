//! No module imports itself, directly or through others.

use std::path::Path;

use codeloc_tests::imports::circles;

/// Circles of the controller that are known. Remove those that are gone; add none.
const KNOWN_IN_CONTROLLER: [&[&str]; 5] = [
    &["api", "plan", "reconcile", "settings", "status"],
    &["build", "kinds", "source"],
    &[
        "build/checkout",
        "build/dependencies",
        "build/dockerfile",
        "build/image",
        "build/layer",
        "build/listing",
        "build/oci",
        "build/packages",
        "build/registry",
        "build/settings",
        "build/shelf",
        "build/uv",
    ],
    &[
        "kinds/aws",
        "kinds/discovery",
        "kinds/image_repository",
        "kinds/log_group",
        "kinds/role",
        "kinds/run_definition",
        "kinds/scaling",
        "kinds/service",
        "kinds/task_definition",
    ],
    &["reconcile/look", "reconcile/pass", "reconcile/tell", "reconcile/wanted"],
];

fn circles_below(folder: &str) -> Vec<Vec<String>> {
    circles(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder))
}

#[test]
fn localcloud_has_no_import_circles() {
    assert_eq!(circles_below("deploy/local/src"), [[""; 0]; 0]);
}

#[test]
fn the_controller_has_only_known_import_circles() {
    assert_eq!(circles_below("controller/src"), KNOWN_IN_CONTROLLER);
}
