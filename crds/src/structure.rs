//! Checks a YAML tree against the schema: types, unknown and missing fields, enumerations, ranges.
//!
//! The module `check` enforces the patterns of the schema, with messages that explain more than a regular expression.

use std::ops::Range;

use serde_json::Value as Json;

use crate::problem::Finding;
use crate::yaml::{Node, Value};

/// All violations of the schema. `text` is the content of the file.
pub(crate) fn findings(root: &Node, schema: &Json, text: &str) -> Vec<Finding> {
    let mut walk = Walk { text, findings: Vec::new() };
    walk.node(root, schema, "");
    walk.findings
}

/// After this many findings codeloc computes no more suggestions, because errors only count the rest.
const MAX_SUGGESTIONS: usize = 100;

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
                // `yes` and `on` are booleans in YAML 1.1, but text in YAML 1.2 and in editors.
                if self.text.get(node.span.clone()).is_some_and(|written| written.trim() != value.to_string()) {
                    self.add(&node.span, format!("`{name}` must be true or false"), format!("use {value}"));
                }
            }
            (None, _) => {}
            (Some(expected), _) => self.wrong_type(node, schema, expected, name),
        }
    }

    fn map(&mut self, node: &Node, schema: &Json, name: &str) {
        let no_properties = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&no_properties);
        let mut suggested = Vec::new();
        for entry in node.entries() {
            let within = if name.is_empty() { entry.key.clone() } else { format!("{name}.{}", entry.key) };
            if let Some(property) = properties.get(&entry.key) {
                self.value_at_key(&entry.node, &entry.key_span, property, &within);
            } else if schema["additionalProperties"].is_object() {
                self.value_at_key(&entry.node, &entry.key_span, &schema["additionalProperties"], &within);
            } else {
                let known = || properties.keys().map(String::as_str);
                let near = if self.findings.len() < MAX_SUGGESTIONS { nearest(&entry.key, known()) } else { None };
                suggested.extend(near);
                let hint = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if self.findings.len() >= MAX_SUGGESTIONS => String::new(),
                    None => format!("known fields here: {}", known().collect::<Vec<_>>().join(", ")),
                };
                self.add(&entry.key_span, format!("unknown field `{within}`"), hint);
            }
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            // A misspelled field is already reported as unknown.
            if node.entry(required).is_none() && !suggested.contains(&required) {
                let place = if name.is_empty() { "the config".to_owned() } else { format!("`{name}`") };
                // A block map has no start mark, so the error points to its first key.
                let span = node.entries().first().map_or(&node.span, |entry| &entry.key_span);
                let example = schema["properties"][required]["examples"][0].as_str().unwrap_or("…");
                self.add(span, format!("{place} has no `{required}`"), format!("add `{required}: {example}`"));
            }
        }
    }

    /// An empty value has no position, so the error points to its key.
    fn value_at_key(&mut self, node: &Node, key_span: &Range<usize>, schema: &Json, name: &str) {
        if matches!(node.value, Value::Null) {
            self.add(key_span, format!("`{name}` has no value"), "set a value, or remove the line");
        } else {
            self.node(node, schema, name);
        }
    }

    fn wrong_type(&mut self, node: &Node, schema: &Json, expected: &str, name: &str) {
        let name = if name.is_empty() { "the config".to_owned() } else { format!("`{name}`") };
        let expected_words = match expected {
            "string" => "text",
            "integer" => "a whole number",
            "boolean" => "true or false",
            "array" => "a list",
            _ => "a map of fields",
        };
        let found = match &node.value {
            Value::Null => "empty",
            Value::Boolean(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map of fields",
        };
        let written = self.text.get(node.span.clone()).unwrap_or_default().trim();
        let allowed = schema["enum"].as_array().filter(|allowed| !allowed.contains(&Json::from(written)));
        let hint = match (expected, &node.value) {
            ("string", Value::Boolean(_) | Value::Number(_)) => match allowed {
                Some(allowed) => {
                    let allowed: Vec<String> = allowed.iter().map(Json::to_string).collect();
                    format!("use one of these values, with quotes: {}", allowed.join(", "))
                }
                None => format!("quote it: \"{written}\""),
            },
            ("integer", Value::Text(text)) if text.parse::<u32>().is_ok() => {
                format!("remove the quotes: {text}")
            }
            ("boolean", Value::Text(text)) if matches!(text.as_str(), "true" | "false") => {
                format!("remove the quotes: {text}")
            }
            ("boolean", _) => "use true or false".to_owned(),
            ("array", _) => "write one item per line, each after `- `".to_owned(),
            ("object", _) => "write one `field: value` per line".to_owned(),
            _ => format!("use {expected_words} here"),
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
            Some(near) => format!("did you mean `{near}`?"),
            None => "use one of these values".to_owned(),
        };
        self.add(&node.span, format!("`{name}` is {}, not one of {}", plain(value), words.join(", ")), hint);
    }

    fn range(&mut self, node: &Node, schema: &Json, name: &str, number: &serde_json::Number) {
        let (Some(minimum), Some(maximum)) = (schema["minimum"].as_i64(), schema["maximum"].as_i64()) else {
            return;
        };
        if !number.as_i64().is_some_and(|value| (minimum..=maximum).contains(&value)) {
            let message = format!("`{name}` is {number}, not {minimum} to {maximum}");
            self.add(&node.span, message, "use a whole number in this range");
        }
    }
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The maximum edit distance between a suggestion and the word in the file.
fn max_distance(candidate: &str) -> usize {
    candidate.chars().count().max(3) / 3
}

/// The nearest known word, if it is near enough to suggest.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let length = word.chars().count();
    known
        // The distance is at least the difference in length. Checking that first keeps long keys cheap.
        .filter(|candidate| length.abs_diff(candidate.chars().count()) <= max_distance(candidate))
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= max_distance(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Number of insertions, deletions, replacements and swaps of neighbors that turn one word into the other.
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
    fn counts_a_swap_of_neighbors_as_one_edit() {
        assert_eq!(edit_distance("barnch", "branch"), 1);
        assert_eq!(edit_distance("", "tag"), 3);
        assert_eq!(edit_distance("memory", "memory"), 0);
    }

    #[test]
    fn suggests_only_near_words() {
        let known = ["memory", "cpu", "architecture"];
        assert_eq!(nearest("memroy", known.into_iter()), Some("memory"));
        assert_eq!(nearest("gpu", known.into_iter()), Some("cpu"));
        assert_eq!(nearest("replicas", known.into_iter()), None);
    }
}
