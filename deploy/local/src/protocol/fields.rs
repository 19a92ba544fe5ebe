//! Fields of input documents. The query protocol writes numbers and booleans as text.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::api_error::ApiError;

pub type Tags = BTreeMap<String, String>;

pub trait Fields {
    fn text(&self, name: &str) -> Option<&str>;
    fn number(&self, name: &str) -> Option<i64>;
    fn flag(&self, name: &str) -> Option<bool>;
    /// The elements of a list; empty when the field is absent.
    fn items(&self, name: &str) -> &[Value];

    /// A required text that is not empty.
    fn need(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name).filter(|text| !text.is_empty()).ok_or_else(|| ApiError::missing(name))
    }

    fn texts(&self, name: &str) -> Vec<&str> {
        self.items(name).iter().filter_map(Value::as_str).collect()
    }

    /// Tags as a list of pairs, with either spelling of AWS (`key` or `Key`).
    fn tags(&self, name: &str) -> Tags {
        let pair = |tag: &Value| {
            let key = tag.text("key").or(tag.text("Key"))?;
            let value = tag.text("value").or(tag.text("Value")).unwrap_or_default();
            Some((key.to_owned(), value.to_owned()))
        };
        self.items(name).iter().filter_map(pair).collect()
    }

    /// A map of texts.
    fn text_map(&self, name: &str) -> BTreeMap<String, String>;
}

impl Fields for Value {
    fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn items(&self, name: &str) -> &[Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn text_map(&self, name: &str) -> BTreeMap<String, String> {
        let map = self.get(name).and_then(Value::as_object);
        let pairs = map.into_iter().flatten();
        pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }
}

/// `[{"key": …, "value": …}]`, as ECS writes tags.
pub fn lower_tags(tags: &Tags) -> Value {
    tags.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

/// `[{"Key": …, "Value": …}]`, as the other services write tags.
pub fn upper_tags(tags: &Tags) -> Value {
    tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

/// The named fields of `input` that are present and not null.
pub fn pick(input: &Value, names: &[&str]) -> Map<String, Value> {
    let given = |name: &&str| Some(((*name).to_owned(), input.get(*name).filter(|value| !value.is_null())?.clone()));
    names.iter().filter_map(given).collect()
}
