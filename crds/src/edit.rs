//! Edits the text of a config and keeps the rest of it unchanged, including comments.

use serde_json::{Map, Value};

/// Why an edit failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("cannot edit the config, because it is not a map of fields: {0}")]
    Unreadable(String),
    /// Flow style at the top level, anchors, and anything else that is not one `key:` per line.
    #[error("codeloc cannot edit `{0}`, because this config does not have one `key:` per line; edit the file yourself")]
    NotInPlace(String),
}

/// The first line of a new config. Editors use it for completion and checks.
pub const SCHEMA_LINE: &str = "# yaml-language-server: $schema=../../crds/location.schema.json";

/// Writes a new config, one field per line.
pub fn write(fields: &Map<String, Value>) -> String {
    let mut text = format!("{SCHEMA_LINE}\n");
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        text.push_str(&line(key, value));
    }
    text
}

/// Sets fields. Merges maps field by field, replaces lists, and removes fields that are `null`.
pub fn edit(text: &str, fields: &Map<String, Value>) -> Result<String, EditError> {
    let before = read(text)?;
    let mut desired = before.clone();
    let mut edited = text.to_owned();
    for (key, value) in fields {
        merge(&mut desired, key, value);
        let new = desired.get(key).map(|value| line(key, value));
        if desired.get(key) != before.get(key) {
            edited = replace(&edited, key, new.as_deref().unwrap_or_default());
        }
    }
    match read(&edited) {
        Ok(found) if found == desired => Ok(edited),
        _ => Err(EditError::NotInPlace(fields.keys().map(String::as_str).collect::<Vec<_>>().join("`, `"))),
    }
}

pub(crate) fn read(text: &str) -> Result<Map<String, Value>, EditError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| EditError::Unreadable(error.to_string().lines().next().unwrap_or_default().to_owned()))
}

fn merge(into: &mut Map<String, Value>, key: &str, value: &Value) {
    match (into.get_mut(key), value) {
        (_, Value::Null) => {
            // `remove` would change the order of the other fields.
            into.shift_remove(key);
        }
        (Some(Value::Object(old)), Value::Object(new)) => {
            for (key, value) in new {
                merge(old, key, value);
            }
            if old.is_empty() {
                into.shift_remove(key);
            }
        }
        (_, value) => {
            into.insert(key.to_owned(), value.clone());
        }
    }
}

/// Replaces the lines of a top-level key with `new` (whole lines), or appends `new`.
fn replace(text: &str, key: &str, new: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let Some(first) = lines.iter().position(|line| sets_key(line, key)) else {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{end}{new}");
    };
    let belongs = |line: &&&str| line.trim().is_empty() || line.starts_with([' ', '\t', '#']) || line.starts_with("- ");
    let mut last = first + 1 + lines[first + 1..].iter().take_while(belongs).count();
    // Comments and empty lines before the next key belong to that key.
    while last > first + 1 && (lines[last - 1].trim().is_empty() || lines[last - 1].starts_with('#')) {
        last -= 1;
    }
    [&lines[..first].concat(), new, &lines[last..].concat()].concat()
}

fn sets_key(line: &str, key: &str) -> bool {
    let rest = line.strip_prefix(key).or_else(|| line.strip_prefix(&format!("\"{key}\"")));
    rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
}

fn line(key: &str, value: &Value) -> String {
    let value = match value {
        Value::String(text) if is_plain(text, "_./:@-") => text.clone(),
        value => flow(value),
    };
    format!("{key}: {value}\n")
}

/// The value in flow style, on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{}: {}", key_of(key), flow(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) if is_plain(text, "_./-") => text.clone(),
        value => value.to_string(),
    }
}

fn key_of(key: &str) -> String {
    if is_plain(key, "_./-") { key.to_owned() } else { Value::from(key).to_string() }
}

/// Whether YAML reads a text without quotes as the same text.
fn is_plain(text: &str, marks: &str) -> bool {
    const OTHERS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_' || first == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
        && !text.ends_with(':')
        && !OTHERS.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONFIG: &str = "\
# Orders of the shop.
name: orders
git_url: https://example.com/orders.git # ours

# Small.
resources:
  cpu: 256
  memory: 512

# Its own.
environment:
- {name: A, value: b}
branch: main
";

    fn set(text: &str, fields: &Value) -> String {
        edit(text, fields.as_object().unwrap()).unwrap()
    }

    #[test]
    fn changes_one_field_of_a_map_and_keeps_the_rest() {
        let edited = set(CONFIG, &json!({"resources": {"memory": 1024}}));
        let desired =
            CONFIG.replace("resources:\n  cpu: 256\n  memory: 512\n", "resources: {cpu: 256, memory: 1024}\n");
        assert_eq!(edited, desired);
    }

    #[test]
    fn appends_a_new_field_and_removes_a_null_field() {
        let edited = set(CONFIG, &json!({"branch": null, "commit": "0123456789012345678901234567890123456789"}));
        let desired = CONFIG.replace("branch: main\n", "commit: \"0123456789012345678901234567890123456789\"\n");
        assert_eq!(edited, desired);
    }

    #[test]
    fn replaces_a_list_that_is_not_indented() {
        let edited = set(CONFIG, &json!({"environment": [{"name": "NO", "value": "no"}]}));
        let desired =
            CONFIG.replace("environment:\n- {name: A, value: b}\n", "environment: [{name: \"NO\", value: \"no\"}]\n");
        assert_eq!(edited, desired);
    }

    #[test]
    fn keeps_the_text_if_no_value_changes() {
        assert_eq!(set(CONFIG, &json!({"resources": {"cpu": 256}, "branch": "main", "mode": null})), CONFIG);
    }

    #[test]
    fn rejects_a_text_that_it_cannot_edit_in_place() {
        let fields = json!({"branch": "other"});
        let error = edit("{name: orders, branch: main}\n", fields.as_object().unwrap()).unwrap_err();
        assert_eq!(error, EditError::NotInPlace("branch".to_owned()));
        assert!(matches!(edit("- a\n", fields.as_object().unwrap()), Err(EditError::Unreadable(_))));
    }

    #[test]
    fn reads_back_the_fields_of_a_new_config() {
        let fields = json!({
            "name": "orders", "git_url": "git@example.com:orders.git", "python_version": "3.12", "tag": "1e3",
            "environment": [{"name": "A", "value": "a: b # c"}], "scaling": {"max_capacity": 2}, "tags": {"cost:center": "on"},
        });
        let text = write(fields.as_object().unwrap());
        assert_eq!(Value::Object(read(&text).unwrap()), fields, "{text}");
    }
}
