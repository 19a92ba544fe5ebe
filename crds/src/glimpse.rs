//! What can be made out of a config that does not pass: which locations it may mean, and which prefixes these use.
//!
//! It is read more generously than any config: each mistake in this direction keeps something, and deletes nothing.

use std::collections::BTreeSet;

use crate::repository::RepositoryName;
use crate::yaml::{Node, Value};

/// Names and prefixes that a file mentions as its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glimpse {
    pub names: BTreeSet<RepositoryName>,
    pub prefixes: BTreeSet<String>,
}

/// Reads what it can: values of the YAML tree, or where there is none, of lines that look like these fields.
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
        names: values("name").iter().filter_map(|name| RepositoryName::new(name).ok()).collect(),
        prefixes: values("s3_prefix").into_iter().collect(),
    }
}

/// A file that is torn has one such line, or two. Each is asked for in AWS.
const MOST: usize = 10;

/// The values behind `field:` at the beginnings of lines.
fn scan(text: &str, field: &str) -> Vec<String> {
    let quotes = ['"', '\''];
    let value = |line: &str| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '{' | '"' | '\''));
        let rest = line.strip_prefix(field)?.trim_start_matches(quotes).trim_start().strip_prefix(':')?;
        let rest = rest.trim_start().trim_start_matches(quotes);
        let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '}' | '#');
        rest.split(end).next().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    text.lines().filter_map(value).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        glimpse(text).names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_made_out_of_a_file_however_broken_it_is() {
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
    fn every_name_that_is_given_twice_is_kept() {
        assert_eq!(names("name: orders\nname: billing\n"), ["billing", "orders"]);
    }

    #[test]
    fn what_is_no_name_of_the_file_itself_is_passed_over() {
        for text in ["", "name:\n", "name: 1\n", "names: orders\n", "name: Not_A_Name\n", "tags: {name: orders}\n"] {
            assert_eq!(names(text), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn the_prefix_is_made_out_as_the_name_is() {
        let prefixes = |text: &str| glimpse(text).prefixes.into_iter().collect::<Vec<_>>();
        assert_eq!(prefixes("name: a\ns3_prefix: teams/a\nbanch: x\n"), ["teams/a"]);
        assert_eq!(prefixes("name: a\ns3_prefix: \"teams/a\"\nbranch: [\n"), ["teams/a"]);
    }
}
