//! Properties of reading and masking that hold for any text.

use codeloc_crds::edit::edit;
use codeloc_crds::{mask_credentials, parse};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

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

/// Fields in every style, with comments at every place.
const FIELDS: [(&str, &str); 8] = [
    ("name", "name: orders # ours\n"),
    ("branch", "branch: 'main'   # \"frozen\"\n"),
    ("tag", "# A tag.\n\"tag\": \"v1\"\n\n"),
    ("resources", "resources: # small\n  # May\n  cpu: 256 # a quarter\n\n  memory: 512\n"),
    (
        "environment",
        "environment:\n# A list.\n- name: A # first\n  value: |\n    # text\n    more\n- {name: B, value: ü} # second\n",
    ),
    ("access", "access: {read: [a, # one\n  'b'], write: []}\n"),
    ("tags", "tags:\n    team: >-\n      two\n      lines\n    cost: # none\n"),
    ("subdirectory", "subdirectory: a\n  b\n# Later.\n"),
];

fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{1,5}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
    ];
    scalar.prop_recursive(2, 12, 4, |inner| {
        let key = prop_oneof![Just("cpu".to_owned()), Just("name".to_owned()), "[ -~]{1,6}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 1..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<String, Value>>())),
        ]
    })
}

/// The fields in an order, with a line end.
fn config() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let order = Just(FIELDS.to_vec()).prop_shuffle();
    (order, any::<bool>(), any::<bool>()).prop_map(|(order, windows, unended)| {
        let mut fields: Vec<(&str, String)> = order
            .into_iter()
            .map(|(key, text)| (key, if windows { text.replace('\n', "\r\n") } else { text.to_owned() }))
            .collect();
        if unended && let Some((_, last)) = fields.last_mut() {
            last.truncate(last.trim_end().len());
        }
        fields
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edit_changes_only_its_field(fields in config(), index in 0..FIELDS.len(), value in any_value()) {
        let text: String = fields.iter().map(|(_, text)| text.as_str()).collect();
        let before: String = fields[..index].iter().map(|(_, text)| text.as_str()).collect();
        let after: String = fields[index + 1..].iter().map(|(_, text)| text.as_str()).collect();
        let edited = edit(&text, json!({fields[index].0: value}).as_object().unwrap());
        let edited = edited.map_err(|error| TestCaseError::fail(format!("{error}: {value} in {text}")))?;
        prop_assert!(edited.starts_with(&before) && edited.ends_with(&after), "{value}\n{text}\n{edited}");
        prop_assert!(edited.len() >= before.len() + after.len());
    }

    #[test]
    fn a_new_field_can_be_removed_again(fields in config(), value in any_value()) {
        let text: String = fields.iter().map(|(_, text)| text.as_str()).collect();
        prop_assume!(value != json!({}));
        let set = |text: &str, value: &Value| edit(text, json!({"new field": value}).as_object().unwrap());
        let added = set(&text, &value).map_err(|error| TestCaseError::fail(format!("{error}: {value} in {text}")))?;
        prop_assert!(added.starts_with(&text), "{added}");
        let removed = set(&added, &Value::Null).map_err(|error| TestCaseError::fail(format!("{error}: {added}")))?;
        prop_assert_eq!(removed, text);
    }
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
