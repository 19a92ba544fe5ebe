//! Changes values in a YAML text and keeps every other byte of it: comments, line ends, quotes and indentation.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::syntax::{Content, Entry, Node, parse};

type Fields = Map<String, Value>;

/// The text after `old`, its current content, is changed to `new`. `None` if this is impossible in place. The caller checks the result.
pub(crate) fn rewrite(text: &str, old: &Fields, new: &Fields) -> Option<String> {
    let tree = parse(text)?;
    let Content::Map { flow: false, entries } = &tree.root.content else { return None };
    let newline = if text.split_once('\n').is_some_and(|(first, _)| first.ends_with('\r')) { "\r\n" } else { "\n" };
    let mut rewriter = Rewriter { text, newline, comments: tree.comments, patches: Vec::new() };
    rewriter.entries(entries, old, new, false)?;
    let added = added(old, new).map(|(key, value)| line(key, value));
    rewriter.insert_lines(text.len(), "", added);
    Some(rewriter.apply())
}

/// One line with a key and its value, without the line break.
pub(crate) fn line(key: &str, value: &Value) -> String {
    format!("{}: {}", key_of(key), rendered(value, false, ""))
}

fn added<'a>(old: &Fields, new: &'a Fields) -> impl Iterator<Item = (&'a String, &'a Value)> {
    new.iter().filter(|(key, _)| !old.contains_key(*key))
}

struct Rewriter<'a> {
    text: &'a str,
    newline: &'static str,
    comments: Vec<Range<usize>>,
    /// Bytes to replace. They do not overlap, except for a line break at the end of the text.
    patches: Vec<(Range<usize>, String)>,
}

impl Rewriter<'_> {
    fn apply(mut self) -> String {
        self.patches.sort_by_key(|(range, _)| range.start);
        let (mut result, mut done) = (String::with_capacity(self.text.len()), 0);
        for (range, new) in self.patches {
            result.push_str(&self.text[done..range.start.max(done)]);
            result.push_str(&new);
            done = done.max(range.end);
        }
        result + &self.text[done..]
    }

    /// Changes one value. `lead` is the end of the `:` or `-` before it.
    fn value(&mut self, lead: usize, node: &Node, old: &Value, new: &Value, in_flow: bool) {
        if old == new {
            return;
        }
        let before = self.patches.len();
        let inside = match (&node.content, old, new) {
            (Content::Map { flow, entries }, Value::Object(old), Value::Object(new)) if !new.is_empty() => {
                self.map(*flow, in_flow || *flow, entries, old, new)
            }
            (Content::List { flow, items }, Value::Array(old), Value::Array(new)) if !new.is_empty() => {
                self.list(*flow, in_flow || *flow, items, old, new)
            }
            _ => None,
        };
        if inside.is_none() {
            self.patches.truncate(before);
            self.replace(lead, node, new, in_flow);
        }
    }

    /// Replaces a whole value. Comments inside it move to the lines above it.
    fn replace(&mut self, lead: usize, node: &Node, new: &Value, in_flow: bool) {
        let is_inline = match node.content {
            Content::Inline => !node.span.is_empty(),
            Content::Block => false,
            Content::Map { flow, .. } | Content::List { flow, .. } => flow,
        };
        let (range, space) = if is_inline {
            (node.span.clone(), "")
        } else {
            (lead..if node.span.is_empty() { lead } else { node.span.end }, " ")
        };
        let old = if is_inline { &self.text[range.clone()] } else { "" };
        let new = format!("{space}{}", rendered(new, in_flow, old));
        let start = self.line_start(lead);
        let indent = self.text[start..].len() - self.text[start..].trim_start_matches(' ').len();
        let comments: Vec<String> = self
            .comments
            .iter()
            .filter(|comment| range.contains(&comment.start))
            .map(|comment| format!("{}{}{}", " ".repeat(indent), &self.text[comment.clone()], self.newline))
            .collect();
        if !comments.is_empty() {
            self.patches.push((start..start, comments.concat()));
        }
        self.patches.push((range, new));
    }

    /// Changes and removes entries of a map.
    fn entries(&mut self, entries: &[Entry], old: &Fields, new: &Fields, in_flow: bool) -> Option<()> {
        // An alias or a merge key has entries that the text does not show.
        if entries.len() != old.len() {
            return None;
        }
        for entry in entries {
            let old = old.get(&entry.key)?;
            match new.get(&entry.key) {
                Some(new) => self.value(entry.lead, &entry.value, old, new, in_flow),
                None if in_flow => {}
                None => self.remove_lines(entry.key_span.start, entry.end())?,
            }
        }
        Some(())
    }

    fn map(&mut self, flow: bool, in_flow: bool, entries: &[Entry], old: &Fields, new: &Fields) -> Option<()> {
        self.entries(entries, old, new, in_flow)?;
        let added = added(old, new);
        if flow {
            let part =
                |entry: &Entry| Part { span: entry.key_span.start..entry.end(), stays: new.contains_key(&entry.key) };
            let parts: Vec<Part> = entries.iter().map(part).collect();
            return self.flow(&parts, added.map(|(key, value)| flow_entry(key, value)).collect());
        }
        let (first, last) = (entries.first()?, entries.last()?);
        let indent = self.indent(first.key_span.start)?;
        let end = self.line_end(last.end());
        self.insert_lines(end, &indent, added.map(|(key, value)| line(key, value)));
        Some(())
    }

    fn list(&mut self, flow: bool, in_flow: bool, items: &[Node], old: &[Value], new: &[Value]) -> Option<()> {
        if items.len() != old.len() {
            return None;
        }
        let same = |(left, right): &(&Value, &Value)| left == right;
        let head = old.iter().zip(new).take_while(same).count();
        let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(same).count();
        let (old, new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
        let paired = old.len().min(new.len());
        for (index, (old, new)) in old.iter().zip(new).enumerate() {
            let item = &items[head + index];
            let lead = if flow { item.span.start } else { self.dash(item)? + 1 };
            self.value(lead, item, old, new, in_flow);
        }
        let (removed, added) = (head + paired..head + old.len(), &new[paired..]);
        if flow {
            let part =
                |(index, item): (usize, &Node)| Part { span: item.span.clone(), stays: !removed.contains(&index) };
            let parts: Vec<Part> = items.iter().enumerate().map(part).collect();
            let at_end = head + paired == items.len();
            return if added.is_empty() || at_end {
                self.flow(&parts, added.iter().map(|value| rendered(value, true, "")).collect())
            } else {
                None
            };
        }
        for item in &items[removed] {
            self.remove_lines(self.dash(item)?, item.span.end)?;
        }
        let indent = self.column(self.dash(items.first()?)?)?;
        let at = match (head + paired).checked_sub(1) {
            Some(before) => self.line_end(items[before].span.end.max(self.dash(&items[before])? + 1)),
            None => self.line_start(self.dash(&items[0])?),
        };
        let added = added.iter().map(|value| format!("- {}", rendered(value, false, "")));
        self.insert_lines(at, &indent, added);
        Some(())
    }

    /// Removes parts of a flow collection, and adds parts at its end.
    fn flow(&mut self, parts: &[Part], added: Vec<String>) -> Option<()> {
        let first = parts.iter().position(|part| part.stays)?;
        for (index, part) in parts.iter().enumerate().filter(|(_, part)| !part.stays) {
            let range = if index < first {
                part.span.start..parts[index + 1].span.start
            } else {
                parts[index - 1].span.end..part.span.end
            };
            self.remove(range)?;
        }
        let end = parts.last()?.span.end;
        self.patches.extend(added.into_iter().map(|new| (end..end, format!(", {new}"))));
        Some(())
    }

    /// Removes bytes of a flow collection that contain no comment.
    fn remove(&mut self, range: Range<usize>) -> Option<()> {
        if self.comments.iter().any(|comment| range.contains(&comment.start)) {
            return None;
        }
        self.patches.push((range, String::new()));
        Some(())
    }

    /// Removes the lines from `start` to `end`, with a comment at the end of the last one.
    fn remove_lines(&mut self, start: usize, end: usize) -> Option<()> {
        self.column(start)?;
        let line_end = self.line_end(end);
        let rest = self.text[end..line_end].trim_start();
        if !rest.is_empty() && !rest.starts_with('#') {
            return None;
        }
        let mut line_start = self.line_start(start);
        // Without a line break at its end, the text does not get one.
        if line_end == self.text.len() && !self.text.ends_with('\n') {
            let before = &self.text[..line_start];
            let before = before.strip_suffix('\n').unwrap_or(before);
            line_start = before.strip_suffix('\r').unwrap_or(before).len();
        }
        self.patches.push((line_start..line_end, String::new()));
        Some(())
    }

    fn insert_lines(&mut self, at: usize, indent: &str, lines: impl Iterator<Item = String>) {
        let ends_line = at == 0 || self.text[..at].ends_with('\n');
        let newline = self.newline;
        self.patches.extend(lines.map(|line| {
            let line = if ends_line { format!("{indent}{line}{newline}") } else { format!("{newline}{indent}{line}") };
            (at..at, line)
        }));
    }

    /// The position of the dash before an item of a block list.
    fn dash(&self, item: &Node) -> Option<usize> {
        self.text[..item.span.start].trim_end().strip_suffix('-').map(str::len)
    }

    /// The white space before `at`, which is the first text of its line.
    fn column(&self, at: usize) -> Option<String> {
        let before = &self.text[self.line_start(at)..at];
        before.chars().all(|c| c == ' ').then(|| before.to_owned())
    }

    /// White space as wide as the text before `at`, which is white space and dashes of lists.
    fn indent(&self, at: usize) -> Option<String> {
        let before = &self.text[self.line_start(at)..at];
        before.chars().all(|c| matches!(c, ' ' | '-')).then(|| " ".repeat(before.len()))
    }

    fn line_start(&self, at: usize) -> usize {
        // A byte order mark precedes the first line.
        let first = if self.text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        self.text[..at].rfind('\n').map_or(first, |newline| newline + 1)
    }

    /// The start of the next line.
    fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline + 1)
    }
}

/// An entry or item of a flow collection.
struct Part {
    span: Range<usize>,
    stays: bool,
}

/// A value on one line. A text gets the quotes of `old`, the text that it replaces.
fn rendered(value: &Value, in_flow: bool, old: &str) -> String {
    // Inside a flow collection, `:` or `@` can have a meaning.
    let marks = if in_flow { "_./-" } else { "_./:@-" };
    match value {
        Value::String(text) if old.starts_with('\'') && !text.contains(needs_escape) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        Value::String(text) if !old.starts_with('"') && is_plain(text, marks) => text.clone(),
        Value::String(text) => quoted(text),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| flow_entry(key, value)).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| rendered(value, true, "")).collect();
            format!("[{}]", values.join(", "))
        }
        value => value.to_string(),
    }
}

fn flow_entry(key: &str, value: &Value) -> String {
    format!("{}: {}", key_of(key), rendered(value, true, ""))
}

fn key_of(key: &str) -> String {
    if is_plain(key, "_./-") { key.to_owned() } else { quoted(key) }
}

/// In double quotes. JSON leaves some characters as they are that YAML does not allow.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    let escaped =
        json.chars().map(|c| if needs_escape(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() });
    escaped.collect()
}

fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether YAML reads a text without quotes as the same text.
fn is_plain(text: &str, marks: &str) -> bool {
    const OTHERS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_' || first == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
        && !text.ends_with(':')
        && !OTHERS.contains(&text.to_lowercase().as_str())
}
