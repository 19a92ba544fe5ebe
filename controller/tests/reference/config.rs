//! `docs/config.md`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{GENERATED, assert_fresh, code, header, read, row};

const PAGE: &str = "docs/config.md";

const HEAD: &str = "\
# `config.yml`

One file, `repos/NAME/config.yml`, defines one code location. Three lines are enough:

```yaml
name: my-pipeline
git_url: https://github.com/user/repo.git
python_file: my_pipeline/definitions.py
```

`codeloc validate repos` checks a folder offline. Editors complete and check the file with the schema that
`codeloc schema` prints (a copy is in [`crds/location.schema.json`](../crds/location.schema.json)). In your config
repository, run `codeloc schema > location.schema.json`, commit the file, and name it in the first line of each config:

```yaml
# yaml-language-server: $schema=../../location.schema.json
```

## Invalid and removed configs

**Invalid config.** codeloc freezes the location: it changes nothing and deletes nothing. `validate`, `plan` and `status`
show file, line, caret and a hint for each of the first 20 mistakes. An invalid file does not affect other files.

**Removed config.** codeloc deletes a location when no config names it any more. An invalid config still counts: if you
rename only the folder or only `name`, the location with the old name stays as it is, and its status shows which file to
correct. If you rename both, codeloc creates a location with the new name and deletes the one with the old name.

";

/// Checks that the schema cannot express.
const TAIL: &str = "
## Further checks

- `name` equals the name of the folder, and is not `shared`, `system` or `temp`.
- Set exactly one of `python_file` and `module`, and at most one of `branch`, `tag` and `commit`.
- `cpu` and `memory` must be a pair that Fargate offers. The error lists the memory sizes for the given `cpu`.
- `s3_prefix` and `access` must respect [prefix ownership](#prefix-ownership).
- `min_capacity` must not be greater than `max_capacity`. If the two are equal, there is no scaling, and the service has
  that number of tasks.
- Do not combine `dependencies` with `image` or `dockerfile`: such an image contains its own dependencies. Do not
  combine `dockerfile` with `python_version` or `image`.
- `image` needs a tag or a digest, and its registry must not have a link-local or metadata address. `image_policy` needs
  an `image` with a tag.
- `environment` and `secrets` together may take 48 KiB, because ECS limits a task definition to 64 KiB. `access.read`,
  `access.write` and `secrets` must fit into IAM policies: about 30 prefixes each, and about 100 secrets.
- Unknown fields, duplicate keys and credentials in `git_url` are errors.
- codeloc follows a redirect of the git host to a repository on the same host, such as a renamed one. If the redirect
  leads to another host, codeloc sends that host nothing and shows its name in the status. You then correct `git_url`.

## Prefix ownership

| Prefix | Owner | As `s3_prefix` | In `access` |
| --- | --- | --- | --- |
| `repos/NAME` and below | the location NAME, even without a config | NAME only | any config; for write access, NAME must have a config |
| `repos/shared` | the platform; every location reads it | refused | any config, also for write access |
| `repos`, `repos/system`, `repos/temp` | the platform | refused | refused |
| `shared`, `system`, `temp`, `codeloc` at the root of the bucket, and below | the platform; `codeloc/DEPLOYMENT` contains the controller's lease and the build cache | refused | refused |
| any other (a *free* prefix), such as `teams/a` | the location that has it as `s3_prefix` | one location | any config; for write access, the prefix must be within a location's `s3_prefix` |

A config that claims another location's prefix is itself invalid. It never invalidates a config that stays within
`repos/NAME`.

If two configs have the same free prefix, or one prefix contains the other, `validate` reports both configs. The daemon
prefers the location that already runs with the prefix, so no new config can take the prefix from a running location:

| Locations that already run with the prefix | Result |
| --- | --- |
| one | It continues. The daemon freezes the other location. |
| neither | Both wait until you change one of the configs. |
| both, because codeloc did not compare them before | Both continue. |

A prefix that an invalid config names counts as taken.
";

fn page() -> String {
    let schema = codeloc_crds::schema();
    let mut fields = Vec::new();
    collect(&schema, "", &mut fields);
    let (reserved, supported): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, field)| field.get("not").is_some());

    let mut page = format!("{GENERATED}{HEAD}## Fields\n\n");
    page.push_str(&header(["Field", "Type", "Default", "Limits", "Description"]));
    for (name, field) in supported {
        let default = match &field["default"] {
            _ if field["required"] == true => "required".to_owned(),
            Value::Array(_) => "none".to_owned(),
            Value::Object(fields) if fields.is_empty() => "none".to_owned(),
            // The fields of a structure have their own defaults.
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) => code(text),
            other => code(&other.to_string()),
        };
        page.push_str(&row([&code(&name), &kind(&field), &default, &limits(&field), text(&field)]));
    }
    page.push_str("\n## Not supported yet\n\nThese names are reserved. A config that uses one is invalid, and the error says so.\n\n");
    for (name, field) in reserved {
        writeln!(page, "- `{name}`: {}", text(&field).trim_start_matches("Not supported yet: ")).unwrap();
    }
    page + TAIL
}

fn text(field: &Value) -> &str {
    field["description"].as_str().unwrap_or_default()
}

/// All fields with their paths from the root. A structure precedes its fields.
fn collect(schema: &Value, path: &str, fields: &mut Vec<(String, Value)>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let required = schema["required"].as_array().is_some_and(|names| names.contains(&name.clone().into()));
        let name = format!("{path}{name}");
        let mut described = field.clone();
        if required {
            described["required"] = true.into();
        }
        fields.push((name.clone(), described));
        collect(field, &format!("{name}."), fields);
        collect(&field["items"], &format!("{name}[]."), fields);
    }
}

fn kind(field: &Value) -> String {
    match field["type"].as_str().unwrap_or_default() {
        "string" => "text".to_owned(),
        "" if field["oneOf"].is_array() => "text".to_owned(),
        "array" => "list".to_owned(),
        "object" if field["properties"].is_object() => "structure".to_owned(),
        "object" => "map of texts".to_owned(),
        other => other.to_owned(),
    }
}

fn limits(field: &Value) -> String {
    if let Some(choices) = field["oneOf"].as_array() {
        let values: Vec<String> = choices.iter().filter_map(|choice| choice["const"].as_str()).map(code).collect();
        return values.join(", ");
    }
    if let Some(values) = field["enum"].as_array() {
        return values
            .iter()
            .map(|value| code(value.as_str().unwrap_or(&value.to_string())))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let number = |key: &str| field[key].as_u64();
    let mut limits = Vec::new();
    match (number("minimum"), number("maximum")) {
        (Some(minimum), Some(maximum)) => limits.push(format!("{minimum} to {maximum}")),
        (Some(minimum), None) => limits.push(format!("at least {minimum}")),
        _ => {}
    }
    limits.extend(number("maxLength").map(|length| format!("at most {length} characters")));
    limits.extend(field["pattern"].as_str().map(code));
    limits.join("; ")
}

#[test]
fn the_config_page_is_fresh() {
    assert_fresh(PAGE, &page());
}

/// The first YAML block in a text.
fn block(text: &str) -> &str {
    text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap()
}

#[test]
fn the_example_configs_are_valid() {
    for text in [HEAD, &read("README.md")] {
        codeloc_crds::parse("repos/my-pipeline/config.yml", block(text)).unwrap();
    }
}
