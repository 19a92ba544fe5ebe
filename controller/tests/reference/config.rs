//! `docs/config.md`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{GENERATED, assert_fresh, code, header, read, row};

const PAGE: &str = "docs/config.md";

const HEAD: &str = "\
# `config.yml`

One file, `repos/NAME/config.yml`, is one code location. A location needs three lines:

```yaml
name: my-pipeline
git_url: https://github.com/user/repo.git
python_file: my_pipeline/definitions.py
```

`codeloc validate repos` checks a folder without network. Editors complete and check the file with the schema that
`codeloc schema` prints (committed as [`crds/repository.schema.json`](../crds/repository.schema.json)):

```yaml
# yaml-language-server: $schema=../../crds/repository.schema.json
```

A file that does not pass freezes its own location as it is: nothing of it is changed and nothing deleted. The error
shows file, line, caret and a hint for each of the first 20 mistakes, in `validate`, in `plan` and in `status`. Whatever one file holds,
the others are read and applied.

A location is deleted when no config names it any more. A config that does not pass still counts: where the folder was renamed and `name`
was not (or the other way round), the location of the old name stays as it is, and its status says which file to correct.

";

/// What the schema cannot say.
const TAIL: &str = "
## Checks beyond the fields

- `name` is the name of the folder, and none of `shared`, `system` and `temp`.
- One of `python_file` and `module`; at most one of `branch`, `tag` and `commit`.
- `cpu` and `memory` are a pair that Fargate offers; the hint of the error lists the sizes that go with a `cpu`.
- `s3_prefix` and `access` keep to whose a prefix is, as described below.
- `min_capacity` is not greater than `max_capacity`. Where the two are equal there is no scaling, and the count is theirs.
- `dependencies` does not stand beside `image` or `dockerfile`, which bring their own; no more does `python_version` beside `dockerfile`, nor `dockerfile` beside `image`.
- `image` has a tag or a digest, and its registry no link-local or metadata address; `image_policy` stands beside a tag only.
- `environment` and `secrets` together take at most 48 KiB: ECS has 64 KiB for a task definition. `access.read`, `access.write` and `secrets` fit
  into IAM policies: about 30 prefixes each, and about 100 secrets.
- No unknown field, no key twice, no credentials in `git_url`.
- A redirect of the git host is followed to a repository on the same host, such as a renamed one. Another host gets neither a token nor a
  request: the status names it, and `git_url` is to say where the repository is.

## Whose a prefix is

| Prefix | Whose | As `s3_prefix` | In `access` |
| --- | --- | --- | --- |
| `repos/NAME` and below | the location NAME, whether or not it has a config | of NAME only | by any config; to write, NAME must have a config |
| `repos/shared` | the platform; every location reads it | refused | may be granted for writing |
| `repos`, `repos/system`, `repos/temp` | the platform | refused | refused |
| `shared`, `system`, `temp`, `codeloc` at the root of the bucket, and below | the platform; `codeloc/DEPLOYMENT` holds the controller's lease and builds | refused | refused |
| any other, such as `teams/a` | the location whose `s3_prefix` it is | of one location | by any config; to write, it must lie in a location's `s3_prefix` |

A config that reaches for a prefix that is not its own is itself the invalid one. It never makes another config invalid that keeps to `repos/NAME`.

Two configs with the same free prefix, or with one inside the other's, are both reported by `validate`. The daemon lets the location go on that
already runs with the prefix, and leaves the other as it is: no name and no order of commits takes a prefix away from a running location.
Where neither runs with it, both wait until one of the two is changed. Where both have run with it since before they were compared, both go on.
A prefix in a config that does not pass counts as taken.
";

fn page() -> String {
    let schema = codeloc_crds::schema();
    let mut fields = Vec::new();
    collect(&schema, "", &mut fields);
    let (coming, working): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, field)| field.get("not").is_some());

    let mut page = format!("{GENERATED}{HEAD}## Fields\n\n");
    page.push_str(&header(["Field", "Type", "Default", "Limits", "Description"]));
    for (name, field) in working {
        let default = match &field["default"] {
            _ if field["required"] == true => "required".to_owned(),
            Value::Array(_) => "none".to_owned(),
            Value::Object(fields) if fields.is_empty() => "none".to_owned(),
            // The fields of a structure have theirs.
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) => code(text),
            other => code(&other.to_string()),
        };
        page.push_str(&row([&code(&name), &kind(&field), &default, &limits(&field), text(&field)]));
    }
    page.push_str("\n## Not supported yet\n\nThese names are kept: to write one is an error that says so.\n\n");
    for (name, field) in coming {
        writeln!(page, "- `{name}`: {}", text(&field).trim_start_matches("Not supported yet: ")).unwrap();
    }
    page + TAIL
}

fn text(field: &Value) -> &str {
    field["description"].as_str().unwrap_or_default()
}

/// Every field with its way from the root, a structure before what is in it.
fn collect(schema: &Value, way: &str, fields: &mut Vec<(String, Value)>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let required = schema["required"].as_array().is_some_and(|names| names.contains(&name.clone().into()));
        let name = format!("{way}{name}");
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
        "array" => "list".to_owned(),
        "object" if field["properties"].is_object() => "structure".to_owned(),
        "object" => "map of texts".to_owned(),
        other => other.to_owned(),
    }
}

fn limits(field: &Value) -> String {
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
fn the_page_of_the_config_is_fresh() {
    assert_fresh(PAGE, &page());
}

/// The first block of YAML in a text.
fn block(text: &str) -> &str {
    text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap()
}

#[test]
fn the_configs_of_the_page_and_of_the_readme_are_valid() {
    for text in [HEAD, &read("README.md")] {
        codeloc_crds::parse("repos/my-pipeline/config.yml", block(text)).unwrap();
    }
}
