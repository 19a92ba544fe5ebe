//! Parses and checks the text of a config.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::check;
use crate::error::ConfigError;
use crate::fields::LocationFields;
use crate::git::{possible_secrets, url_problem};
use crate::location::Location;
use crate::problem::Finding;
use crate::schema::SCHEMA;
use crate::structure;
use crate::yaml::{Node, Step, Value};

/// A checked config with its text and positions, so that checks across files can report a line.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub location: Location,
    path: String,
    text: String,
    /// Position of `s3_prefix`, or of `name` if the file does not set it.
    prefix_span: Range<usize>,
    /// Position of each prefix in `access.write`.
    grant_spans: BTreeMap<String, Range<usize>>,
}

impl Parsed {
    pub(crate) fn error_at_prefix(&self, message: String, hint: String) -> ConfigError {
        ConfigError::new(&self.path, &self.text, vec![Finding::new(self.prefix_span.clone(), message, hint)])
    }

    /// The error for prefixes in `access.write` that belong to no location.
    pub(crate) fn error_at_grants(&self, prefixes: &[&str]) -> Option<ConfigError> {
        let finding = |prefix: &&str| {
            let span = self.grant_spans.get(*prefix).cloned().unwrap_or_else(|| self.prefix_span.clone());
            let message = format!("`access.write` grants `{prefix}`, which belongs to no location");
            Finding::new(span, message, "grant the prefix of a location that has a config, or remove the line")
        };
        let findings: Vec<Finding> = prefixes.iter().map(finding).collect();
        (!findings.is_empty()).then(|| ConfigError::new(&self.path, &self.text, findings))
    }
}

/// Reads one `config.yml`. Errors show `path`. If `path` has a parent folder, the folder must have the name of the location.
pub fn parse(path: &str, text: &str) -> Result<Location, ConfigError> {
    read(path, text).map(|parsed| parsed.location)
}

/// Like [`parse`], but keeps positions for [`crate::check_fleet`].
pub fn read(path: &str, text: &str) -> Result<Parsed, ConfigError> {
    let fail = |findings| ConfigError::new(path, text, findings);
    let root = Node::parse(text).map_err(|finding| fail(vec![finding]))?;
    let shown = redacted(text, &root);
    let fail = |findings| ConfigError::new(path, &shown, findings);
    let violations = structure::findings(&root, &SCHEMA, text);
    if !violations.is_empty() {
        return Err(fail(violations));
    }
    let fields: LocationFields = serde_json::from_value(root.to_json())
        .map_err(|error| fail(vec![Finding::new(root.span.clone(), error.to_string(), "correct this field")]))?;
    let location = check::location(fields, &root, path).map_err(fail)?;
    let prefix = if root.entry("s3_prefix").is_some() { "s3_prefix" } else { "name" };
    let prefix_span = root.span_of(&[Step::Key(prefix)]);
    let grants = root.entry("access").and_then(|access| access.node.entry("write")).map(|write| &write.node.value);
    let grant_spans = match grants {
        Some(Value::List(items)) => items
            .iter()
            .filter_map(|item| match &item.value {
                Value::Text(prefix) => Some((prefix.clone(), item.span.clone())),
                _ => None,
            })
            .collect(),
        _ => BTreeMap::new(),
    };
    Ok(Parsed { location, path: path.to_owned(), text: text.to_owned(), prefix_span, grant_spans })
}

/// The text with possible secrets masked. An invalid `git_url` can contain credentials where [`crate::mask_credentials`] does not
/// expect them.
fn redacted(text: &str, root: &Node) -> String {
    let mut shown = text.to_owned();
    let Some(entry) = root.entry("git_url") else {
        return shown;
    };
    let span = entry.node.span.clone();
    let Some(written) =
        text.get(span.clone()).filter(|written| url_problem(written.trim_matches(['"', '\''])).is_some())
    else {
        return shown;
    };
    for part in possible_secrets(written) {
        shown.replace_range(span.start + part.start..span.start + part.end, &"*".repeat(part.len()));
    }
    shown
}
