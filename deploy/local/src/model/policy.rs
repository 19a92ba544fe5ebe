//! The decisions of IAM: whether the policies of a role allow an action on a resource.
//!
//! Conditions are not evaluated: a conditional Allow allows, and a conditional Deny does not deny. A permissions boundary limits
//! nothing. localcloud knows only the managed policies in [`MANAGED`]; others allow nothing.

use serde_json::Value;

use super::iam::Role;
use crate::protocol::fields::Fields;

/// The managed policies that localcloud knows, with the actions that they allow on every resource.
/// <https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonECSTaskExecutionRolePolicy.html>
const MANAGED: [(&str, &[&str]); 2] = [
    ("arn:aws:iam::aws:policy/AdministratorAccess", &["*"]),
    (
        "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy",
        &[
            "ecr:GetAuthorizationToken",
            "ecr:BatchCheckLayerAvailability",
            "ecr:GetDownloadUrlForLayer",
            "ecr:BatchGetImage",
            "logs:CreateLogStream",
            "logs:PutLogEvents",
        ],
    ),
];

impl Role {
    /// Whether the policies of the role allow this action on this resource.
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        let documents: Vec<Value> = self.inline.values().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let applies = |effect: &str, unconditional: bool| {
            documents.iter().flat_map(statements).any(|statement| {
                statement.text("Effect") == Some(effect)
                    && !(unconditional && statement.get("Condition").is_some())
                    && fits(statement, "Action", action)
                    && fits(statement, "Resource", resource)
            })
        };
        let managed = MANAGED.iter().filter(|(arn, _)| self.attached.contains_key(*arn));
        let by_managed = managed.flat_map(|(_, actions)| *actions).any(|pattern| is_match(pattern, action));
        (by_managed || applies("Allow", false)) && !applies("Deny", true)
    }
}

/// The statements of a policy document: a list, or a single one.
pub fn statements(document: &Value) -> &[Value] {
    match document.get("Statement") {
        Some(Value::Array(statements)) => statements,
        Some(statement) => std::slice::from_ref(statement),
        None => &[],
    }
}

/// The patterns in a field of a statement: a list, or a single one.
pub fn patterns<'a>(statement: &'a Value, field: &str) -> Vec<&'a str> {
    match statement.get(field) {
        Some(Value::String(pattern)) => vec![pattern],
        _ => statement.texts(field),
    }
}

/// Whether a statement names this action or resource, with `field` or with `NotField`.
fn fits(statement: &Value, field: &str, text: &str) -> bool {
    let named = |field: &str| patterns(statement, field).into_iter().any(|pattern| is_match(pattern, text));
    let inverse = format!("Not{field}");
    if statement.get(&inverse).is_some() { !named(&inverse) } else { named(field) }
}

/// Whether a text matches a pattern with `*` and `?`. Lower and upper case are equal, which IAM does for actions.
pub fn is_match(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    // The last `*`, and the first byte of the text after what it stands for.
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[from]) => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, from) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::time::Time;
    use crate::protocol::fields::Tags;

    fn role(inline: &[&str], attached: &[&str]) -> Role {
        let name = |number: usize| format!("policy-{number}");
        Role {
            id: "AROA".to_owned(),
            arn: "arn:aws:iam::123456789012:role/task".to_owned(),
            path: "/".to_owned(),
            created_at: Time::default(),
            trust: String::new(),
            description: None,
            max_session_seconds: 3_600,
            boundary: None,
            tags: Tags::new(),
            inline: inline.iter().enumerate().map(|(number, text)| (name(number), (*text).to_owned())).collect(),
            attached: attached.iter().map(|arn| ((*arn).to_owned(), String::new())).collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn patterns_match_as_in_iam() {
        for (pattern, text) in [
            ("*", ""),
            ("s3:Get*", "s3:GetObject"),
            ("S3:getobject", "s3:GetObject"),
            ("arn:aws:s3:::b/repos/*/x", "arn:aws:s3:::b/repos/a/b/x"),
            ("repository/?rders", "repository/orders"),
        ] {
            assert!(is_match(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("s3:Get", "s3:GetObject"), ("repos/orders/*", "repos/orders-2/a"), ("?", "")]
        {
            assert!(!is_match(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_role_allows_what_a_statement_names() {
        let allow = r#"{"Statement": [{"Effect": "Allow", "Action": ["ecr:*"], "Resource": "arn:orders"}]}"#;
        let except = r#"{"Statement": {"Effect": "Allow", "NotAction": "iam:*", "NotResource": ["arn:secret"]}}"#;
        let deny = r#"{"Statement": {"Effect": "Deny", "Action": "ecr:BatchGetImage", "Resource": "*"}}"#;
        assert!(role(&[allow], &[]).allows("ecr:BatchGetImage", "arn:orders"));
        assert!(!role(&[allow], &[]).allows("ecr:BatchGetImage", "arn:billing"));
        assert!(!role(&[allow], &[]).allows("logs:PutLogEvents", "arn:orders"));
        assert!(!role(&[allow, deny], &[]).allows("ecr:BatchGetImage", "arn:orders"));
        assert!(role(&[except], &[]).allows("logs:PutLogEvents", "arn:orders"));
        assert!(!role(&[except], &[]).allows("iam:PassRole", "arn:orders"));
        assert!(!role(&[except], &[]).allows("logs:PutLogEvents", "arn:secret"));
        assert!(!role(&[], &[]).allows("ecr:BatchGetImage", "arn:orders"));
    }

    #[test]
    fn a_known_managed_policy_allows_its_actions() {
        let execution = role(&[], &["arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"]);
        assert!(execution.allows("ecr:BatchGetImage", "arn:orders"));
        assert!(!execution.allows("secretsmanager:GetSecretValue", "arn:secret"));
        assert!(!role(&[], &["arn:aws:iam::123456789012:policy/own"]).allows("ecr:BatchGetImage", "arn:orders"));
    }
}
