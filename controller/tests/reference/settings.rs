//! `docs/settings.md` and `deploy/codeloc.example.yml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use codeloc::settings::{Leaf, Settings, arguments, leaves, load};
use serde_json::{Value, json};

use super::{GENERATED, assert_fresh, code, file, header, read, row};

const PAGE: &str = "docs/settings.md";
const EXAMPLE: &str = "deploy/codeloc.example.yml";

const PAGE_HEAD: &str = "\
# Settings

The daemon reads its settings from one file: `codeloc.yml` in the working directory, or the file that `--config` names.
Each setting is also a flag and an environment variable. The order of precedence is:

1. flag
2. environment variable
3. file
4. default

Write the value of a list or a map as YAML in all three places: `--aws-subnets '[subnet-a, subnet-b]'`. Relative paths,
also those in the file, are relative to the working directory. An empty value is an error; leave the setting out instead.
The daemon reads its settings when it starts: restart it after a change.

[`deploy/codeloc.example.yml`](../deploy/codeloc.example.yml) contains every setting with a realistic value. `RUST_LOG`
sets the log level, for example `RUST_LOG=codeloc=debug`. codeloc takes AWS credentials, and the region if `aws.region`
is not set, from the same sources as the AWS CLI: environment variables, a profile, or the role of its task.
";

const EXAMPLE_HEAD: &str = "\
# Every setting of codeloc, with values of a deployment on AWS. Each setting is also a flag and an environment variable:
# aws.cluster is --aws-cluster and CODELOC_AWS_CLUSTER. `null` means 'not set'. A setting that you leave out has its default.
# Generated from the code: UPDATE_DOCS=1 cargo test -p codeloc --test reference

";

/// Values of the example for settings whose default is empty or does not work on AWS.
fn realistic() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("source.git_url", json!("https://github.com/acme/data-platform.git")),
        ("source.git_branch", json!("main")),
        ("source.git_folder", json!("repos")),
        ("git.tokens", json!({"https://github.com/acme/": "/run/secrets/github-token"})),
        ("build.indexes", json!({"acme": "https://packages.acme.example/simple"})),
        ("build.index_credentials", json!({"acme": "/run/secrets/package-index"})),
        ("build.exclusive_packages", json!({"acme-*": "acme"})),
        ("aws.region", json!("eu-central-1")),
        ("aws.bucket", json!("acme-dagster")),
        ("aws.subnets", json!(["subnet-0a1b2c3d4e5f60718", "subnet-18f60e5d4c3b2a190"])),
        ("aws.security_groups", json!(["sg-0123456789abcdef0"])),
        ("aws.execution_role_arn", json!("arn:aws:iam::123456789012:role/dagster-execution")),
        ("aws.permissions_boundary", json!("arn:aws:iam::123456789012:policy/codeloc-location")),
        ("build.base_image", json!("123456789012.dkr.ecr.eu-central-1.amazonaws.com/codeloc-base:3.12")),
        ("build.requirements", json!(["dagster==1.13.27", "dagster-aws==0.29.27", "dagster-postgres==0.29.27"])),
        (
            "dagster.environment",
            json!({"DAGSTER_POSTGRES_HOST": "postgres.dagster.internal", "DAGSTER_POSTGRES_USER": "dagster"}),
        ),
        (
            "dagster.secrets",
            json!({"DAGSTER_POSTGRES_PASSWORD": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:dagster-db-a1b2c3"}),
        ),
        ("dagster.webserver_url", json!("http://webserver.dagster.internal:3000")),
        ("dagster.workspace_file", json!("/srv/dagster/workspace.yaml")),
    ])
}

/// Settings by section. The first section has no name: it contains the settings outside of sections.
fn sections() -> Vec<(String, Vec<Leaf>)> {
    let mut sections = vec![(String::new(), vec![])];
    for leaf in leaves() {
        let name = leaf.path.split_last().map_or_else(String::new, |(_, folders)| folders.join("."));
        match sections.iter_mut().find(|(section, _)| *section == name) {
            Some((_, leaves)) => leaves.push(leaf),
            None => sections.push((name, vec![leaf])),
        }
    }
    sections
}

fn description_of(section: &str) -> String {
    let schema = schemars::schema_for!(Settings).to_value();
    schema["properties"][section]["description"].as_str().unwrap_or_default().to_owned()
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::String(text) if text.is_empty()) || yaml(value) == "[]" || yaml(value) == "{}"
}

/// Whether the example is invalid if this setting has its default.
fn is_required(leaf: &Leaf) -> bool {
    let mut settings: Value = serde_saphyr::from_str(&example()).unwrap();
    settings[&leaf.path[0]][&leaf.path[1]] = leaf.default.clone();
    serde_json::from_value::<Settings>(settings).unwrap().check().is_err()
}

/// YAML on one line.
fn yaml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(yaml).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{}: {}", json!(key), yaml(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn page() -> String {
    let mut page = format!("{GENERATED}{PAGE_HEAD}");
    for (section, leaves) in sections() {
        if !section.is_empty() {
            write!(page, "\n## `{section}`\n\n{}\n", description_of(&section)).unwrap();
        }
        page.push('\n');
        page.push_str(&header(["Setting", "Flag", "Variable", "Default", "Description"]));
        for leaf in leaves {
            let default = match &leaf.default {
                Value::Null => "not set".to_owned(),
                empty if is_empty(empty) && is_required(&leaf) => "required".to_owned(),
                empty if is_empty(empty) => "none".to_owned(),
                Value::String(text) => code(text),
                other => code(&yaml(other)),
            };
            page.push_str(&row([
                &code(&leaf.path.join(".")),
                &code(&format!("--{}", leaf.flag())),
                &code(&leaf.variable()),
                &default,
                &leaf.description,
            ]));
        }
    }
    page
}

/// Wraps text into lines of at most `width` characters that start with `start`.
fn wrapped(text: &str, start: &str, width: usize) -> String {
    let mut lines = vec![start.to_owned()];
    for word in text.split_whitespace() {
        let line = lines.last().unwrap();
        if line != start && line.len() + 1 + word.len() > width {
            lines.push(start.to_owned());
        }
        write!(lines.last_mut().unwrap(), " {word}").unwrap();
    }
    lines.join("\n") + "\n"
}

fn example() -> String {
    let mut example = EXAMPLE_HEAD.to_owned();
    let mut realistic = realistic();
    for (section, leaves) in sections() {
        let indent = if section.is_empty() { "" } else { "  " };
        if !section.is_empty() {
            write!(example, "\n{}{section}:\n", wrapped(&description_of(&section), "#", 118)).unwrap();
        }
        for leaf in leaves {
            let value = realistic.remove(leaf.path.join(".").as_str()).unwrap_or(leaf.default);
            let key = leaf.path.last().unwrap();
            let value = yaml(&value);
            writeln!(example, "{}{indent}{key}: {value}", wrapped(&leaf.description, &format!("{indent}#"), 118))
                .unwrap();
        }
    }
    example
}

#[test]
fn the_settings_page_is_fresh() {
    assert_fresh(PAGE, &page());
}

#[test]
fn the_example_file_contains_every_setting() {
    assert_fresh(EXAMPLE, &example());
    let mut named = Vec::new();
    paths(&serde_saphyr::from_str(&read(EXAMPLE)).unwrap(), "", &mut named);
    let known: Vec<String> = leaves().iter().map(|leaf| leaf.path.join(".")).collect();
    assert_eq!(named, known);
}

#[test]
fn every_realistic_value_belongs_to_a_setting() {
    let known: Vec<String> = leaves().iter().map(|leaf| leaf.path.join(".")).collect();
    let stale: Vec<&str> = realistic().into_keys().filter(|name| !known.contains(&(*name).to_owned())).collect();
    assert_eq!(stale, Vec::<&str>::new());
}

/// Paths of the settings in the file. A map that is a setting ends its path.
fn paths(value: &Value, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let is_section = prefix.is_empty() && value.is_object();
        if is_section {
            paths(value, key, found);
        } else {
            found.push(format!("{prefix}.{key}").trim_start_matches('.').to_owned());
        }
    }
}

#[test]
fn the_example_file_is_valid() {
    assert_fresh(EXAMPLE, &example());
    let path = file(EXAMPLE);
    let matches = clap::Command::new("codeloc").args(arguments()).get_matches_from([
        "codeloc",
        "--config",
        path.to_str().unwrap(),
    ]);
    let settings = load(&matches).unwrap();
    settings.check().unwrap();
    assert_eq!(settings.aws.bucket, "acme-dagster");
}
