//! Evaluates the policies that codeloc writes: `Allow` statements with actions, resources, and `StringLike` on `s3:prefix`. It panics on
//! anything else.

use serde_json::Value;

/// One request to AWS.
#[derive(Clone, Debug)]
pub struct Question {
    pub action: String,
    pub resource: String,
    /// The prefix of a list request, if it has one.
    pub prefix: Option<String>,
}

pub fn allows(policy: &Value, question: &Question) -> bool {
    let statements = policy["Statement"].as_array().expect("a list of statements");
    statements.iter().any(|statement| statement_allows(statement, question))
}

fn statement_allows(statement: &Value, question: &Question) -> bool {
    assert_eq!(statement["Effect"], "Allow", "codeloc writes only Allow statements");
    let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
    assert!(statement.as_object().expect("an object").keys().all(|key| known.contains(&key.as_str())), "{statement}");
    let actions = texts(&statement["Action"]);
    // Actions are not case-sensitive.
    let action = actions.iter().any(|action| like(&action.to_lowercase(), &question.action.to_lowercase()));
    let resource = texts(&statement["Resource"]).iter().any(|pattern| like(pattern, &question.resource));
    action && resource && holds(&statement["Condition"], question)
}

fn holds(condition: &Value, question: &Question) -> bool {
    let Some(operators) = condition.as_object() else { return true };
    operators.iter().all(|(operator, keys)| {
        assert_eq!(operator, "StringLike");
        keys.as_object().expect("keys").iter().all(|(key, patterns)| {
            assert_eq!(key, "s3:prefix");
            // A condition does not hold if the request lacks the key.
            question.prefix.as_ref().is_some_and(|prefix| texts(patterns).iter().any(|pattern| like(pattern, prefix)))
        })
    })
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().map(|item| item.as_str().expect("a text")).collect(),
        other => panic!("{other} is neither a text nor a list"),
    }
}

/// Wildcards of IAM: `*` matches any text, `?` one character.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for sign in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match sign {
                '*' => reached[at] || (at > 0 && next[at - 1]),
                '?' => at > 0 && reached[at - 1],
                plain => at > 0 && reached[at - 1] && text[at - 1] == plain,
            };
        }
        reached = next;
    }
    reached[text.len()]
}

#[test]
fn wildcards_match_as_in_iam() {
    for (pattern, text, matches) in [
        ("a/*", "a/", true),
        ("a/*", "a/b/c", true),
        ("a/*", "a", false),
        ("a/*", "ab/c", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*", "", true),
        ("arn:*:b", "arn:x:y:b", true),
    ] {
        assert_eq!(like(pattern, text), matches, "{pattern} {text}");
    }
}
