//! Files at and beyond every limit: codeloc reads each, or rejects it with an error of limited size.

use codeloc_crds::{ConfigError, parse, read};
use insta::assert_snapshot;
use proptest::prelude::*;

const PATH: &str = "repos/my-pipeline/config.yml";
const MINIMAL: &str = "name: my-pipeline\ngit_url: https://github.com/user/repo.git\nmodule: x\n";

/// Exceeds the 16-bit widths of miette.
const LONG: usize = 70_000;

fn error(text: &str) -> ConfigError {
    parse(PATH, text).expect_err("the text contains a mistake")
}

/// Checks that events, logs and terminals can show an error.
fn assert_presentable(error: &ConfigError) {
    for problem in error.problems() {
        assert!(problem.message.chars().count() <= 401, "{}", problem.message.len());
        assert!(problem.hint.chars().count() <= 401, "{}", problem.hint.len());
        assert!(!problem.message.contains(char::is_control), "{:?}", problem.message);
    }
    assert!(error.problems().len() <= 20, "{}", error.problems().len());
    let rendered = error.render(false);
    assert!(rendered.contains(&format!("[{PATH}:{}:{}]", error.line(), error.column())), "{rendered}");
    assert!(rendered.len() <= 20 * 20_000, "{}", rendered.len());
    assert!(rendered.lines().all(|line| line.chars().count() < 2000), "{rendered}");
    assert!(!error.render(true).is_empty());
    assert!(error.to_string().len() < 2000);
}

#[test]
fn shows_errors_for_long_text_in_any_field() {
    for letter in ["a", "é", "語", "\u{1f980}", "e\u{301}"] {
        let long = letter.repeat(LONG / letter.len());
        for text in [
            format!("{long}: x\n{MINIMAL}"),
            format!("{MINIMAL}{long}: x\n"),
            format!("{MINIMAL}resources: {{{long}: 1}}\n"),
            format!("{MINIMAL}mode: {long}\n"),
            format!("{MINIMAL}branch: a..{long}\n"),
            format!("{MINIMAL}tags: {{\"{long}\": x, \"aws:x\": y}}\n"),
            format!("{MINIMAL}tags: {{a: \"{long}\"}}\n"),
            format!("{MINIMAL}environment: [{{name: \"{long}\", value: x}}, {{name: 1X, value: x}}]\n"),
            format!("{MINIMAL}secrets: [{{name: A, value_from: \"{long}\"}}]\n"),
            format!("{MINIMAL}access: {{read: [\"{long}\", \"..\"]}}\n"),
            format!("{MINIMAL}s3_prefix: {long}\n"),
            format!("{MINIMAL}image: registry.example/{long}:1\n"),
            format!("{MINIMAL}attribute: {long}\n"),
            format!("{MINIMAL}dependencies: {long}\n"),
            format!("{MINIMAL}subdirectory: {long}\n"),
            format!("{MINIMAL}tag: {long}\n"),
            format!("name: {long}\ngit_url: https://github.com/user/repo.git\nmodule: x\n"),
            format!("name: my-pipeline\ngit_url: https://github.com/{long}\nmodule: {long}\n"),
            format!("name: my-pipeline\ngit_url: https://me:{long}@github.com/x\nmodule: x\n"),
            format!("name: my-pipeline\ngit_url: https://github.com/user/repo.git\nmodule: {long}\n"),
            format!("name: my-pipeline\ngit_url: https://github.com/user/repo.git\npython_file: {long}.py\n"),
            format!("# {long}\nbanch: x\n# {long}\n{MINIMAL}"),
            format!("{MINIMAL}environment: [{{name: A, value: \"{long}\"}}, {{name: 1X, value: x}}]\n"),
            format!("{MINIMAL}banch: x # {long}"),
            format!("{MINIMAL}{}", "[".repeat(LONG)),
            format!("{MINIMAL}mode: [{long}\n"),
            long.clone(),
        ] {
            assert_presentable(&error(&text));
        }
    }
}

#[test]
fn shows_the_part_of_a_long_line_around_the_mistake() {
    let padding = "x".repeat(LONG);
    let error = error(&format!("{MINIMAL}tags: {{a: \"{padding}\", \"aws:b\": c, d: \"{padding}\"}}\n"));
    let rendered = error.render(false);
    let marked = rendered.lines().zip(rendered.lines().skip(1)).find_map(|(line, carets)| {
        let start = carets.chars().position(|c| c == '^')?;
        let end = carets.chars().collect::<Vec<_>>().iter().rposition(|c| *c == '^')?;
        (start > 60).then(|| line.chars().skip(start).take(end - start + 1).collect::<String>())
    });
    assert_eq!(marked.as_deref(), Some("\"aws:b\""), "{rendered}");
}

#[test]
fn shows_the_first_mistakes_and_counts_the_rest() {
    let keys: String = (0..4000).map(|number| format!("unknown{number}: x\n")).collect::<Vec<_>>().concat();
    let error = error(&format!("{MINIMAL}{keys}"));
    assert_eq!((error.problems().len(), error.more()), (20, 3980));
    assert_eq!(error.problems()[19].line, 23);
    let rendered = error.render(false);
    assert!(rendered.ends_with("and 3980 more problems\n"), "{rendered}");
    assert_snapshot!(error, @"repos/my-pipeline/config.yml:4:1: unknown field `unknown0` (and 3999 more problems)");
}

#[test]
fn limits_the_mistakes_of_each_kind() {
    let each = |line: &dyn Fn(usize) -> String| (0..2000).map(line).collect::<String>();
    for text in [
        each(&|number| format!("banch{number}: x\n")),
        format!("environment:\n{}", each(&|number| format!("  - {{name: {number}X, value: x}}\n"))),
        format!("environment:\n{}", each(&|_| "  - {name: A, value: x}\n".to_owned())),
        format!("environment:\n{}", each(&|_| "  - 1\n".to_owned())),
        format!("secrets:\n{}", each(&|number| format!("  - {{name: A{number}, value_from: x}}\n"))),
        format!("access:\n  read:\n{}", each(&|_| "    - ..\n".to_owned())),
        format!("tags:\n{}", each(&|number| format!("  \"aws:{number}\": x\n"))),
        format!("resources: {{{}}}\n", each(&|number| format!("cpu{number}: 1, "))),
    ] {
        assert_presentable(&error(&format!("{MINIMAL}{text}")));
    }
}

#[test]
fn escapes_control_characters_in_keys() {
    let error = error(&format!("{MINIMAL}\"\\e]0;pwned\\a\": x\n"));
    assert_snapshot!(error.message(), @r"unknown field `\u{1b}]0;pwned\u{7}`");
}

#[test]
fn rejects_variables_that_exceed_a_task_definition() {
    let variables = |number: usize, value: &str| {
        let lines: String = (0..number)
            .map(|number| format!("  - {{name: V{number:05}, value: \"{value}\"}}\n"))
            .collect::<Vec<_>>()
            .concat();
        format!("{MINIMAL}environment:\n{lines}")
    };
    assert!(parse(PATH, &variables(1, &"x".repeat(48_000))).is_ok());
    assert!(parse(PATH, &variables(1000, "x")).is_ok());
    assert_snapshot!(error(&variables(5000, "x")).render(false), @r#"
     error: `environment` and `secrets` take 150000 bytes together; the limit is 49152
      ╭─[repos/my-pipeline/config.yml:4:1]
    3 │ module: x
    4 │ environment:
      · ^^^^^^^^^^^
    5 │   - {name: V00000, value: "x"}
      ╰────
     hint: move large values to a file in the git repository or in the bucket
    "#);
    // JSON escapes each of these characters with six bytes.
    assert!(error(&variables(1, &"\\x01".repeat(10_000))).message().contains("60029 bytes"));
}

#[test]
fn rejects_secrets_and_grants_that_exceed_an_iam_policy() {
    let arn =
        |number: usize| format!("arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/{number:04}-AbCdEf");
    let secrets = |number: usize| {
        let lines: String = (0..number)
            .map(|number| format!("  - {{name: S{number}, value_from: \"{}\"}}\n", arn(number)))
            .collect::<Vec<_>>()
            .concat();
        format!("{MINIMAL}secrets:\n{lines}")
    };
    assert!(parse(PATH, &secrets(100)).is_ok());
    assert!(error(&secrets(200)).message().contains("200 secrets are too many"));
    let grants = |field: &str, number: usize| {
        let lines: String =
            (0..number).map(|number| format!("    - repos/team-{number}\n")).collect::<Vec<_>>().concat();
        format!("{MINIMAL}access:\n  {field}:\n{lines}")
    };
    for field in ["read", "write"] {
        assert!(parse(PATH, &grants(field, 30)).is_ok());
        assert!(error(&grants(field, 60)).message().contains("too many for one IAM policy"));
    }
}

fn piece() -> impl Strategy<Value = String> {
    let letters =
        prop_oneof![Just("a"), Just("ü"), Just("語"), Just("\u{1f980}"), Just("[{"), Just("\\u0007"), Just("\t")];
    (letters, prop_oneof![0_usize..5, 390_usize..410, 65_500_usize..65_560])
        .prop_map(|(letter, number)| letter.repeat(number))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_panics_on_long_text(
        pieces in proptest::collection::vec(piece(), 1..4),
        shape in prop_oneof![
            Just("\"P\": \"P\"\n"), Just("tags: {\"P\": \"P\", 'aws:x': P}\n"), Just("P\n"), Just("# P\r\nbanch: \"P\"\r\n"),
            Just("environment: [{name: \"P\", value: \"P\"}]\n"), Just("- P: [P, {P: P\n"),
        ],
    ) {
        let mut pieces = pieces.iter().cycle();
        let text: String = shape.split_inclusive('P').map(|part| match part.strip_suffix('P') {
            Some(start) => format!("{start}{}", pieces.next().unwrap()),
            None => part.to_owned(),
        }).collect();
        for text in [format!("{MINIMAL}{text}"), text] {
            if let Err(error) = read(PATH, &text) {
                assert_presentable(&error);
            }
        }
    }
}
