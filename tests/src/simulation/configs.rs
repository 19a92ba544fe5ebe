//! The configs of a history.

use super::history::{NAMES, SECRETS};
use crate::config;

/// A config of a location; each variant is different.
pub fn config_variant(name: &str, variant: u8) -> String {
    let more = match variant {
        0 => String::new(),
        1 => "resources: {cpu: 512, memory: 2048}\n".to_owned(),
        2 => "environment: [{name: MODE, value: other}]\n".to_owned(),
        3 => "scaling: {min_capacity: 1, max_capacity: 1}\n".to_owned(),
        4 => "scaling: {min_capacity: 2, max_capacity: 4, cpu_threshold: 50}\n".to_owned(),
        6 => secret(SECRETS[0]),
        7 => secret(SECRETS[1]),
        8 => format!("s3_prefix: teams/{name}\n"),
        9 => "access: {read: [repos/other]}\n".to_owned(),
        10 => "resources: {architecture: X86_64}\n".to_owned(),
        11 => many_tags("before"),
        12 => many_tags("after"),
        13 => "run_resources: {cpu: 1024, memory: 4096}\n".to_owned(),
        _ => "tags: {team: data}\n".to_owned(),
    };
    format!("{}{more}", config(name))
}

/// A config line with this secret.
pub fn secret(arn: &str) -> String {
    format!("secrets: [{{name: TOKEN, value_from: '{arn}'}}]\n")
}

/// A config line with 26 tags. Two such lines with different prefixes have more tags than a resource of AWS can have.
pub fn many_tags(prefix: &str) -> String {
    let tags: Vec<String> = (0..26).map(|number| format!("{prefix}-{number}: value")).collect();
    format!("tags: {{{}}}\n", tags.join(", "))
}

/// The config under another name. A location has a prefix for itself.
pub fn renamed(text: &str, name: &str, to: &str) -> String {
    let pairs = ["name: ", "s3_prefix: teams/"].map(|field| [format!("{field}{name}\n"), format!("{field}{to}\n")]);
    pairs.iter().fold(text.to_owned(), |text, [from, to]| text.replace(from, to))
}

/// The config with this mode and protection.
pub fn with_mode(text: &str, mode: &str, protect: bool) -> String {
    let kept = text.lines().filter(|line| !line.starts_with("mode:") && !line.starts_with("deletion:"));
    let added = [format!("mode: {mode}"), format!("deletion: {{protect: {protect}}}"), String::new()];
    kept.map(str::to_owned).chain(added).collect::<Vec<String>>().join("\n")
}

/// Whether an [`Event::Invalid`](super::history::Event::Invalid) wrote the config.
pub fn is_invalid(text: &str) -> bool {
    text.contains("git_url: [")
}

/// Whether codeloc changes and deletes everything of a location with this config.
pub fn is_enforced(text: &str) -> bool {
    !text.contains("mode: detect") && !text.contains("mode: suspended") && !is_protected(text)
}

pub fn is_protected(text: &str) -> bool {
    text.contains("protect: true")
}

/// The minimum and the maximum number of tasks.
pub fn bounds(text: &str) -> (i64, i64) {
    let number = |field: &str, default: i64| {
        let found = text.split_once(field).map(|(_, rest)| rest.trim_start());
        let digits = found.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(default)
    };
    (number("min_capacity:", 1), number("max_capacity:", 2))
}

/// The location whose repository a config uses: a renamed location keeps its repository.
pub fn branch(text: &str) -> &'static str {
    NAMES.into_iter().find(|name| text.contains(&format!("git.test/{name}.git"))).unwrap_or("")
}
