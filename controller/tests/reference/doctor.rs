//! `docs/doctor.md`, and the actions that `codeloc doctor` simulates.

use std::collections::BTreeSet;

use codeloc::doctor::CHECKS;
use codeloc::doctor::permissions::ACTIONS;

use super::{GENERATED, assert_fresh, code, header, permissions, row};

const HEAD: &str = "\
# Doctor

`codeloc doctor` checks everything that a deployment depends on, with the settings and the credentials of the daemon, and
suggests fixes. It changes nothing. It exits with 1 if it finds a problem.

";

#[test]
fn the_doctor_page_is_fresh() {
    let mut page = format!("{GENERATED}{HEAD}{}", header(["Check", "Problems that it finds"]));
    for (check, finds) in CHECKS {
        page.push_str(&row([&code(check), finds]));
    }
    assert_fresh("docs/doctor.md", &page);
}

#[test]
fn the_doctor_checks_the_actions_of_the_policy() {
    let checked: BTreeSet<&str> = ACTIONS.iter().copied().collect();
    let allowed = permissions::actions();
    let allowed: BTreeSet<&str> = allowed.iter().map(String::as_str).collect();
    assert_eq!(checked, allowed);
}
