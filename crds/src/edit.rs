//! Edits the text of a config and keeps the rest of it unchanged, including comments.

use serde_json::{Map, Value};

use crate::rewrite::{line, rewrite};

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

/// Writes a new config, one field per line. Omits fields that are `null`.
pub fn write(fields: &Map<String, Value>) -> String {
    let lines = merged(Map::new(), fields);
    let lines = lines.iter().flat_map(|(key, value)| [line(key, value), "\n".to_owned()]);
    format!("{SCHEMA_LINE}\n{}", lines.collect::<String>())
}

/// Sets fields, as a JSON merge patch (RFC 7396) does: merges maps field by field, replaces lists, and removes fields that are `null`.
/// Keeps every other byte of the text. A comment inside a value that is replaced as a whole moves to the line above it.
pub fn edit(text: &str, fields: &Map<String, Value>) -> Result<String, EditError> {
    let before = read(text)?;
    let desired = merged(before.clone(), fields);
    if desired == before {
        return Ok(text.to_owned());
    }
    let not_in_place = || EditError::NotInPlace(fields.keys().map(String::as_str).collect::<Vec<_>>().join("`, `"));
    let edited = rewrite(text, &before, &desired).ok_or_else(not_in_place)?;
    match read(&edited) {
        Ok(found) if found == desired => Ok(edited),
        _ => Err(not_in_place()),
    }
}

pub(crate) fn read(text: &str) -> Result<Map<String, Value>, EditError> {
    let options = serde_saphyr::options! { with_snippet: false, emit_comments: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| EditError::Unreadable(error.to_string().lines().next().unwrap_or_default().to_owned()))
}

fn merged(mut fields: Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    for (key, value) in patch {
        merge(&mut fields, key, value);
    }
    fields
}

/// A map that loses its last field is removed with it. `null` for an absent field changes nothing.
fn merge(into: &mut Map<String, Value>, key: &str, value: &Value) {
    let value = match value {
        Value::Null => None,
        Value::Object(patch) => {
            let old = into.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
            let new = merged(old, patch);
            (!new.is_empty() || patch.is_empty()).then_some(Value::Object(new))
        }
        value => Some(value.clone()),
    };
    match value {
        Some(value) => _ = into.insert(key.to_owned(), value),
        // `remove` would change the order of the other fields.
        None => _ = into.shift_remove(key),
    }
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
        assert_eq!(edited, CONFIG.replace("  memory: 512\n", "  memory: 1024\n"));
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
        assert_eq!(edited, CONFIG.replace("{name: A, value: b}", "{name: \"NO\", value: \"no\"}"));
    }

    /// A config with a comment at every place.
    const COMMENTED: &str = "\
# Our shop.
name: orders # ours
resources: # small
  # measured in May: less than 512 is killed
  cpu: 256 # one quarter
  # and this
  memory: 512   # half
environment:
  # for the index
  - name: A # first
    value: 'b' # quoted
  - {name: B, value: \"c\"} # second
access:
  read: [ raw,   # the raw data
    curated ]    # the rest
branch: main # FROZEN until 2027
# The end.
";

    #[test]
    fn an_edit_keeps_every_comment_and_every_other_byte() {
        for (fields, old, new) in [
            (json!({"branch": "next"}), "branch: main #", "branch: next #"),
            (json!({"resources": {"cpu": 512}}), "cpu: 256 #", "cpu: 512 #"),
            (json!({"resources": {"memory": 1024}}), "memory: 512   #", "memory: 1024   #"),
            (
                json!({"resources": {"architecture": "ARM64"}}),
                "memory: 512   # half\n",
                "memory: 512   # half\n  architecture: ARM64\n",
            ),
            (json!({"resources": {"memory": null}}), "  memory: 512   # half\n", ""),
            (json!({"tags": {"team": "shop"}}), "# The end.\n", "# The end.\ntags: {team: shop}\n"),
            (
                json!({"environment": [{"name": "A", "value": "it's"}, {"name": "B", "value": "d"}]}),
                "'b' # quoted\n  - {name: B, value: \"c\"}",
                "'it''s' # quoted\n  - {name: B, value: \"d\"}",
            ),
            (
                json!({"environment": [{"name": "A", "value": "b"}, {"name": "B", "value": "c"}, {"name": "C", "value": "x"}]}),
                "# second\n",
                "# second\n  - {name: C, value: x}\n",
            ),
            (json!({"environment": [{"name": "A", "value": "b"}]}), "  - {name: B, value: \"c\"} # second\n", ""),
            (
                json!({"environment": [{"name": "A", "value": "b", "more": 1}, {"name": "B", "value": "c"}]}),
                "# quoted\n",
                "# quoted\n    more: 1\n",
            ),
            (json!({"access": {"read": ["raw", "final"]}}), "curated ]", "final ]"),
            (json!({"access": {"read": ["raw", "curated", "x"]}}), "curated ]", "curated, x ]"),
            (json!({"access": {"write": ["x"]}}), "# the rest\n", "# the rest\n  write: [x]\n"),
        ] {
            assert_eq!(COMMENTED.matches(old).count(), 1, "{old}");
            let desired = COMMENTED.replace(old, new);
            assert_eq!(set(COMMENTED, &fields), desired, "{fields}");
            let windows = desired.replace('\n', "\r\n");
            assert_eq!(set(&COMMENTED.replace('\n', "\r\n"), &fields), windows, "{fields} with CRLF");
            let marked = format!("\u{feff}{COMMENTED}");
            assert_eq!(set(&marked, &fields), format!("\u{feff}{desired}"), "{fields} with a byte order mark");
            let unended = COMMENTED.trim_end_matches("# The end.\n").trim_end();
            if !old.contains("end") {
                let desired = unended.replace(old, new);
                assert_eq!(set(unended, &fields), desired, "{fields} without a line break at the end");
            }
        }
    }

    #[test]
    fn comments_of_a_replaced_value_move_above_it() {
        let edited = set(COMMENTED, &json!({"access": {"read": ["x"]}, "environment": "none"}));
        let start = "environment:\n  # for";
        let (before, after) = (COMMENTED.find(start).unwrap(), COMMENTED.find("branch:").unwrap());
        let desired = format!(
            "{}# for the index\n# first\n# quoted\nenvironment: none # second\naccess:\n  # the raw data\n  \
             read: [x]    # the rest\n{}",
            &COMMENTED[..before],
            &COMMENTED[after..]
        );
        assert_eq!(edited, desired);
    }

    #[test]
    fn an_addition_and_its_removal_give_the_same_text() {
        for text in [CONFIG, CONFIG.trim_end(), COMMENTED, "name: orders", "name: orders\r\n", "name: a\r\nbranch: b"] {
            let added = set(text, &json!({"mode": "detect"}));
            assert_eq!(set(&added, &json!({"mode": null})), text, "{added}");
        }
    }

    #[test]
    fn a_null_for_an_absent_field_changes_nothing() {
        for fields in [
            json!({"mode": null}),
            json!({"scaling": {"max_capacity": null}}),
            json!({"scaling": {"max_capacity": null, "a": {"b": null}}}),
            json!({"resources": {"architecture": null}}),
        ] {
            assert_eq!(set(CONFIG, &fields), CONFIG, "{fields}");
        }
        let new = write(json!({"name": "a", "scaling": {"max_capacity": null}}).as_object().unwrap());
        assert_eq!(new, format!("{SCHEMA_LINE}\nname: a\n"));
    }

    #[test]
    fn removes_a_map_with_its_last_field() {
        let edited = set(CONFIG, &json!({"resources": {"memory": null, "cpu": null}}));
        assert_eq!(edited, CONFIG.replace("resources:\n  cpu: 256\n  memory: 512\n", ""));
    }

    #[test]
    fn sets_values_that_were_empty_or_on_several_lines() {
        for (text, value, desired) in [
            ("name: a\ntag:\nbranch: b\n", "v1", "name: a\ntag: v1\nbranch: b\n"),
            ("name: a\ntag: # none yet\nbranch: b\n", "v1", "name: a\ntag: v1 # none yet\nbranch: b\n"),
            ("name: a\ntag: |\n  v\n  # 1\n\nbranch: b\n", "v1", "name: a\ntag: v1\n\nbranch: b\n"),
            ("name: a\ntag: two\n  lines\nbranch: b\n", "v1", "name: a\ntag: v1\nbranch: b\n"),
        ] {
            assert_eq!(set(text, &json!({"tag": value})), desired);
        }
    }

    #[test]
    fn an_anchor_with_an_alias_is_not_changed() {
        let text = "name: a\nbranch: &b main\ntag: *b\n";
        let edited = edit(text, json!({"branch": "next"}).as_object().unwrap());
        assert_eq!(edited, Err(EditError::NotInPlace("branch".to_owned())));
        assert_eq!(set(text, &json!({"name": "b"})), text.replace("name: a", "name: b"));
    }

    #[test]
    fn a_long_comment_does_not_prevent_an_edit() {
        let text = format!("name: orders\nresources:\n{}  cpu: 256\n", "  # more\n".repeat(500));
        assert_eq!(set(&text, &json!({"resources": {"cpu": 512}})), text.replace("256", "512"));
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
