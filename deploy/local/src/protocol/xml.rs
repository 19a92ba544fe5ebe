//! Output documents as XML: objects become elements, lists their `member`s.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::api_error::ApiError;
use super::response::respond;

/// The query protocol's envelope around an operation's output.
pub fn query_answer(operation: &str, namespace: &str, output: &Value) -> Response<Bytes> {
    let mut body = format!("<{operation}Response xmlns=\"{namespace}\">");
    element(&mut body, &format!("{operation}Result"), output);
    let _ =
        write!(body, "<ResponseMetadata><RequestId>localcloud</RequestId></ResponseMetadata></{operation}Response>");
    respond(200, "text/xml", body)
}

pub fn query_error(error: &ApiError, code: &str, namespace: &str) -> Response<Bytes> {
    let message = escape(&error.message);
    let body = format!(
        "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>localcloud</RequestId></ErrorResponse>"
    );
    respond(error.status, "text/xml", body)
}

fn element(out: &mut String, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Array(items) => {
            let _ = write!(out, "<{name}>");
            for item in items {
                element(out, "member", item);
            }
            let _ = write!(out, "</{name}>");
        }
        Value::Object(fields) => {
            let _ = write!(out, "<{name}>");
            for (field, value) in fields {
                element(out, field, value);
            }
            let _ = write!(out, "</{name}>");
        }
        Value::String(text) => {
            let _ = write!(out, "<{name}>{}</{name}>", escape(text));
        }
        Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "<{name}>{value}</{name}>");
        }
    }
}

pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_becomes_elements_and_members() {
        let mut out = String::new();
        element(&mut out, "R", &json!({"A": "a<b", "L": [{"K": 1}], "N": null, "E": []}));
        assert_eq!(out, "<R><A>a&lt;b</A><L><member><K>1</K></member></L><E></E></R>");
    }
}
