//! Assignments of fields on a command line: `resources.cpu=512`, `tags."cost.center"=4711`.
//!
//! A value has the type of its field, so text needs no quotes: `python_version=3.10` is the text `3.10`.

use serde_json::{Map, Value, json};

use crate::schema::SCHEMA;
use crate::yaml::{Node, Value as Yaml};

/// The fields that all assignments set. An empty value sets a field to `null`, which removes it. Errors name the assignment.
pub fn fields<'a>(assignments: impl IntoIterator<Item = &'a str>) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    for assignment in assignments {
        assign(&mut fields, assignment).map_err(|error| format!("{assignment}: {error}"))?;
    }
    Ok(fields)
}

fn assign(fields: &mut Map<String, Value>, assignment: &str) -> Result<(), String> {
    let (path, value) = split(assignment)?;
    let (last, folders) = path.split_last().ok_or("use the form FIELD=VALUE")?;
    let (mut into, mut schema) = (fields, &*SCHEMA);
    for key in folders {
        schema = field_schema(schema, key);
        if is_text(schema) {
            return Err(format!("`{key}` is text and has no fields; put quotes around a key that contains a dot"));
        }
        let inner = into.entry(key.clone()).or_insert_with(|| json!({}));
        into = inner
            .as_object_mut()
            .ok_or_else(|| format!("another assignment gives `{key}` a single value; remove one of the two"))?;
    }
    let new = read(value, field_schema(schema, last))?;
    if let Some(Value::Object(_)) = into.get(last) {
        return Err(format!("another assignment sets a field of `{last}`; remove one of the two"));
    }
    into.insert(last.clone(), new);
    Ok(())
}

/// The keys of the path, and the value. A key in quotes may contain `.` and `=`.
fn split(assignment: &str) -> Result<(Vec<String>, &str), String> {
    const FORM: &str = "use the form FIELD=VALUE, for example resources.cpu=512 or tags.\"cost.center\"=4711";
    let (mut path, mut rest) = (Vec::new(), assignment);
    loop {
        let quote = rest.chars().next().filter(|first| matches!(first, '"' | '\''));
        let (key, after) = match quote {
            Some(quote) => {
                rest[1..].split_once(quote).ok_or_else(|| format!("a key has no closing {quote}; {FORM}"))?
            }
            None => rest.split_at(rest.find(['.', '=']).ok_or(FORM)?),
        };
        if key.is_empty() {
            return Err(format!("a key is empty; {FORM}"));
        }
        path.push(key.to_owned());
        match after.split_at_checked(1) {
            Some((".", after)) => rest = after,
            Some(("=", value)) => return Ok((path, value)),
            _ => return Err(FORM.to_owned()),
        }
    }
}

/// The schema of a field of a map; `null` if the field is unknown, which the check of the config reports.
fn field_schema<'a>(schema: &'a Value, key: &str) -> &'a Value {
    match &schema["properties"][key] {
        Value::Null => &schema["additionalProperties"],
        property => property,
    }
}

fn is_text(schema: &Value) -> bool {
    schema["type"] == "string"
}

fn read(value: &str, schema: &Value) -> Result<Value, String> {
    let parsed = Node::parse(value);
    let is_quoted = value.starts_with(['"', '\'']);
    match &parsed {
        _ if value.is_empty() => Ok(Value::Null),
        // `#1` is an empty value in YAML, and `a: b` a map.
        Ok(node) if is_text(schema) && !is_quoted => Ok(match &node.value {
            Yaml::Null if !value.starts_with('#') => Value::Null,
            _ => value.into(),
        }),
        Err(_) if is_text(schema) && !is_quoted => Ok(value.into()),
        Ok(node) => Ok(typed(node, schema, value)),
        Err(finding) => Err(format!("{}; {}", finding.message, finding.hint)),
    }
}

/// The value, with the text of numbers and booleans where the schema has text.
fn typed(node: &Node, schema: &Value, text: &str) -> Value {
    match &node.value {
        Yaml::Number(_) | Yaml::Boolean(_) if is_text(schema) => text[node.span.clone()].trim().into(),
        Yaml::List(items) => items.iter().map(|item| typed(item, &schema["items"], text)).collect(),
        Yaml::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone(), typed(&entry.node, field_schema(schema, &entry.key), text)))
            .collect(),
        _ => node.to_json(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(assignments: &[&str]) -> Value {
        Value::Object(fields(assignments.iter().copied()).unwrap())
    }

    fn error(assignments: &[&str]) -> String {
        fields(assignments.iter().copied()).unwrap_err()
    }

    #[test]
    fn assignments_set_and_remove_fields() {
        let fields = set(&["resources.cpu=512", "resources.memory=1024", "branch=", "tags={team: shop}", "tag=v1"]);
        let expected = json!({
            "resources": {"cpu": 512, "memory": 1024}, "branch": null, "tags": {"team": "shop"}, "tag": "v1",
        });
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_value_of_a_text_field_is_text() {
        for (assignment, expected) in [
            ("python_version=3.10", json!({"python_version": "3.10"})),
            ("tag=1.10", json!({"tag": "1.10"})),
            ("tag=\"1.10\"", json!({"tag": "1.10"})),
            ("tag='1.10'", json!({"tag": "1.10"})),
            ("tag=0x10", json!({"tag": "0x10"})),
            ("branch=#12", json!({"branch": "#12"})),
            ("branch=fix: this", json!({"branch": "fix: this"})),
            ("branch=[x", json!({"branch": "[x"})),
            ("branch=null", json!({"branch": null})),
            ("tags.team=true", json!({"tags": {"team": "true"}})),
            ("tags={team: 1.10}", json!({"tags": {"team": "1.10"}})),
            (
                "environment=[{name: A, value: 1.10}, {name: B, value: on}]",
                json!({"environment": [{"name": "A", "value": "1.10"}, {"name": "B", "value": "on"}]}),
            ),
            ("access.read=[1.10, b]", json!({"access": {"read": ["1.10", "b"]}})),
            ("resources.cpu=\"512\"", json!({"resources": {"cpu": "512"}})),
            ("unknown=1.10", json!({"unknown": 1.10})),
        ] {
            assert_eq!(set(&[assignment]), expected, "{assignment}");
        }
    }

    #[test]
    fn a_key_in_quotes_may_contain_dots() {
        for assignment in [r#"tags."a.b"=x=y"#, "tags.'a.b'=x=y", r#""tags"."a.b"=x=y"#] {
            assert_eq!(set(&[assignment]), json!({"tags": {"a.b": "x=y"}}), "{assignment}");
        }
        assert_eq!(set(&["tags.'a=b'=x"]), json!({"tags": {"a=b": "x"}}));
        assert_eq!(set(&["tags.cost:center=x"]), json!({"tags": {"cost:center": "x"}}));
    }

    #[test]
    fn a_malformed_assignment_says_what_to_write() {
        for (assignment, part) in [
            ("cpu", "cpu: use the form FIELD=VALUE"),
            ("=x", "a key is empty"),
            ("tags..a=x", "a key is empty"),
            ("tags.\"\"=x", "a key is empty"),
            ("tags.\"a=x", "a key has no closing \""),
            ("tags.\"a\"b=x", "use the form FIELD=VALUE"),
            ("tags.\"a\"", "use the form FIELD=VALUE"),
            ("tags.a.b=x", "`a` is text and has no fields; put quotes around a key that contains a dot"),
            ("resources={cpu: [", "invalid YAML"),
            ("environment=\u{1f}[", "invalid YAML"),
        ] {
            let error = error(&[assignment]);
            assert!(error.starts_with(assignment) && error.contains(part), "{assignment}: {error}");
        }
    }

    #[test]
    fn assignments_that_contradict_each_other_are_refused() {
        let expected = "resources=1: another assignment sets a field of `resources`; remove one of the two";
        assert_eq!(error(&["resources.cpu=1", "resources=1"]), expected);
        let expected = "resources.cpu=1: another assignment gives `resources` a single value; remove one of the two";
        assert_eq!(error(&["resources=1", "resources.cpu=1"]), expected);
    }
}
