//! The policy documents of a role, and when two of them mean the same.

use serde::Serialize;
use serde_json::{Value, json};

use crate::kinds::place::Place;

/// ECS tasks of this account may take the role, and nobody else. The conditions are AWS's guard against the confused
/// deputy (ECS developer guide, 'Task IAM role').
pub fn trust(place: &Place) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": place.account},
                "ArnLike": {"aws:SourceArn": format!("arn:{}:ecs:{}:{}:*", place.partition, place.region, place.account)},
            },
        }],
    })
}

/// Own prefix read and write, `repos/shared/` read. The slash before `*` matters: without it `orders` reads `orders-2`.
pub fn access(prefix: &str, place: &Place) -> Value {
    let bucket = format!("arn:{}:s3:::{}", place.partition, place.bucket);
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OwnObjects",
                "Effect": "Allow",
                "Action": [
                    "s3:AbortMultipartUpload",
                    "s3:DeleteObject",
                    "s3:GetObject",
                    "s3:ListMultipartUploadParts",
                    "s3:PutObject",
                ],
                "Resource": format!("{bucket}/{prefix}/*"),
            },
            {
                "Sid": "SharedObjects",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": format!("{bucket}/repos/shared/*"),
            },
            {
                "Sid": "List",
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": bucket,
                "Condition": {"StringLike": {"s3:prefix": [format!("{prefix}/*"), "repos/shared/*"]}},
            },
        ],
    })
}

/// A document as IAM gave it back: its text, since that is a fifth of what it takes to hold it parsed, and a thousand are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Document(String);

impl Document {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it says what is wanted. IAM nearly always gives back to the letter what it was sent. One that is no JSON says nothing
    /// that is wanted.
    pub fn says(&self, want: &Value) -> bool {
        let sent = want.to_string();
        self.0 == sent || serde_json::from_str(&self.0).is_ok_and(|live: Value| equivalent(&live, want))
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        Self(value.to_string())
    }
}

/// IAM may give a list of one back as its single element, and keeps no order in lists.
fn equivalent(left: &Value, right: &Value) -> bool {
    normalise(left) == normalise(right)
}

fn normalise(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.len() == 1 => normalise(&items[0]),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(normalise).collect();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), normalise(value))).collect();
            sorted.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(sorted.into_iter().collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_one_means_the_same_as_its_element() {
        let list = json!({"Statement": [{"Action": ["s3:GetObject"], "Effect": "Allow"}]});
        let single = json!({"Statement": {"Effect": "Allow", "Action": "s3:GetObject"}});
        assert!(equivalent(&list, &single));
    }

    #[test]
    fn a_document_that_is_no_json_says_nothing_that_is_wanted() {
        assert!(!Document::new("{").says(&json!({})));
        assert!(Document::new("{ }").says(&json!({})));
    }

    #[test]
    fn a_further_action_is_a_difference() {
        assert!(!equivalent(&json!({"Action": ["a", "b"]}), &json!({"Action": ["a"]})));
    }
}
