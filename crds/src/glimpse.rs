//! Extracts names and prefixes from an invalid config, to find the locations that it may describe.
//!
//! Extraction is lenient on purpose: a false match keeps a location, a missed one could delete it.

use std::collections::BTreeSet;

use crate::location::LocationName;
use crate::yaml::{Node, Value};

/// Names and prefixes that a file sets for its own location.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glimpse {
    pub names: BTreeSet<LocationName>,
    pub prefixes: BTreeSet<String>,
}

/// Reads the values from the YAML tree. If the file is not valid YAML, scans for lines that look like these fields.
pub fn glimpse(text: &str) -> Glimpse {
    let tree = Node::parse(text).ok().filter(|root| matches!(root.value, Value::Map(_)));
    let values = |field: &str| match &tree {
        Some(root) => match root.entry(field).map(|entry| &entry.node.value) {
            Some(Value::Text(value)) => vec![value.clone()],
            _ => vec![],
        },
        None => scan(text, field),
    };
    Glimpse {
        names: values("name").iter().filter_map(|name| LocationName::new(name).ok()).collect(),
        prefixes: values("s3_prefix").into_iter().collect(),
    }
}

/// An invalid file has one or two such lines. The limit bounds the AWS calls that codeloc makes for their values.
const MAX_VALUES: usize = 10;

/// The values after `field:` at the start of a line.
fn scan(text: &str, field: &str) -> Vec<String> {
    let quotes = ['"', '\''];
    let value = |line: &str| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '{' | '"' | '\''));
        let rest = line.strip_prefix(field)?.trim_start_matches(quotes).trim_start().strip_prefix(':')?;
        let rest = rest.trim_start().trim_start_matches(quotes);
        let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '}' | '#');
        rest.split(end).next().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    text.lines().filter_map(value).take(MAX_VALUES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        glimpse(text).names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_the_name_in_an_invalid_file() {
        for text in [
            "name: orders\ngit_ulr: x\n",
            "\u{feff}name: \"orders\" # the old one\r\nresources: {cpu: [\r\n",
            "name: orders\nbranch: a: b\n",
            "{name: 'orders', git_url: ",
            "\tname: orders\n",
            "'name' : orders\nname: orders\n",
        ] {
            assert_eq!(names(text), ["orders"], "{text:?}");
        }
    }

    #[test]
    fn keeps_every_name_of_a_duplicate_key() {
        assert_eq!(names("name: orders\nname: billing\n"), ["billing", "orders"]);
    }

    #[test]
    fn ignores_values_that_are_not_the_name_of_the_location() {
        for text in ["", "name:\n", "name: 1\n", "names: orders\n", "name: Not_A_Name\n", "tags: {name: orders}\n"] {
            assert_eq!(names(text), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn finds_the_prefix_in_an_invalid_file() {
        let prefixes = |text: &str| glimpse(text).prefixes.into_iter().collect::<Vec<_>>();
        assert_eq!(prefixes("name: a\ns3_prefix: teams/a\nbanch: x\n"), ["teams/a"]);
        assert_eq!(prefixes("name: a\ns3_prefix: \"teams/a\"\nbranch: [\n"), ["teams/a"]);
    }
}
