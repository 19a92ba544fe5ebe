//! No module imports itself, directly or through others.

use std::path::Path;

use codeloc_tests::imports::circles;

const CRATES: [&str; 8] = [
    "crds/src",
    "controller/core/src",
    "controller/git/src",
    "controller/images/src",
    "controller/dagster/src",
    "controller/aws/src",
    "controller/src",
    "deploy/local/src",
];

#[test]
fn no_crate_has_an_import_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let found: Vec<_> = CRATES
        .iter()
        .flat_map(|folder| circles(&root.join(folder)).into_iter().map(move |circle| (*folder, circle)))
        .collect();
    assert_eq!(found, []);
}
