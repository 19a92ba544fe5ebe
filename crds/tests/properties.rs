//! Properties of reading and masking that hold for any text.

use codeloc_crds::{mask_credentials, parse};
use proptest::prelude::*;

const PATH: &str = "repos/my-pipeline/config.yml";

fn shaped_lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("name: my-pipeline".to_owned()),
        Just("git_url: https://github.com/user/repo.git".to_owned()),
        Just("git_url: https://me:hunter2@host/é".to_owned()),
        Just("python_file: a.py".to_owned()),
        Just("environment:\r".to_owned()),
        Just("  - {name: A, value: \"ü".to_owned()),
        Just("  - {name: 1, value: |\n     x}".to_owned()),
        Just("tags: &a {<<: *a, ? b : c}".to_owned()),
        Just("resources: {cpu: 1e400, memory: .nan}".to_owned()),
        Just("commit: 99999999999999999999999999999999999999999999".to_owned()),
        Just("\u{2028}branch: 'x'\u{85}".to_owned()),
        Just("---\n%YAML 1.1".to_owned()),
        "[ a-z:{}\\[\\]&*!|>'\"#,\t-]{0,20}",
    ];
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

fn check_error_positions(text: &str) -> Result<(), TestCaseError> {
    let Err(error) = parse(PATH, text) else {
        return Ok(());
    };
    let lines: Vec<&str> = text.split('\n').collect();
    prop_assert!(!error.problems().is_empty());
    for problem in error.problems() {
        prop_assert!((1..=lines.len()).contains(&problem.line), "{problem:?}");
        prop_assert!((1..=lines[problem.line - 1].chars().count() + 1).contains(&problem.column), "{problem:?}");
    }
    let place = format!("[{PATH}:{}:", error.line());
    let rendered = error.render(false);
    prop_assert!(rendered.contains(&place), "{rendered}");
    prop_assert!(!error.render(true).contains("hunter2"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reports_errors_at_existing_lines_of_any_text(text in any::<String>()) {
        check_error_positions(&text)?;
    }

    #[test]
    fn reports_errors_at_existing_lines_of_similar_configs(text in shaped_lines()) {
        check_error_positions(&text)?;
    }

    #[test]
    fn masking_keeps_positions_and_is_idempotent(text in "([a-z:/@ ]|://|é){0,40}") {
        let masked = mask_credentials(&text);
        prop_assert_eq!(masked.len(), text.len());
        prop_assert_eq!(mask_credentials(&masked), masked);
    }
}
