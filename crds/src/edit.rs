//! Changes of a config's text that leave everything else in it as it stands, comments included.

use serde_json::{Map, Value};

/// Why a text is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("the config is no YAML mapping: {0}")]
    Unreadable(String),
    /// Flow style at the top level, anchors, and whatever else is not one `key:` a line.
    #[error("the config is written in a way that `{0}` cannot be changed in place; change it by hand")]
    NotInPlace(String),
}

/// The first line of a config that is written anew: editors complete and check by it.
pub const SCHEMA_LINE: &str = "# yaml-language-server: $schema=../../crds/repository.schema.json";

/// A config of these fields, one a line.
pub fn write(fields: &Map<String, Value>) -> String {
    let mut text = format!("{SCHEMA_LINE}\n");
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        text.push_str(&line(key, value));
    }
    text
}

/// Sets fields. Structures are merged, field by field; lists are replaced; `null` takes a field away.
pub fn edit(text: &str, fields: &Map<String, Value>) -> Result<String, EditError> {
    let before = read(text)?;
    let mut wanted = before.clone();
    let mut edited = text.to_owned();
    for (key, value) in fields {
        merge(&mut wanted, key, value);
        let new = wanted.get(key).map(|value| line(key, value));
        if wanted.get(key) != before.get(key) {
            edited = replace(&edited, key, new.as_deref().unwrap_or_default());
        }
    }
    match read(&edited) {
        Ok(found) if found == wanted => Ok(edited),
        _ => Err(EditError::NotInPlace(fields.keys().map(String::as_str).collect::<Vec<_>>().join("`, `"))),
    }
}

pub(crate) fn read(text: &str) -> Result<Map<String, Value>, EditError> {
    serde_saphyr::from_str(text)
        .map_err(|error| EditError::Unreadable(error.to_string().lines().next().unwrap_or_default().to_owned()))
}

fn merge(into: &mut Map<String, Value>, key: &str, value: &Value) {
    match (into.get_mut(key), value) {
        (_, Value::Null) => {
            // Not `remove`: that would change the order of the others.
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

/// Puts `new` (whole lines) where the lines of a top-level key are, or at the end.
fn replace(text: &str, key: &str, new: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let Some(first) = lines.iter().position(|line| is_of(line, key)) else {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{end}{new}");
    };
    let belongs = |line: &&&str| line.trim().is_empty() || line.starts_with([' ', '\t', '#']) || line.starts_with("- ");
    let mut last = first + 1 + lines[first + 1..].iter().take_while(belongs).count();
    // Comments and empty lines in front of the next key are its own.
    while last > first + 1 && (lines[last - 1].trim().is_empty() || lines[last - 1].starts_with('#')) {
        last -= 1;
    }
    [&lines[..first].concat(), new, &lines[last..].concat()].concat()
}

fn is_of(line: &str, key: &str) -> bool {
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

/// On one line.
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

/// Whether a text is the same text to YAML without quotes.
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
    fn one_field_of_a_structure_changes_and_all_else_stays() {
        let edited = set(CONFIG, &json!({"resources": {"memory": 1024}}));
        let wanted = CONFIG.replace("resources:\n  cpu: 256\n  memory: 512\n", "resources: {cpu: 256, memory: 1024}\n");
        assert_eq!(edited, wanted);
    }

    #[test]
    fn a_new_field_comes_to_the_end_and_null_takes_one_away() {
        let edited = set(CONFIG, &json!({"branch": null, "commit": "0123456789012345678901234567890123456789"}));
        let wanted = CONFIG.replace("branch: main\n", "commit: \"0123456789012345678901234567890123456789\"\n");
        assert_eq!(edited, wanted);
    }

    #[test]
    fn a_list_that_is_not_indented_is_replaced_whole() {
        let edited = set(CONFIG, &json!({"environment": [{"name": "NO", "value": "no"}]}));
        let wanted =
            CONFIG.replace("environment:\n- {name: A, value: b}\n", "environment: [{name: \"NO\", value: \"no\"}]\n");
        assert_eq!(edited, wanted);
    }

    #[test]
    fn what_is_so_already_is_not_touched() {
        assert_eq!(set(CONFIG, &json!({"resources": {"cpu": 256}, "branch": "main", "mode": null})), CONFIG);
    }

    #[test]
    fn a_text_that_cannot_be_changed_in_place_is_refused() {
        let fields = json!({"branch": "other"});
        let error = edit("{name: orders, branch: main}\n", fields.as_object().unwrap()).unwrap_err();
        assert_eq!(error, EditError::NotInPlace("branch".to_owned()));
        assert!(matches!(edit("- a\n", fields.as_object().unwrap()), Err(EditError::Unreadable(_))));
    }

    #[test]
    fn a_config_that_is_written_anew_is_read_as_it_was_meant() {
        let fields = json!({
            "name": "orders", "git_url": "git@example.com:orders.git", "python_version": "3.12", "tag": "1e3",
            "environment": [{"name": "A", "value": "a: b # c"}], "scaling": {"max_capacity": 2}, "tags": {"cost:center": "on"},
        });
        let text = write(fields.as_object().unwrap());
        assert_eq!(Value::Object(read(&text).unwrap()), fields, "{text}");
    }
}
