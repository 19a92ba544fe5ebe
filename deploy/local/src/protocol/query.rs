//! The query protocol's input: `Tags.member.1.Key=a` becomes `{"Tags": [{"Key": "a"}]}`.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

pub fn parse(body: &[u8]) -> Value {
    let mut root = Value::Object(Map::new());
    for pair in String::from_utf8_lossy(body).split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name);
        let path: Vec<&str> = name.split('.').filter(|part| !part.is_empty()).collect();
        if !path.is_empty() {
            insert(&mut root, &path, decode(value));
        }
    }
    root
}

pub fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// A new position appends to the list whatever its number, so that a large number allocates nothing.
fn insert(into: &mut Value, path: &[&str], text: String) {
    match path {
        [] => *into = Value::String(text),
        ["member", position, rest @ ..] => {
            if !into.is_array() {
                *into = Value::Array(Vec::new());
            }
            let Some(list) = into.as_array_mut() else {
                return;
            };
            let position: usize = position.parse().unwrap_or(usize::MAX);
            if position == 0 || position > list.len() {
                list.push(Value::Null);
            }
            let index = position.clamp(1, list.len()) - 1;
            insert(&mut list[index], rest, text);
        }
        [name, rest @ ..] => {
            if !into.is_object() {
                *into = Value::Object(Map::new());
            }
            let Some(fields) = into.as_object_mut() else {
                return;
            };
            insert(fields.entry((*name).to_owned()).or_insert(Value::Null), rest, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbered_members_become_a_list() {
        let body = b"Action=TagRole&Tags.member.1.Key=a+b&Tags.member.1.Value=%3D&Tags.member.2.Key=c&Empty=";
        let tags = json!([{"Key": "a b", "Value": "="}, {"Key": "c"}]);
        assert_eq!(parse(body), json!({"Action": "TagRole", "Tags": tags, "Empty": ""}));
    }
}
