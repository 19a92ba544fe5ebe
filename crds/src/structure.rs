//! Holds a tree against the schema: types, unknown and missing fields, enumerations, ranges.
//!
//! The schema an editor uses is the one enforced here; what it says with patterns is checked by `check`, with messages
//! that say more than a regular expression does.

use std::ops::Range;

use serde_json::Value as Json;

use crate::error::Finding;
use crate::yaml::{Node, Value};

/// Everything in which the tree departs from the schema. `text` is the file.
pub(crate) fn findings(root: &Node, schema: &Json, text: &str) -> Vec<Finding> {
    let mut walk = Walk { text, findings: Vec::new() };
    walk.node(root, schema, "");
    walk.findings
}

/// Beyond so many findings no suggestion is looked for: they are only counted.
const SUGGESTIONS: usize = 100;

struct Walk<'a> {
    text: &'a str,
    findings: Vec<Finding>,
}

impl Walk<'_> {
    fn add(&mut self, span: &Range<usize>, message: String, hint: impl Into<String>) {
        self.findings.push(Finding::new(span.clone(), message, hint));
    }

    fn node(&mut self, node: &Node, schema: &Json, name: &str) {
        let expected = schema["type"].as_str();
        match (expected, &node.value) {
            (Some("object"), Value::Map(_)) => self.map(node, schema, name),
            (Some("array"), Value::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.node(item, &schema["items"], &format!("{name}[{index}]"));
                }
            }
            (Some("string"), Value::Text(text)) => {
                self.enumeration(node, schema, name, &Json::from(text.as_str()));
            }
            (Some("integer"), Value::Number(number)) if number.is_u64() || number.is_i64() => {
                self.enumeration(node, schema, name, &Json::Number(number.clone()));
                self.range(node, schema, name, number);
            }
            (Some("boolean"), Value::Boolean(value)) => {
                // YAML 1.1 takes `yes` and `on` for booleans, YAML 1.2 and editors do not.
                if self.text.get(node.span.clone()).is_some_and(|written| written.trim() != value.to_string()) {
                    self.add(&node.span, format!("`{name}` must be true or false"), format!("write {value}"));
                }
            }
            (None, _) => {}
            (Some(expected), _) => self.wrong_type(node, expected, name),
        }
    }

    fn map(&mut self, node: &Node, schema: &Json, name: &str) {
        let no_properties = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&no_properties);
        let mut meant = Vec::new();
        for entry in node.entries() {
            let within = if name.is_empty() { entry.key.clone() } else { format!("{name}.{}", entry.key) };
            if let Some(property) = properties.get(&entry.key) {
                self.value_at_key(&entry.node, &entry.key_span, property, &within);
            } else if schema["additionalProperties"].is_object() {
                self.value_at_key(&entry.node, &entry.key_span, &schema["additionalProperties"], &within);
            } else {
                let known = || properties.keys().map(String::as_str);
                let near = if self.findings.len() < SUGGESTIONS { nearest(&entry.key, known()) } else { None };
                meant.extend(near);
                let hint = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if self.findings.len() >= SUGGESTIONS => String::new(),
                    None => format!("known fields here: {}", known().collect::<Vec<_>>().join(", ")),
                };
                self.add(&entry.key_span, format!("unknown field `{within}`"), hint);
            }
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            // A misspelt field has been reported as that.
            if node.entry(required).is_none() && !meant.contains(&required) {
                let place = if name.is_empty() { "the config".to_owned() } else { format!("`{name}`") };
                // The first key stands for a block map, which has no beginning of its own.
                let span = node.entries().first().map_or(&node.span, |entry| &entry.key_span);
                let example = schema["properties"][required]["examples"][0].as_str().unwrap_or("…");
                self.add(span, format!("`{required}` is missing in {place}"), format!("add `{required}: {example}`"));
            }
        }
    }

    /// A forgotten value has no place of its own: the key stands for it.
    fn value_at_key(&mut self, node: &Node, key_span: &Range<usize>, schema: &Json, name: &str) {
        if matches!(node.value, Value::Null) {
            self.add(key_span, format!("`{name}` has no value"), "give it a value, or remove the line");
        } else {
            self.node(node, schema, name);
        }
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, name: &str) {
        let name = if name.is_empty() { "the config".to_owned() } else { format!("`{name}`") };
        let expected_words = match expected {
            "string" => "text",
            "integer" => "a whole number",
            "boolean" => "true or false",
            "array" => "a list",
            _ => "a map of fields",
        };
        let found = match &node.value {
            Value::Null => "nothing",
            Value::Boolean(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map of fields",
        };
        let written = self.text.get(node.span.clone()).unwrap_or_default().trim();
        let hint = match (expected, &node.value) {
            ("string", Value::Boolean(_) | Value::Number(_)) => format!("quote it: \"{written}\""),
            ("integer", Value::Text(text)) if text.parse::<u32>().is_ok() => {
                format!("without quotes: {text}")
            }
            ("boolean", Value::Text(text)) if matches!(text.as_str(), "true" | "false") => {
                format!("without quotes: {text}")
            }
            ("boolean", _) => "write true or false".to_owned(),
            ("array", _) => "write one item per line, each behind `- `".to_owned(),
            ("object", _) => "write `field: value`, one per line".to_owned(),
            _ => format!("write {expected_words} here"),
        };
        self.add(&node.span, format!("{name} must be {expected_words}, not {found}"), hint);
    }

    fn enumeration(&mut self, node: &Node, schema: &Json, name: &str, value: &Json) {
        let Some(allowed) = schema["enum"].as_array() else {
            return;
        };
        if allowed.contains(value) {
            return;
        }
        let words: Vec<String> = allowed.iter().map(plain).collect();
        let near = nearest(&plain(value), words.iter().map(String::as_str)).filter(|_| value.is_string());
        let hint = match near {
            Some(near) => format!("did you mean `{near}`? It is one of {}", words.join(", ")),
            None => format!("write one of {}", words.join(", ")),
        };
        self.add(&node.span, format!("`{name}` cannot be {}", plain(value)), hint);
    }

    fn range(&mut self, node: &Node, schema: &Json, name: &str, number: &serde_json::Number) {
        let (Some(minimum), Some(maximum)) = (schema["minimum"].as_i64(), schema["maximum"].as_i64()) else {
            return;
        };
        if !number.as_i64().is_some_and(|value| (minimum..=maximum).contains(&value)) {
            let message = format!("`{name}` cannot be {number}");
            self.add(&node.span, message, format!("write a whole number from {minimum} to {maximum}"));
        }
    }
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// How many edits a word may be away from what was meant.
fn near_enough(candidate: &str) -> usize {
    candidate.chars().count().max(3) / 3
}

/// The nearest of the known words, where it is near enough to have been meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let length = word.chars().count();
    known
        // No fewer edits than characters too many or too few: a key of any length costs no more than reading it.
        .filter(|candidate| length.abs_diff(candidate.chars().count()) <= near_enough(candidate))
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= near_enough(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_is_one_edit() {
        assert_eq!(edit_distance("barnch", "branch"), 1);
        assert_eq!(edit_distance("", "tag"), 3);
        assert_eq!(edit_distance("memory", "memory"), 0);
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let known = ["memory", "cpu", "architecture"];
        assert_eq!(nearest("memroy", known.into_iter()), Some("memory"));
        assert_eq!(nearest("gpu", known.into_iter()), Some("cpu"));
        assert_eq!(nearest("replicas", known.into_iter()), None);
    }
}
