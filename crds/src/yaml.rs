//! Parses YAML into a tree that stores the position of every key and value.
//!
//! Numbers, booleans and text follow YAML 1.2. Duplicate keys, a second document, and a tree that exceeds the limits are
//! errors.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use crate::problem::Finding;

/// More than any config needs, and far below the limit of the stack.
const MAXIMUM_DEPTH: usize = 32;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// In bytes.
    pub span: Range<usize>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    /// In bytes.
    pub key_span: Range<usize>,
    pub node: Node,
}

/// One step on the path to a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Node {
    pub fn parse(text: &str) -> Result<Self, Finding> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            // The parser refuses more than 96 lines of comments in a row if it reports them.
            emit_comments: false,
            budget: serde_saphyr::budget! { max_depth: MAXIMUM_DEPTH },
        };
        serde_saphyr::from_str_with_options::<Self>(text, options).map_err(|error| {
            let span = error.location().map_or(0..0, |location| error_span(text, location));
            describe(&error, span)
        })
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The position of the value at `path`, or of its nearest ancestor that the file contains.
    pub fn span_of(&self, path: &[Step<'_>]) -> Range<usize> {
        let Some((step, rest)) = path.split_first() else {
            return self.span.clone();
        };
        let child = match (step, &self.value) {
            (Step::Key(key), Value::Map(_)) => self.entry(key).map(|entry| &entry.node),
            (Step::Index(index), Value::List(items)) => items.get(*index),
            _ => None,
        };
        child.map_or_else(|| self.span.clone(), |child| child.span_of(rest))
    }

    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(boolean) => (*boolean).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
        }
    }
}

fn bytes(location: Location) -> Range<usize> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset().unwrap_or(0)).unwrap_or(usize::MAX);
    let length = usize::try_from(span.byte_len().unwrap_or(0)).unwrap_or(0);
    start..start.saturating_add(length)
}

/// Computes the byte position of errors that only have line and column.
fn error_span(text: &str, location: Location) -> Range<usize> {
    if location.span().byte_offset().is_some() {
        return bytes(location);
    }
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX).saturating_sub(1);
    let column = usize::try_from(location.column()).unwrap_or(usize::MAX).saturating_sub(1);
    let line_start = text.split_inclusive('\n').take(line).map(str::len).sum::<usize>();
    let within: usize = text[line_start..].chars().take(column).map(char::len_utf8).sum();
    line_start + within..line_start + within + 1
}

fn describe(error: &serde_saphyr::Error, span: Range<usize>) -> Finding {
    match error {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map_or_else(|| "a key".to_owned(), |key| format!("`{key}`"));
            Finding::new(span, format!("{key} is set twice"), "remove one of the two")
        }
        serde_saphyr::Error::MultipleDocuments { .. } => {
            Finding::new(span, "the file contains a second YAML document", "write one config per file and remove `---`")
        }
        other => Finding::new(
            span,
            format!("invalid YAML: {}", UserMessageFormatter.format_message(other)),
            "check indentation, quotes and brackets on this line and the line before",
        ),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { span: bytes(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        serde_json::Number::from_u128(value)
            .map_or_else(|| self.visit_f64(f64::MAX), |number| Ok(Value::Number(number)))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        serde_json::Number::from_i128(value)
            .map_or_else(|| self.visit_f64(f64::MIN), |number| Ok(Value::Number(number)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("unsupported number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let node = map.next_value()?;
            entries.push(Entry { key_span: bytes(key.referenced), key: key.value, node });
        }
        Ok(Value::Map(entries))
    }
}
