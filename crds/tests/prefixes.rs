//! Whose a prefix of the shared bucket is, and which config is at fault where two want the same.

use std::collections::BTreeMap;

use codeloc_crds::{ConfigError, FleetErrors, Glimpse, RepositoryName, check_fleet, glimpse, parse, read};
use insta::assert_snapshot;
use proptest::prelude::*;

fn config(name: &str, lines: &str) -> String {
    format!("name: {name}\ngit_url: https://github.com/user/repo.git\nmodule: x\n{lines}")
}

fn error(name: &str, lines: &str) -> Option<ConfigError> {
    parse(&format!("repos/{name}/config.yml"), &config(name, lines)).err()
}

/// The configs of a fleet checked against each other, beside some that do not pass.
fn fleet(configs: &[(&str, &str)], broken: &[(&str, &str)]) -> FleetErrors {
    let parsed: Vec<_> = configs
        .iter()
        .map(|(name, lines)| {
            read(&format!("repos/{name}/config.yml"), &config(name, lines)).expect("each is valid by itself")
        })
        .collect();
    let broken: BTreeMap<RepositoryName, Glimpse> =
        broken.iter().map(|(name, text)| (RepositoryName::new(name).expect("a valid name"), glimpse(text))).collect();
    check_fleet(&parsed, &broken)
}

fn contested(errors: &FleetErrors) -> Vec<&str> {
    errors.contested.keys().map(RepositoryName::as_str).collect()
}

fn refused(errors: &FleetErrors) -> Vec<&str> {
    errors.refused.keys().map(RepositoryName::as_str).collect()
}

#[test]
fn anothers_place_is_refused_whether_or_not_it_has_a_config() {
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
     hint: leave `s3_prefix` out for `repos/NAME`, or choose a folder elsewhere, such as teams/NAME
    ");
}

#[test]
fn a_config_that_reaches_for_anothers_prefix_leaves_the_other_valid() {
    assert_eq!(fleet(&[("orders", ""), ("zeta", "s3_prefix: teams/z\n")], &[]), FleetErrors::default());
    assert!(error("aaa", "s3_prefix: repos/orders\n").is_some());
}

#[test]
fn a_locations_own_place_may_be_written_out_or_narrowed() {
    for prefix in ["repos/aaa", "repos/aaa/v2", "teams/aaa", "reposx/orders", "codeloc2/x", "data/system"] {
        assert_eq!(error("aaa", &format!("s3_prefix: {prefix}\n")), None);
    }
}

#[test]
fn what_the_platform_keeps_is_neither_a_prefix_nor_a_grant() {
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
fn grants_on_other_locations_are_a_feature() {
    let lines = "access: {read: [repos/orders, teams/b], write: [repos/orders/in, repos/shared/x, teams/b/in]}\n";
    let errors = fleet(&[("aaa", lines), ("orders", ""), ("b", "s3_prefix: teams/b\n")], &[]);
    assert_eq!(errors, FleetErrors::default());
}

#[test]
fn a_write_grant_names_a_location_that_has_a_config() {
    let lines = "access:\n  write:\n    - repos/orders\n    - repos/payroll\n    - terraform\n";
    let errors = fleet(&[("aaa", lines), ("orders", "")], &[]);
    assert_eq!((contested(&errors), refused(&errors)), (vec![], vec!["aaa"]));
    assert_snapshot!(errors.refused["aaa"].render(false), @r"
     error: `access.write` grants `repos/payroll`, which is no location's
      ╭─[repos/aaa/config.yml:7:7]
    6 │     - repos/orders
    7 │     - repos/payroll
      ·       ^^^^^^^^^^^^^
    8 │     - terraform
      ╰────
     hint: write the prefix of a location that has a config, or remove the line
     error: `access.write` grants `terraform`, which is no location's
      ╭─[repos/aaa/config.yml:8:7]
    7 │     - repos/payroll
    8 │     - terraform
      ·       ^^^^^^^^^
      ╰────
     hint: write the prefix of a location that has a config, or remove the line
    ");
    // A folder that holds others' prefixes is not one of them.
    let above = fleet(&[("aaa", "access: {write: [teams]}\n"), ("b", "s3_prefix: teams/b\n")], &[]);
    assert_eq!(refused(&above), ["aaa"]);
}

#[test]
fn a_grant_on_a_location_whose_config_broke_stays_good() {
    let lines = "access: {write: [repos/orders, teams/b]}\n";
    let broken = [("orders", "name: orders\nbanch: x\n"), ("b", "name: b\ns3_prefix: teams/b\nbranch: [\n")];
    assert_eq!(fleet(&[("aaa", lines)], &broken), FleetErrors::default());
}

#[test]
fn both_configs_that_take_the_same_free_folder_are_reported() {
    let errors = fleet(&[("b", "s3_prefix: data/x\n"), ("a", "s3_prefix: data/x/y\n"), ("c", "")], &[]);
    assert_eq!((contested(&errors), refused(&errors)), (vec!["a", "b"], vec![]));
    assert_snapshot!(errors.contested["b"].render(false), @r"
     error: prefix `data/x` overlaps `data/x/y` of `a`
      ╭─[repos/b/config.yml:4:12]
    3 │ module: x
    4 │ s3_prefix: data/x
      ·            ^^^^^^
      ╰────
     hint: give `b` an `s3_prefix` that neither holds nor lies in another's; until then only the one that runs with it goes on
    ");
}

#[test]
fn the_prefix_of_a_config_that_broke_is_still_taken() {
    let broken = [("orders", "name: orders\ns3_prefix: data/x\nbanch: main\n")];
    assert_eq!(contested(&fleet(&[("aaa", "s3_prefix: data/x\n")], &broken)), ["aaa"]);
    // It does not take the place of another name.
    let grab = [("aaa", "name: aaa\ns3_prefix: repos/orders\n")];
    assert_eq!(fleet(&[("orders", "")], &grab), FleetErrors::default());
}

#[test]
fn prefixes_that_only_begin_alike_do_not_overlap() {
    let configs = [("a", "s3_prefix: data/x\n"), ("b", "s3_prefix: data/xy\n"), ("c", ""), ("ca", "")];
    assert_eq!(fleet(&configs, &[]), FleetErrors::default());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever an attacker's config says and however it is called: a location in its own place is neither refused nor contested.
    #[test]
    fn no_config_touches_a_location_in_its_own_place(
        name in "[a-z]{1,3}",
        prefix in "(repos|teams|codeloc|shared)(/(orders|[a-z]{1,2})){0,2}",
    ) {
        prop_assume!(name != "orders");
        let text = config(&name, &format!("s3_prefix: {prefix}\n"));
        let path = format!("repos/{name}/config.yml");
        let victim = read("repos/orders/config.yml", &config("orders", "")).unwrap();
        let errors = if let Ok(parsed) = read(&path, &text) {
            let taken = &parsed.repository.s3_prefix;
            prop_assert!(!taken.starts_with("repos/orders"), "{}", taken);
            check_fleet([&victim, &parsed], &BTreeMap::new())
        } else {
            let broken = RepositoryName::new(&name).map(|name| (name, glimpse(&text)));
            check_fleet([&victim], &broken.into_iter().collect())
        };
        prop_assert!(!errors.contested.contains_key("orders") && !errors.refused.contains_key("orders"));
    }
}
