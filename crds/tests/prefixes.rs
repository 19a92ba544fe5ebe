//! Owners of prefixes in the shared bucket, and errors for conflicting configs.

use std::collections::BTreeMap;

use codeloc_crds::{ConfigError, FleetErrors, Glimpse, LocationName, check_fleet, glimpse, parse, read};
use insta::assert_snapshot;
use proptest::prelude::*;

fn config(name: &str, lines: &str) -> String {
    format!("name: {name}\ngit_url: https://github.com/user/repo.git\nmodule: x\n{lines}")
}

fn error(name: &str, lines: &str) -> Option<ConfigError> {
    parse(&format!("repos/{name}/config.yml"), &config(name, lines)).err()
}

/// Checks valid configs against each other and against the text of invalid configs.
fn fleet(configs: &[(&str, &str)], broken: &[(&str, &str)]) -> FleetErrors {
    let parsed: Vec<_> = configs
        .iter()
        .map(|(name, lines)| {
            read(&format!("repos/{name}/config.yml"), &config(name, lines)).expect("each config is valid on its own")
        })
        .collect();
    let broken: BTreeMap<LocationName, Glimpse> =
        broken.iter().map(|(name, text)| (LocationName::new(name).expect("a valid name"), glimpse(text))).collect();
    check_fleet(&parsed, &broken)
}

fn contested(errors: &FleetErrors) -> Vec<&str> {
    errors.contested.keys().map(LocationName::as_str).collect()
}

fn refused(errors: &FleetErrors) -> Vec<&str> {
    errors.refused.keys().map(LocationName::as_str).collect()
}

#[test]
fn rejects_a_prefix_of_another_location() {
    for prefix in ["repos/orders", "repos/orders/raw", "repos/aaa-2", "repos/a", "repos"] {
        let error = error("aaa", &format!("s3_prefix: {prefix}\n")).expect(prefix);
        assert_eq!(error.line(), 4, "{error}");
    }
    assert_snapshot!(error("aaa", "s3_prefix: repos/orders\n").unwrap().render(false), @r"
     error: prefix `repos/orders` belongs to the location `orders`
      ╭─[repos/aaa/config.yml:4:12]
    3 │ module: x
    4 │ s3_prefix: repos/orders
      ·            ^^^^^^^^^^^^
      ╰────
     hint: remove `s3_prefix` to use `repos/NAME`, or use a folder outside of repos, such as teams/NAME
    ");
}

#[test]
fn a_location_stays_valid_when_another_claims_its_prefix() {
    assert_eq!(fleet(&[("orders", ""), ("zeta", "s3_prefix: teams/z\n")], &[]), FleetErrors::default());
    assert!(error("aaa", "s3_prefix: repos/orders\n").is_some());
}

#[test]
fn accepts_own_prefixes_and_folders_outside_of_repos() {
    for prefix in ["repos/aaa", "repos/aaa/v2", "teams/aaa", "reposx/orders", "codeloc2/x", "data/system"] {
        assert_eq!(error("aaa", &format!("s3_prefix: {prefix}\n")), None);
    }
}

#[test]
fn rejects_reserved_prefixes_and_grants() {
    for root in ["shared", "system", "temp", "codeloc"] {
        for prefix in [root.to_owned(), format!("{root}/production/builds"), format!("{root}/x")] {
            for lines in [
                format!("s3_prefix: {prefix}\n"),
                format!("access: {{read: [{prefix}]}}\n"),
                format!("access: {{write: [{prefix}]}}\n"),
            ] {
                let error = error("aaa", &lines).expect(&lines);
                assert!(error.message().contains("reserved"), "{lines}: {error}");
                assert_eq!(error.line(), 4);
            }
        }
    }
    for prefix in ["repos", "repos/system", "repos/temp/x", "\"\""] {
        for field in ["read", "write"] {
            assert!(error("aaa", &format!("access: {{{field}: [{prefix}]}}\n")).is_some(), "{field} {prefix}");
        }
    }
}

#[test]
fn accepts_grants_on_other_locations() {
    let lines = "access: {read: [repos/orders, teams/b], write: [repos/orders/in, repos/shared/x, teams/b/in]}\n";
    let errors = fleet(&[("aaa", lines), ("orders", ""), ("b", "s3_prefix: teams/b\n")], &[]);
    assert_eq!(errors, FleetErrors::default());
}

#[test]
fn rejects_write_grants_without_a_location() {
    let lines = "access:\n  write:\n    - repos/orders\n    - repos/payroll\n    - terraform\n";
    let errors = fleet(&[("aaa", lines), ("orders", "")], &[]);
    assert_eq!((contested(&errors), refused(&errors)), (vec![], vec!["aaa"]));
    assert_snapshot!(errors.refused["aaa"].render(false), @r"
     error: `access.write` grants `repos/payroll`, which belongs to no location
      ╭─[repos/aaa/config.yml:7:7]
    6 │     - repos/orders
    7 │     - repos/payroll
      ·       ^^^^^^^^^^^^^
    8 │     - terraform
      ╰────
     hint: grant the prefix of a location that has a config, or remove the line
     error: `access.write` grants `terraform`, which belongs to no location
      ╭─[repos/aaa/config.yml:8:7]
    7 │     - repos/payroll
    8 │     - terraform
      ·       ^^^^^^^^^
      ╰────
     hint: grant the prefix of a location that has a config, or remove the line
    ");
    // A parent folder of prefixes has no owner.
    let above = fleet(&[("aaa", "access: {write: [teams]}\n"), ("b", "s3_prefix: teams/b\n")], &[]);
    assert_eq!(refused(&above), ["aaa"]);
}

#[test]
fn accepts_a_grant_on_a_location_with_an_invalid_config() {
    let lines = "access: {write: [repos/orders, teams/b]}\n";
    let broken = [("orders", "name: orders\nbanch: x\n"), ("b", "name: b\ns3_prefix: teams/b\nbranch: [\n")];
    assert_eq!(fleet(&[("aaa", lines)], &broken), FleetErrors::default());
}

#[test]
fn reports_both_configs_with_overlapping_prefixes() {
    let errors = fleet(&[("b", "s3_prefix: data/x\n"), ("a", "s3_prefix: data/x/y\n"), ("c", "")], &[]);
    assert_eq!((contested(&errors), refused(&errors)), (vec!["a", "b"], vec![]));
    assert_snapshot!(errors.contested["b"].render(false), @r"
     error: prefix `data/x` overlaps `data/x/y` of `a`
      ╭─[repos/b/config.yml:4:12]
    3 │ module: x
    4 │ s3_prefix: data/x
      ·            ^^^^^^
      ╰────
     hint: set another `s3_prefix` for `b` or `a`; until then codeloc freezes each of the two that does not already run with its prefix
    ");
}

#[test]
fn an_invalid_config_keeps_its_prefix() {
    let broken = [("orders", "name: orders\ns3_prefix: data/x\nbanch: main\n")];
    assert_eq!(contested(&fleet(&[("aaa", "s3_prefix: data/x\n")], &broken)), ["aaa"]);
    // It cannot claim the prefix of another location.
    let claim = [("aaa", "name: aaa\ns3_prefix: repos/orders\n")];
    assert_eq!(fleet(&[("orders", "")], &claim), FleetErrors::default());
}

#[test]
fn prefixes_that_share_only_characters_do_not_overlap() {
    let configs = [("a", "s3_prefix: data/x\n"), ("b", "s3_prefix: data/xy\n"), ("c", ""), ("ca", "")];
    assert_eq!(fleet(&configs, &[]), FleetErrors::default());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The config of an attacker, with any name and prefix, never invalidates a location that uses its default prefix.
    #[test]
    fn no_config_invalidates_a_location_with_its_default_prefix(
        name in "[a-z]{1,3}",
        prefix in "(repos|teams|codeloc|shared)(/(orders|[a-z]{1,2})){0,2}",
    ) {
        prop_assume!(name != "orders");
        let text = config(&name, &format!("s3_prefix: {prefix}\n"));
        let path = format!("repos/{name}/config.yml");
        let victim = read("repos/orders/config.yml", &config("orders", "")).unwrap();
        let errors = if let Ok(parsed) = read(&path, &text) {
            let taken = &parsed.location.s3_prefix;
            prop_assert!(!taken.starts_with("repos/orders"), "{}", taken);
            check_fleet([&victim, &parsed], &BTreeMap::new())
        } else {
            let broken = LocationName::new(&name).map(|name| (name, glimpse(&text)));
            check_fleet([&victim], &broken.into_iter().collect())
        };
        prop_assert!(!errors.contested.contains_key("orders") && !errors.refused.contains_key("orders"));
    }
}
